import dataclasses
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import cv2
import jsonschema
import numpy as np
import pytest
from mqtt_listener import wait_until
from plain_pictures import UNCHECKED

from zsad_agent.capture import CameraStatus, Capture, Captured, Fault, UnknownPace
from zsad_agent.config import CameraConfig, DecisionConfig, HeatmapConfig, SourceConfig
from zsad_agent.inspection import Identity, Inspected, Inspector, Pipeline, Sink, Station, View
from zsad_agent.inspection.pipeline import MOST_AT_ONCE
from zsad_agent.messages import Result, schema_text
from zsad_agent.model import Model, ModelInUse
from zsad_agent.sources import FolderDropSource, Picture
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue
from zsad_core.errors import DeviceError, ImageError, ProfileError, SourceError, SpoolError
from zsad_core.facts import ScoreRule
from zsad_core.types import Frame, Prediction, ProfileName, Verdict

DARK, BRIGHT = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 255, np.uint8)
GREY = np.full((40, 60, 3), 200, np.uint8)
RESULT_SCHEMA = json.loads(schema_text(Result))


class FakeSource:
    """Pictures, errors to raise, or functions that give a picture."""

    description = "fake"

    def __init__(self, *steps: Any, lossless: bool = True) -> None:
        self.lossless, self.endless = lossless, not lossless
        self._steps = list(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Picture | None:
        step = self._steps.pop(0) if self._steps else None
        if isinstance(step, BaseException):
            raise step
        image = step() if callable(step) else step
        return Picture(image=image) if image is not None else None


class FakePredictor:
    """Darkness of the whole picture, after `before` was called."""

    def __init__(self, before: Callable[[np.ndarray], None] = lambda image: None) -> None:
        self._before = before

    def is_taught(self, product: str) -> bool:
        return False

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        self._before(image_bgr)
        darkness = 1.0 - float(image_bgr.mean()) / 255
        return Prediction(anomaly_map=np.full((8, 8), darkness, np.float32), anomaly_score=darkness)


class ListSink:
    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.results: list[dict[str, Any]] = []
        self.heatmaps: list[bytes | None] = []
        self._before = before

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        self._before()
        self.results.append(json.loads(result.encode()))
        self.heatmaps.append(heatmap)


def make_model(predictor: FakePredictor, name: str = "darkness", threshold: float = 0.5) -> Model:
    manifest = SimpleNamespace(
        name=name,
        version="1",
        threshold=SimpleNamespace(value=threshold),
        region_level=0.5,
        model=SimpleNamespace(score=ScoreRule(top_fraction=0.0, pool=1)),
    )
    return Model(predictor=predictor, bundle=SimpleNamespace(manifest=manifest, sha256="0" * 64))  # type: ignore[arg-type]


def make_inspector(
    predictor: FakePredictor,
    status: CameraStatus | None = None,
    *,
    camera: CameraConfig = CameraConfig(product="object"),  # noqa: B008 - frozen
    lossless: bool = True,
) -> Inspector:
    return Inspector(
        camera,
        Identity(device_id="line3", boot="b007"),
        ModelInUse(make_model(predictor)),
        status or CameraStatus("cam0", lambda camera, state: None),
        View(),
        heatmap=HeatmapConfig(),
        lossless=lossless,
    )


class FakeLine:
    """A whole pipeline on fakes, with a camera for each of `sources`."""

    def __init__(
        self,
        *sources: FakeSource,
        predictor: FakePredictor | None = None,
        sink: Sink | None = None,
        max_frames: int | None = None,
    ) -> None:
        self.states: list[dict[str, Any]] = []
        self.sink = sink or ListSink()
        self.stop = threading.Event()
        slots_changed = threading.Condition()
        seq = itertools.count(1)
        self.lines = []
        for number, source in enumerate(sources):
            slot: FrameQueue[Captured] = (
                BoundedQueue(condition=slots_changed) if source.lossless else LatestQueue(slots_changed)
            )
            config = SourceConfig(reopen_max_s=0.01, name=f"cam{number}", health=UNCHECKED)
            status = CameraStatus(config.name, lambda camera, state: self.states.append(state))
            capture = Capture(source=source, config=config, slot=slot, status=status, stop=self.stop, seq=seq)
            inspector = make_inspector(predictor or FakePredictor(), status)
            self.lines.append(Station(capture=capture, slot=slot, inspector=inspector, status=status))
        self.slot = self.lines[0].slot
        self.slots_changed = slots_changed
        self.max_frames = max_frames
        self.pipeline = self.make_pipeline()

    def make_pipeline(self, inspector: Inspector | None = None) -> Pipeline:
        """With another inspector of the first camera, if one is given."""
        if inspector is not None:
            self.lines[0] = dataclasses.replace(self.lines[0], inspector=inspector)
        stores = hasattr(self.sink, "accept_all")
        return Pipeline(
            stations=self.lines,
            slots_changed=self.slots_changed,
            store=self.sink if stores else None,
            sinks=[] if stores else [self.sink],
            stop=self.stop,
            max_frames=self.max_frames,
        )

    def run(self) -> list[dict[str, Any]]:
        self.pipeline.start()
        assert self.pipeline.wait(10)
        assert isinstance(self.sink, ListSink)
        return self.sink.results


def test_every_picture_has_one_valid_result_in_order() -> None:
    line = FakeLine(FakeSource(BRIGHT, DARK, *[BRIGHT] * 30))
    results = line.run()
    assert [result["seq"] for result in results] == list(range(1, 33))
    assert len({result["id"] for result in results}) == 32
    assert [result["verdict"] for result in results[:3]] == ["ok", "anomalous", "ok"]
    assert results[0]["id"] == "line3-b007-1"
    assert results[1]["regions"] == [{"bbox_xywh": [0, 0, 60, 40], "peak": 1.0}]
    assert results[1]["frame_wh"] == [60, 40]
    for result in results:
        jsonschema.validate(result, RESULT_SCHEMA)
    assert isinstance(line.sink, ListSink)
    heatmap = line.sink.heatmaps[1]
    assert heatmap is not None
    assert cv2.imdecode(np.frombuffer(heatmap, np.uint8), cv2.IMREAD_COLOR) is not None
    assert line.pipeline.failure is None


class SlowDisk(ListSink):
    """A sink that is at its first result until five more wait."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.five_wait = threading.Event()

    def accept_all(self, results: list[tuple[Result, bytes | None]], on_durable: object) -> None:
        assert self.five_wait.wait(10)
        self.batches.append(len(results))
        for result, heatmap in results:
            self.accept(result, heatmap)


class MemorySink(ListSink):
    """Takes results as a publisher does whose disk takes none."""

    def __init__(self) -> None:
        super().__init__()
        self.on_durable: list[Callable[[], None] | None] = []

    def accept_all(
        self,
        results: list[tuple[Result, bytes | None]],
        on_durable: list[Callable[[], None] | None],
    ) -> None:
        for result, heatmap in results:
            self.accept(result, heatmap)
        self.on_durable += on_durable


def test_file_is_moved_when_its_result_is_durable_and_stays_when_it_is_lost(tmp_path: Path) -> None:
    sink = MemorySink()
    line = FakeLine(FolderDropSource(tmp_path, stale_after_s=5.0), sink=sink)  # type: ignore[arg-type]
    line.pipeline.start()
    for number, name in enumerate(("a.png", "b.png", "c.png"), start=1):
        cv2.imwrite(str(tmp_path / name), BRIGHT)
        wait_until(lambda number=number: len(sink.on_durable) == number)  # type: ignore[misc]
    time.sleep(0.6)
    assert not (tmp_path / "inspected").exists()
    for told in (sink.on_durable[0], sink.on_durable[2]):  # the second is given up
        assert told is not None
        told()
    wait_until(lambda: {path.name for path in (tmp_path / "inspected").glob("*")} == {"a.png", "c.png"})
    time.sleep(0.6)
    assert (tmp_path / "b.png").exists()
    line.pipeline.stop()


def test_result_names_its_file_and_the_file_is_moved_by_its_verdict(tmp_path: Path) -> None:
    def refuse_grey(image: np.ndarray) -> None:
        if image[0, 0, 0] == 200:
            raise ImageError("not this one")

    pictures = {b"SN-1.png": BRIGHT, b"SN-2.png": DARK, b"SN-3.png": GREY, b"SN-\xff\n.png": BRIGHT}
    for name, image in pictures.items():
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (tmp_path / "SN-4.png").write_bytes(b"\x89PNG no more")
    source = FolderDropSource(tmp_path, stale_after_s=5.0, sort_by_verdict=True, grace_s=0.1)
    line = FakeLine(source, predictor=FakePredictor(refuse_grey))  # type: ignore[arg-type]
    line.pipeline.start()
    wait_until(lambda: not list(tmp_path.glob("*.png")))
    line.pipeline.stop()
    assert isinstance(line.sink, ListSink)
    for result in line.sink.results:
        jsonschema.validate(result, RESULT_SCHEMA)
    assert {result["source_name"]: result["verdict"] for result in line.sink.results} == {
        "SN-1.png": "ok",
        "SN-2.png": "anomalous",
        "SN-3.png": "unknown",
        "SN-4.png": "unknown",
        "SN-\ufffd\n.png": "ok",
    }
    moved = {os.fsencode(path.relative_to(tmp_path)) for path in tmp_path.glob("*/**/*.png")}
    assert moved == {
        b"inspected/ok/SN-1.png",
        b"inspected/ok/SN-\xff\n.png",
        b"inspected/anomalous/SN-2.png",
        b"inspected/unknown/SN-3.png",
        b"unreadable/SN-4.png",
    }


def test_file_is_moved_at_once_without_a_store(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), BRIGHT)
    line = FakeLine(FolderDropSource(tmp_path, stale_after_s=5.0))  # type: ignore[arg-type]
    line.pipeline.start()
    wait_until(lambda: (tmp_path / "inspected" / "a.png").exists())
    line.pipeline.stop()


def test_hanging_rename_delays_no_other_camera_and_no_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share_answers, rename = threading.Event(), os.rename

    def hanging(*names: Any, **folders: Any) -> None:
        share_answers.wait(60)
        rename(*names, **folders)

    def frame_now() -> np.ndarray:
        time.sleep(0.005)
        return GREY

    monkeypatch.setattr(os, "rename", hanging)
    cv2.imwrite(str(tmp_path / "a.png"), BRIGHT)
    folder = FolderDropSource(tmp_path, stale_after_s=30.0)
    line = FakeLine(folder, FakeSource(*[frame_now] * 100_000, lossless=False))  # type: ignore[arg-type]
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    results = line.sink.results
    wait_until(lambda: any(result["camera"] == "cam0" for result in results))
    time.sleep(0.5)
    before = len(results)
    wait_until(lambda: len(results) >= before + 50)
    assert line.pipeline.stuck(1.0) is None
    line.pipeline.stop()
    assert line.pipeline.wait(1.0)
    assert not line.pipeline.wait_capture(0.1)
    share_answers.set()
    assert line.pipeline.wait_capture(5)
    assert (tmp_path / "inspected" / "a.png").exists()


def test_at_the_end_only_files_with_a_durable_result_are_moved(tmp_path: Path) -> None:
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"{number}.png"), BRIGHT)
    folder = FolderDropSource(tmp_path, stale_after_s=30.0)
    slow = FakePredictor(lambda image: time.sleep(0.2))
    line = FakeLine(folder, predictor=slow)  # type: ignore[arg-type]
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    results = line.sink.results
    wait_until(lambda: len(results) == 2)
    line.pipeline.stop()
    assert line.pipeline.wait(2)
    assert line.pipeline.wait_capture(1)
    moved = sorted(path.name for path in (tmp_path / "inspected").iterdir())
    assert len(moved) == len(results) == line.pipeline.inspected_frames < 9
    assert len(list(tmp_path.glob("*.png"))) == 9 - len(moved)


def test_results_waiting_for_a_slow_disk_are_stored_together_in_order() -> None:
    sink = SlowDisk()

    def note(image: np.ndarray) -> None:
        if line.pipeline.inspected_frames >= 5:  # one is with the sink, four wait, and this is the next
            sink.five_wait.set()

    line = FakeLine(FakeSource(*[BRIGHT] * 20), predictor=FakePredictor(note), sink=sink)
    line.pipeline.start()
    assert line.pipeline.wait(10)
    assert [result["seq"] for result in sink.results] == list(range(1, 21))
    assert sum(sink.batches) == 20
    assert sum(sink.batches[:2]) >= 5
    assert max(sink.batches) <= MOST_AT_ONCE


class FailingAt:
    """An inspector that breaks when it comes to conclude one result."""

    def __init__(self, inspector: Inspector, seq: int) -> None:
        self.predict = inspector.predict
        self._inspector, self._seq = inspector, seq

    def decide(self, inspected: Inspected) -> tuple[Result, bytes | None] | None:
        if inspected.captured.seq == self._seq:
            raise KeyError("broken")
        return self._inspector.decide(inspected)


@pytest.mark.parametrize("seq", [1, 4])
def test_results_before_a_failing_one_are_stored(seq: int) -> None:
    sink = SlowDisk()
    line = FakeLine(FakeSource(*[BRIGHT] * 20), sink=sink)
    broken: Any = FailingAt(line.lines[0].inspector, seq)
    sink.five_wait.set()
    pipeline = line.make_pipeline(broken)
    pipeline.start()
    assert pipeline.wait(10)
    assert [result["seq"] for result in sink.results] == list(range(1, seq))
    assert pipeline.failure is not None and "broken" in pipeline.failure


def test_bad_picture_is_unknown_in_its_place_and_never_a_pass() -> None:
    line = FakeLine(FakeSource(BRIGHT, ImageError("b\udcff.jpg: damaged\nbadly"), BRIGHT))
    results = line.run()
    assert [result["verdict"] for result in results] == ["ok", "unknown", "ok"]
    assert results[1]["reason"] == "b?.jpg: damaged; badly"
    assert results[1]["anomaly_score"] is None
    assert results[1]["frame_wh"] is None
    jsonschema.validate(results[1], RESULT_SCHEMA)
    assert [state["state"] for state in line.states] == ["ok"]


def test_failed_inference_is_unknown_and_degrades_until_the_next_good_answer() -> None:
    def fail_on_dark(image: np.ndarray) -> None:
        if not image.any():
            raise DeviceError("the model answered no valid anomaly_score: nan")

    line = FakeLine(FakeSource(BRIGHT, DARK, DARK, BRIGHT), predictor=FakePredictor(fail_on_dark))
    results = line.run()
    assert [result["verdict"] for result in results] == ["ok", "unknown", "unknown", "ok"]
    assert "nan" in results[1]["reason"]
    assert [state["state"] for state in line.states] == ["ok", "degraded", "ok"]


def test_picture_too_small_is_unknown_without_blaming_the_device() -> None:
    def refuse(image: np.ndarray) -> None:
        raise ImageError("the picture has 1x1 pixels")

    line = FakeLine(FakeSource(DARK[:1, :1]), predictor=FakePredictor(refuse))
    assert line.run()[0]["verdict"] == "unknown"
    assert [state["state"] for state in line.states] == ["ok"]


def test_score_that_is_nan_is_unknown() -> None:
    inspector = make_inspector(FakePredictor())
    inspected = inspector.predict(frame(1))
    nan = Prediction(anomaly_map=np.zeros((8, 8), np.float32), anomaly_score=float("nan"))
    result, _ = inspector.decide(dataclasses.replace(inspected, prediction=nan))
    assert result.verdict is Verdict.UNKNOWN
    assert result.anomaly_score is None
    jsonschema.validate(json.loads(result.encode()), RESULT_SCHEMA)


class TaughtFake(FakePredictor):
    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        return dataclasses.replace(super().predict(image_bgr), threshold=0.2, scale=4.0)


@pytest.mark.parametrize(
    ("predictor", "configured", "threshold", "regions"),
    [(FakePredictor(), None, 0.5, 0), (TaughtFake(), None, 0.2, 1), (TaughtFake(), 0.9, 0.9, 1)],
)
def test_threshold_is_that_of_the_config_else_of_teach_in_else_of_the_bundle(
    predictor: FakePredictor, configured: float | None, threshold: float, regions: int
) -> None:
    camera = CameraConfig(decision=DecisionConfig(threshold=configured))
    inspector = make_inspector(predictor, camera=camera)
    decided = inspector.decide(inspector.predict(frame(1, np.full_like(GREY, 170))))  # a map of 0.33
    assert decided is not None
    assert (decided[0].threshold, len(decided[0].regions)) == (threshold, regions)


class NamedFake(TaughtFake):
    """As taught, with the name of its profile."""

    def is_taught(self, product: str) -> bool:
        return True

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        name = ProfileName(product="object", sha256="ab" * 32)
        return dataclasses.replace(super().predict(image_bgr), profile=name)


@pytest.mark.parametrize(
    ("predictor", "has_frame", "provisional", "profile"),
    [
        (FakePredictor(), True, True, None),
        (FakePredictor(), False, True, None),
        (NamedFake(), True, False, {"product": "object", "sha256": "ab" * 32}),
        (NamedFake(), False, False, None),
    ],
)
def test_a_result_says_what_was_taught(
    predictor: FakePredictor, has_frame: bool, provisional: bool, profile: dict[str, str] | None
) -> None:
    inspector = make_inspector(predictor)
    decided = inspector.decide(inspector.predict(frame(1) if has_frame else fault(1)))
    assert decided is not None
    message = json.loads(decided[0].encode())
    assert (message["provisional"], message["profile"]) == (provisional, profile)
    jsonschema.validate(message, RESULT_SCHEMA)


def test_a_profile_that_cannot_be_used_gives_unknown_and_a_degraded_status() -> None:
    def refuse(image: np.ndarray) -> None:
        raise ProfileError("1.profile: the profile was cut")

    line = FakeLine(FakeSource(DARK), predictor=FakePredictor(refuse))
    (result,) = line.run()
    assert (result["verdict"], result["reason"]) == ("unknown", "1.profile: the profile was cut")
    assert [state["state"] for state in line.states] == ["ok", "degraded"]


def test_verdict_is_debounced_over_frames_and_lost_camera_passes_nothing() -> None:
    camera = CameraConfig(decision=DecisionConfig(debounce_k=2, debounce_n=3))
    inspector = make_inspector(FakePredictor(), camera=camera)
    captured: list[Captured] = [frame(1, DARK), fault(2), frame(3, DARK), frame(4), frame(5)]
    verdicts = [inspector.decide(inspector.predict(item))[0].verdict for item in captured]
    assert verdicts == ["ok", "unknown", "anomalous", "anomalous", "ok"]


def test_reason_of_any_length_is_kept_short() -> None:
    inspector = make_inspector(FakePredictor())
    result, _ = inspector.decide(inspector.predict(fault(1, "x" * 100_000)))
    assert result.reason is not None and len(result.reason) == 500


def test_max_frames_ends_the_run_with_exactly_so_many_results() -> None:
    line = FakeLine(FakeSource(*[BRIGHT] * 100), max_frames=7)
    assert len(line.run()) == 7
    assert line.pipeline.failure is None


def test_slow_model_gets_the_newest_frame_and_every_drop_is_counted() -> None:
    brightness = itertools.count(20)

    def frame_now() -> np.ndarray:
        time.sleep(0.002)
        return np.full((16, 16, 3), min(255, next(brightness)), np.uint8)

    slow = FakePredictor(lambda image: time.sleep(0.04))
    line = FakeLine(FakeSource(*[frame_now] * 10_000, lossless=False), predictor=slow, max_frames=8)
    results = line.run()
    assert line.pipeline.wait_capture(5)
    sequence = [result["seq"] for result in results]
    assert sequence == sorted(set(sequence))
    assert sequence[-1] > 30
    assert line.pipeline.dropped >= sequence[-1] - 8
    assert all(result["latency_ms"]["capture_to_result"] < 120 for result in results)


def test_slow_model_drops_no_picture_of_a_file() -> None:
    line = FakeLine(FakeSource(*[BRIGHT] * 40), predictor=FakePredictor(lambda image: time.sleep(0.003)))
    assert len(line.run()) == 40
    assert line.pipeline.dropped == 0


def test_model_and_sink_work_at_the_same_time() -> None:
    line = FakeLine(
        FakeSource(*[BRIGHT] * 20),
        predictor=FakePredictor(lambda image: time.sleep(0.02)),
        sink=ListSink(lambda: time.sleep(0.018)),
    )
    started_s = time.monotonic()
    line.run()
    assert time.monotonic() - started_s < 20 * 0.03  # one after the other would take 0.76 s


def test_stop_delivers_every_inspected_picture() -> None:
    sink = ListSink(lambda: time.sleep(0.01))
    line = FakeLine(FakeSource(*[BRIGHT] * 10_000), sink=sink)
    line.pipeline.start()
    while len(sink.results) < 5:
        time.sleep(0.005)
    line.pipeline.stop()
    assert line.pipeline.wait(2)
    assert len(sink.results) == line.pipeline.inspected_frames
    assert [result["seq"] for result in sink.results] == list(range(1, len(sink.results) + 1))


def test_stop_gives_a_slow_model_no_more_pictures() -> None:
    line = FakeLine(FakeSource(*[BRIGHT] * 100), predictor=FakePredictor(lambda image: time.sleep(0.4)))
    line.pipeline.start()
    time.sleep(0.1)  # one picture at the model, others wait
    line.pipeline.stop()
    assert line.pipeline.wait(0.6)
    assert isinstance(line.sink, ListSink)
    assert len(line.sink.results) == line.pipeline.inspected_frames == 1


def test_stop_does_not_wait_for_a_camera_that_hangs() -> None:
    hang = threading.Event()

    def hanging() -> np.ndarray:
        hang.wait(20)
        return BRIGHT

    line = FakeLine(FakeSource(BRIGHT, hanging, lossless=False))
    line.pipeline.start()
    time.sleep(0.1)
    line.pipeline.stop()
    assert line.pipeline.wait(2)
    assert not line.pipeline.wait_capture(0.01)
    hang.set()
    assert line.pipeline.wait_capture(5)


@pytest.mark.parametrize("error", [RuntimeError("surprise"), SpoolError("spool.sqlite3: disk full")])
def test_sink_that_dies_ends_the_run_with_its_reason(error: Exception) -> None:
    def fail() -> None:
        raise error

    line = FakeLine(FakeSource(*[BRIGHT] * 1000), sink=ListSink(fail))
    line.run()
    assert line.pipeline.wait_capture(5)
    assert line.pipeline.failure is not None
    assert str(error) in line.pipeline.failure
    assert "publishing" in line.pipeline.failure


def test_model_thread_that_dies_ends_the_run_with_its_reason() -> None:
    def fail(image: np.ndarray) -> None:
        raise MemoryError("no memory")

    line = FakeLine(FakeSource(*[BRIGHT] * 1000), predictor=FakePredictor(fail))
    line.run()
    assert line.pipeline.wait_capture(5)
    assert line.pipeline.failure == "inference stopped: MemoryError: no memory"


def test_capture_thread_that_dies_ends_the_run_with_its_reason() -> None:
    line = FakeLine(FakeSource(BRIGHT, ZeroDivisionError("bug"), BRIGHT))
    assert len(line.run()) == 1
    assert line.pipeline.failure == "capture-cam0 stopped: ZeroDivisionError: bug"


def test_stuck_model_is_detected() -> None:
    hang = threading.Event()
    line = FakeLine(FakeSource(BRIGHT), predictor=FakePredictor(lambda image: hang.wait(20) and None))
    line.pipeline.start()
    time.sleep(0.1)
    assert line.pipeline.stuck(10) is None
    stuck = line.pipeline.stuck(0.05)
    assert stuck is not None and "inference has hung" in stuck
    hang.set()
    assert line.pipeline.wait(5)


def test_missing_camera_is_not_taken_for_a_stuck_model() -> None:
    line = FakeLine(FakeSource(*[SourceError("gone")] * 100_000, lossless=False))
    line.pipeline.start()
    deadline_s = time.monotonic() + 1.2
    while time.monotonic() < deadline_s:
        assert line.pipeline.stuck(0.6) is None
        time.sleep(0.05)
    line.pipeline.stop()
    assert line.pipeline.wait(2)
    assert isinstance(line.sink, ListSink)
    assert [result["reason"] for result in line.sink.results] == ["camera lost: gone"]


def test_slow_disk_is_not_taken_for_a_stuck_model() -> None:
    release = threading.Event()
    line = FakeLine(FakeSource(*[BRIGHT] * 30), sink=ListSink(lambda: release.wait(0.7) and None))
    line.pipeline.start()
    time.sleep(0.6)  # the model waits for a free place meanwhile
    stuck = line.pipeline.stuck(0.5)
    assert stuck is not None and "publishing" in stuck
    release.set()
    assert line.pipeline.wait(10)


def frame(seq: int, image: np.ndarray = BRIGHT) -> Frame:
    return Frame(
        image_bgr=image,
        camera="cam0",
        seq=seq,
        captured_at=datetime.now(UTC),
        captured_monotonic_s=time.monotonic(),
    )


def fault(seq: int, reason: str = "camera lost") -> Fault:
    return Fault(
        camera="cam0",
        seq=seq,
        captured_at=datetime.now(UTC),
        captured_monotonic_s=time.monotonic(),
        reason=reason,
        is_part=False,
    )


def fail_on_dark(image: np.ndarray) -> None:
    if not image.any():
        raise DeviceError("no answer")


def reported(inspector: Inspector, images: list[np.ndarray]) -> list[int]:
    """Which of the pictures, counted from 1, are results."""
    decided = [inspector.decide(inspector.predict(frame(seq, image))) for seq, image in enumerate(images, start=1)]
    return [result[0].seq for result in decided if result is not None]


def test_pictures_without_a_score_are_reported_once_a_minute_until_one_has_a_score() -> None:
    now_s = 0.0
    inspector = make_inspector(FakePredictor(fail_on_dark), lossless=False)
    inspector._unknown_pace = UnknownPace(lambda: now_s)
    assert reported(inspector, [DARK, DARK, DARK]) == [1]
    now_s = 59.9
    assert reported(inspector, [DARK]) == []
    now_s = 60.0
    assert reported(inspector, [DARK, DARK]) == [1]
    assert reported(inspector, [DARK, BRIGHT, DARK, DARK]) == [2, 3]


@pytest.mark.parametrize(
    ("trigger", "lossless", "expected"),
    [("free", False, [1]), ("free", True, [1, 2, 3]), ("mqtt", False, [1, 2, 3]), ("mqtt", True, [1, 2, 3])],
)
def test_only_a_free_running_camera_omits_unknown_results(trigger: Any, lossless: bool, expected: list[int]) -> None:
    camera = CameraConfig(trigger=trigger, source="rtsp://camera")
    inspector = make_inspector(FakePredictor(fail_on_dark), camera=camera, lossless=lossless)
    assert reported(inspector, [DARK, DARK, DARK]) == expected


def test_a_score_that_is_nan_is_reported_once_and_every_fault_of_the_camera_is_a_result() -> None:
    inspector = make_inspector(FakePredictor(), lossless=False)
    nan = Prediction(anomaly_map=np.zeros((8, 8), np.float32), anomaly_score=float("nan"))
    inspected = dataclasses.replace(inspector.predict(frame(1)), prediction=nan)
    assert inspector.decide(inspected) is not None
    assert inspector.decide(inspected) is None
    for seq in (2, 3):
        assert inspector.decide(inspector.predict(fault(seq))) is not None


def test_unreported_pictures_do_not_hide_later_results() -> None:
    sink = SlowDisk()
    sink.five_wait.set()
    line = FakeLine(FakeSource(BRIGHT, *[DARK] * 30, BRIGHT), predictor=FakePredictor(fail_on_dark), sink=sink)
    inspector = make_inspector(FakePredictor(fail_on_dark), line.lines[0].status, lossless=False)
    pipeline = line.make_pipeline(inspector)
    pipeline.start()
    assert pipeline.wait(10)
    assert [result["seq"] for result in sink.results] == [1, 2, 32]
    assert pipeline.failure is None


def test_under_overload_every_camera_gets_the_same_number_of_inspections() -> None:
    def quick() -> np.ndarray:
        time.sleep(0.0005)
        return GREY

    def slow() -> np.ndarray:
        time.sleep(0.004)
        return GREY

    sources = [FakeSource(*[step] * 100_000, lossless=False) for step in (quick, slow, slow)]
    line = FakeLine(*sources, predictor=FakePredictor(lambda image: time.sleep(0.005)), max_frames=90)
    results = line.run()
    counts = [sum(result["camera"] == f"cam{number}" for result in results) for number in range(3)]
    assert min(counts) >= 25, counts
    assert line.pipeline.dropped > 0


def test_sequence_numbers_are_unique_over_cameras_and_ordered_for_each() -> None:
    results = FakeLine(*[FakeSource(*[BRIGHT] * 50) for _ in range(4)]).run()
    assert len({result["id"] for result in results}) == 200
    for number in range(4):
        seqs = [result["seq"] for result in results if result["camera"] == f"cam{number}"]
        assert len(seqs) == 50 and seqs == sorted(seqs)


def test_lost_camera_delays_no_other_camera() -> None:
    lost = FakeSource(*[SourceError("gone")] * 100_000, lossless=False)
    line = FakeLine(lost, FakeSource(*[BRIGHT] * 20))
    line.pipeline.start()
    assert isinstance(line.sink, ListSink)
    sink = line.sink
    while sum(result["camera"] == "cam1" for result in sink.results) < 20:
        time.sleep(0.01)
    line.pipeline.stop()
    assert line.pipeline.wait(10)
    assert {result["verdict"] for result in sink.results if result["camera"] == "cam0"} == {"unknown"}
    assert {result["verdict"] for result in sink.results if result["camera"] == "cam1"} == {"ok"}


def test_picture_is_scored_and_described_by_one_model_while_it_is_replaced() -> None:
    inspector = make_inspector(FakePredictor())
    models = inspector._models
    frame = Frame(
        image_bgr=DARK, camera="cam0", seq=1, captured_at=datetime.now(UTC), captured_monotonic_s=time.monotonic()
    )
    inspected = inspector.predict(frame)
    models.current = make_model(FakePredictor(), "next", 1.0)
    before, _ = inspector.decide(inspected)
    assert (before.bundle.name, before.threshold, before.verdict) == ("darkness", 0.5, "anomalous")
    after, _ = inspector.decide(inspector.predict(frame))
    assert (after.bundle.name, after.threshold) == ("next", 1.0)


def test_device_failures_are_counted_and_bad_pictures_are_not() -> None:
    def fail(image: np.ndarray) -> None:
        if not image.any():
            raise DeviceError("no answer")
        if image.shape[0] == 1:
            raise ImageError("too small")

    inspector = make_inspector(FakePredictor(fail))
    noted: list[tuple[bool, str | None]] = []
    inspector._models.on_answer = lambda sha256, answered, reason: noted.append((answered, reason))
    for image in (BRIGHT, DARK, BRIGHT[:1]):
        frame = Frame(
            image_bgr=image, camera="cam0", seq=1, captured_at=datetime.now(UTC), captured_monotonic_s=time.monotonic()
        )
        inspector.predict(frame)
    assert noted == [(True, None), (False, "no answer")]
