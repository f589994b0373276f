import io
import logging
from datetime import UTC, datetime
from pathlib import Path

import pytest
from result_maker import make_result

from zsad_agent.inspection import HeatmapFolderSink, PrintSink
from zsad_agent.inspection.sinks import result_line
from zsad_agent.messages import FoundRegion, Latency
from zsad_core.types import Verdict

RESULT = make_result(
    12,
    captured_at=datetime(2026, 11, 22, 10, 28, 3, 123_000, tzinfo=UTC),
    anomaly_score=0.731,
    regions=(FoundRegion(bbox_xywh=(120, 44, 61, 30), peak=0.93), FoundRegion(bbox_xywh=(0, 0, 4, 4), peak=0.6)),
    latency_ms=Latency(capture_to_result=41.2, inference=28.9),
)
UNKNOWN = make_result(
    12,
    verdict=Verdict.UNKNOWN,
    captured_at=RESULT.captured_at,
    reason="camera lost",
    latency_ms=RESULT.latency_ms,
)


def test_printed_line_has_verdict_score_and_region() -> None:
    assert result_line(RESULT) == (
        "10:28:03.123Z cam0 #12  ANOMALOUS  0.731  (threshold 0.500)  41 ms  2 regions, worst at 120,44 61x30"
    )
    named = RESULT.model_copy(update={"source_name": "SN\n1.png", "regions": ()})
    assert result_line(named).endswith("(threshold 0.500)  41 ms  SN\\n1.png")
    assert result_line(UNKNOWN) == "10:28:03.123Z cam0 #12  UNKNOWN      -    (threshold 0.500)  41 ms  camera lost"


def test_closed_output_ends_only_the_printing(caplog: pytest.LogCaptureFixture) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    sink = PrintSink(Gone())
    with caplog.at_level(logging.WARNING):
        sink.accept(RESULT, None)
        sink.accept(RESULT, None)
    assert [record.message for record in caplog.records] == ["results are no longer printed: Broken pipe"]


def test_heatmaps_are_written_by_camera_and_number(tmp_path: Path) -> None:
    sink = HeatmapFolderSink(tmp_path / "new" / "folder")
    sink.accept(RESULT, b"jpeg")
    sink.accept(UNKNOWN, None)
    assert (tmp_path / "new" / "folder" / "cam0-12.jpg").read_bytes() == b"jpeg"
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1


def test_folder_that_cannot_be_written_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    sink = HeatmapFolderSink(tmp_path / "file" / "folder")
    with caplog.at_level(logging.WARNING):
        sink.accept(RESULT, b"jpeg")
        sink.accept(RESULT, b"jpeg")
    assert len(caplog.records) == 1
