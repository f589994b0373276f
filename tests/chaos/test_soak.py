"""The agent at full speed for long: nothing grows, nothing drifts, nothing is lost."""

from pathlib import Path

import pytest
from chaos_record import record
from line import write_small_video
from soak import FIFTHS, Soak, run_soak


def check(soak: Soak, *, rss_growth: float, p50_factor: float, p99_factor: float, more_fds: int = 0) -> None:
    """The last fifth against the second: factors of the latency beside 1 ms for p50 and 10 ms for p99."""
    assert soak.found.clean and soak.found.received == soak.frames, str(soak.found)
    assert soak.rss_growth < rss_growth, str(soak)
    assert soak.usual("fds", FIFTHS - 1) <= soak.usual("fds", 1) + more_fds, str(soak)
    assert soak.usual("threads", FIFTHS - 1) <= soak.usual("threads", 1), str(soak)
    (p50_before, p99_before), (p50, p99) = soak.percentiles_ms(1), soak.percentiles_ms(FIFTHS - 1)
    assert p50 < p50_factor * p50_before + 1, str(soak)
    assert p99 < p99_factor * p99_before + 10, str(soak)


def test_3000_frames_leave_no_thread_or_file_behind(tmp_path: Path, tiny_bundle: Path) -> None:
    video = write_small_video(tmp_path / "parts.avi")
    soak = run_soak(tmp_path, tiny_bundle, video, 3000, every_s=0.02)
    # Of two seconds: wide bounds, and the spool opens its log for the first sync only then.
    check(soak, rss_growth=0.1, p50_factor=3, p99_factor=5, more_fds=2)


@pytest.mark.chaos
def test_200000_frames_at_full_speed(tmp_path: Path, tiny_bundle: Path) -> None:
    video = write_small_video(tmp_path / "parts.avi")
    soak = run_soak(tmp_path, tiny_bundle, video, 200_000, every_s=0.25)
    record(
        "none: soak at full speed",
        tried=1,
        lost=len(soak.found.lost),
        doubled=soak.found.doubled,
        recover_s=None,
        note=str(soak),
    )
    check(soak, rss_growth=0.02, p50_factor=1.25, p99_factor=1.5)
