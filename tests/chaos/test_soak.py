"""The agent at full speed for a long time: memory and latency do not grow, and no result is lost."""

from pathlib import Path

import pytest
from chaos_record import record
from line import write_small_video
from soak import FIFTHS, Soak, run_soak


def check(soak: Soak, *, rss_growth: float, more_fds: int, p50: tuple[float, float], p99: tuple[float, float]) -> None:
    """Compares the last fifth with the second: each latency percentile within (factor, added milliseconds)."""
    assert soak.found.clean and soak.found.received == soak.frames, str(soak.found)
    assert soak.rss_growth < rss_growth, str(soak)
    assert soak.usual("fds", FIFTHS - 1) <= soak.usual("fds", 1) + more_fds, str(soak)
    assert soak.usual("threads", FIFTHS - 1) <= soak.usual("threads", 1), str(soak)
    for allowed, before_ms, after_ms in zip(
        (p50, p99), soak.percentiles_ms(1), soak.percentiles_ms(FIFTHS - 1), strict=True
    ):
        assert after_ms < allowed[0] * before_ms + allowed[1], str(soak)


def test_threads_and_files_do_not_grow_in_1000_frames(tmp_path: Path, tiny_bundle: Path) -> None:
    video = write_small_video(tmp_path / "parts.avi")
    soak = run_soak(tmp_path, tiny_bundle, video, 1000, every_s=0.02)
    # The run takes a second: the bounds are wide, and the spool opens its log only at the first sync.
    check(soak, rss_growth=0.1, more_fds=2, p50=(3, 20), p99=(5, 500))


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
    check(soak, rss_growth=0.02, more_fds=0, p50=(1.25, 1), p99=(1.5, 10))
