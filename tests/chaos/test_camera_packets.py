"""GigE Vision cameras at 50 frames a second that lose packets: no incomplete frame is a picture, none comes twice."""

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from aravis_camera import CAMERA_ID, AravisCamera, why_not
from chaos_record import record
from gige_camera import ADDRESS, HEAD, ResendingCamera, pattern

from zsad_agent.config import SourceConfig
from zsad_agent.sources import GrabberSource, Picture, make_source
from zsad_core.errors import ImageError, SourceError

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
FPS = 50.0
LOSSES = (0.001, 0.01)  # of the packets; a frame has about 195
MINUTE_S = 60.0
BACK_WITHIN_S = 60.0


@dataclass
class Seen:
    """What came from a camera."""

    good: int = 0
    skipped: int = 0  # after the first good picture
    damaged: int = 0  # of them, and those that were reported alone
    alone: int = 0  # reported as damaged between the first and the last good picture
    reasons: Counter[str] = field(default_factory=Counter)
    numbers: list[int] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)  # from its exposure to here
    stated_s: list[float] = field(default_factory=list)  # how much later than its exposure a picture is said to be
    resent: int = 0
    rss_kb: list[int] = field(default_factory=list)  # of the camera's process

    def __str__(self) -> str:
        ages_ms = np.percentile(self.ages_s, [50, 99, 100]) * 1e3 if self.ages_s else np.zeros(3)
        return (
            f"{self.good} good, {self.skipped} replaced, {self.damaged} damaged, {self.resent} packets sent again, "
            f"age p50 {ages_ms[0]:.0f} p99 {ages_ms[1]:.0f} max {ages_ms[2]:.0f} ms, "
            f"memory {min(self.rss_kb, default=0) >> 10} to {max(self.rss_kb, default=0) >> 10} MB"
        )


def source_of(camera_id: str) -> GrabberSource:
    source = make_source(SourceConfig(aravis=camera_id, stale_after_s=2.0))
    assert isinstance(source, GrabberSource)
    return source


def read_numbered(picture: Picture, seen: Seen) -> None:
    """Checks a picture of `ResendingCamera`."""
    grey = picture.image[..., 0].reshape(-1)
    number, exposed_ns, seen.resent = HEAD.unpack(grey[: HEAD.size].tobytes())
    assert np.array_equal(grey[HEAD.size :], pattern(number).reshape(-1)[HEAD.size :])
    seen.numbers.append(number)
    seen.ages_s.append(time.monotonic() - exposed_ns / 1e9)
    seen.stated_s.append(picture.captured_monotonic_s - exposed_ns / 1e9)


def read_ramp(picture: Picture, seen: Seen) -> None:
    """Checks a picture of `AravisCamera`: it rises by 1 to the right and down, from 0 after 254."""
    grey = picture.image[..., 0].astype(np.int16)
    for axis in (0, 1):
        steps = np.diff(grey, axis=axis)
        assert ((steps == 1) | (steps == -254)).all()
    seen.ages_s.append(time.monotonic() - picture.captured_monotonic_s)


def watch(source: GrabberSource, seen: Seen, *, seconds: float, least: int, numbered: bool) -> None:
    """Reads for `seconds`, and until `least` good pictures came."""
    assert source._process is not None
    status = Path(f"/proc/{source._process._popen.pid}/statm")
    deadline_s, alone = time.monotonic() + seconds, 0
    while time.monotonic() < deadline_s or seen.good < least:
        try:
            picture = source.read()
        except ImageError as error:
            seen.reasons[str(error).rpartition(": ")[2]] += 1
            seen.damaged += 1
            alone += 1
            continue
        if seen.good:
            seen.skipped += picture.skipped
            seen.damaged += picture.damaged
            seen.alone += alone
            if picture.damaged:
                assert "the frame is incomplete" in str(picture.damage)
        alone = 0
        seen.good += 1
        (read_numbered if numbered else read_ramp)(picture, seen)
        if seen.good % 100 == 50:
            seen.rss_kb.append(int(status.read_text().split()[1]) * 4)


def check_every_frame_is_accounted_for(seen: Seen) -> None:
    assert (np.diff(seen.numbers) > 0).all(), "a frame came twice, or an older one after a newer one"
    assert seen.numbers[-1] - seen.numbers[0] + 1 == seen.good + seen.skipped + seen.alone, str(seen)


def test_lost_packets_are_sent_again_and_every_frame_is_accounted_for() -> None:
    seen, source = Seen(), source_of(ADDRESS)
    with ResendingCamera(0.01, fps=FPS), source:
        watch(source, seen, seconds=0.0, least=60, numbered=True)
    check_every_frame_is_accounted_for(seen)
    assert seen.resent > 20, str(seen)  # without them hardly a frame of eight is whole
    assert min(seen.stated_s) >= 0
    assert np.median(seen.stated_s) < 0.5 * np.median(seen.ages_s), str(seen)  # not when the last lost packet came


@pytest.mark.chaos
@pytest.mark.parametrize("resends", [True, False], ids=["sends again", "cannot"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_minute_at_50_frames_a_second_with_lost_packets(loss: float, resends: bool) -> None:
    camera = ResendingCamera(loss, fps=FPS) if resends else AravisCamera(loss, fps=FPS)
    seen, source = Seen(), source_of(ADDRESS if resends else CAMERA_ID)
    with camera:
        with source:
            watch(source, seen, seconds=MINUTE_S, least=100, numbered=resends)
            camera.unplug()
            with pytest.raises(SourceError):
                watch(source, Seen(), seconds=BACK_WITHIN_S, least=0, numbered=resends)
        camera.plug()
        back_s = time.monotonic()
        while True:
            try:
                with source:
                    watch(source, Seen(), seconds=0.0, least=1, numbered=resends)
                break
            except SourceError:
                assert time.monotonic() < back_s + BACK_WITHIN_S
        recover_s = time.monotonic() - back_s
    name = f"GigE Vision, 50 frames a second, {loss:.1%} of the packets lost, " + (
        "sent again" if resends else "not sent again"
    )
    doubled = len(seen.numbers) - len(set(seen.numbers))
    record(name, tried=1, lost=0, doubled=doubled, recover_s=[recover_s], note=f"{seen}; {dict(seen.reasons)}")
    assert np.percentile(seen.ages_s, 99) < 0.5, str(seen)
    assert seen.rss_kb[-1] - seen.rss_kb[1] < 20_000, str(seen)
    if resends:
        check_every_frame_is_accounted_for(seen)
        assert seen.damaged < 0.1 * seen.numbers[-1], str(seen)  # a busy machine may answer a request too late
        assert min(seen.stated_s) >= 0
    else:
        assert seen.damaged > 0.1 * FPS * MINUTE_S, str(seen)
