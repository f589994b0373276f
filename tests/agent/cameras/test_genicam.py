"""GenICam cameras through aravis: its own cameras, in this process and as GigE Vision on the loopback interface."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from aravis_camera import CAMERA_ID, AravisCamera, why_not

from zsad_agent.cameras import Frame, GenicamCamera, GenicamSettings
from zsad_agent.config import SourceConfig
from zsad_agent.probing import list_genicam, probe_source
from zsad_agent.sources import DirectSource, Picture, Source, make_source
from zsad_core.errors import ImageError, SourceError

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
FAKE = "Fake_1"
PATIENCE_S = 60.0


@contextmanager
def opened(**settings: object) -> Iterator[GenicamCamera]:
    camera = GenicamCamera(GenicamSettings(**{"camera_id": FAKE, "timeout_s": 20.0, **settings}))
    camera.open()
    try:
        yield camera
    finally:
        camera.close()


def next_whole(camera: GenicamCamera) -> Frame:
    while True:
        with suppress(ImageError):
            return camera.next_frame()


def genicam_source(**settings: object) -> Source:
    return make_source(SourceConfig(**{"aravis": CAMERA_ID, "stale_after_s": 2.0, **settings}))


def first_good(source: Source) -> Picture:
    """The next picture that is whole."""
    while True:
        try:
            picture = source.read()
        except ImageError:
            continue
        assert picture is not None
        return picture


def test_a_camera_is_listed_and_shows_a_picture_before_it_is_in_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    with AravisCamera():
        assert CAMERA_ID in [device.id for device in list_genicam() if device.key == "aravis"]
        assert probe_source(SourceConfig(aravis=CAMERA_ID)).startswith(b"\xff\xd8")
    monkeypatch.setattr("zsad_agent.probing.devices._LIBRARIES", Path(os.devnull))
    monkeypatch.setattr("zsad_agent.probing.devices.subprocess.run", None)
    assert list_genicam() == []  # without the library no process is started


@pytest.mark.parametrize("pixel_format", ["Mono8", "BayerRG8", "BayerBG8", "RGB8", "Mono16"])
def test_frames_of_each_format_that_the_library_can_make(pixel_format: str) -> None:
    with opened(pixel_format=pixel_format, wh=(256, 128)) as camera:
        frames = [camera.next_frame() for _ in range(3)]
    for frame in frames:
        assert frame.image.shape == (128, 256, 3)
        assert frame.image.dtype == np.uint8
        assert np.ptp(frame.image) > 50
    if pixel_format.startswith("Mono"):
        assert (frames[0].image[..., 0] == frames[0].image[..., 2]).all()
    assert not np.array_equal(frames[0].image, frames[2].image)


def test_exposure_and_gain_change_the_picture() -> None:
    """The library's camera multiplies its pattern by both."""
    with opened(exposure_us=10_000.0, gain=0.0) as camera:
        normal = camera.next_frame().image.mean()
    with opened(exposure_us=1_000.0, gain=0.0) as camera:
        short = camera.next_frame().image.mean()
    assert short < normal / 2


def test_software_trigger_takes_a_frame_for_each_read() -> None:
    with AravisCamera(), opened(camera_id=CAMERA_ID, trigger="software") as camera:
        with suppress(ImageError):
            camera.next_frame()
        time.sleep(0.5)  # running freely it would make a dozen frames
        asked_s = time.monotonic()
        frame = next_whole(camera)
    assert frame.skipped == 0
    assert frame.at_s >= asked_s


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pixel_format": "Mono12"}, "pixel_format Mono12 is not offered. Choose one of .*Mono8"),
        ({"trigger": "Line9"}, "refuses the trigger Line9"),
        ({"wh": (16_000, 16_000)}, "refuses 16000 x 16000 pixels: .*greater than"),
        ({"gain": 5_000.0}, "refuses gain 5000: .*greater than"),
        ({"camera_id": "Nobody-1"}, "Nobody-1: does not answer. Check power, cable and addresses. Cameras: "),
    ],
)
def test_what_the_camera_refuses_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message), opened(**settings):
        pass


def test_missing_library_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    from zsad_agent.cameras import aravis

    aravis.load_aravis.cache_clear()
    monkeypatch.setattr(aravis.ctypes, "CDLL", fail)
    try:
        with pytest.raises(SourceError, match=r"sudo apt-get install libaravis-0\.8-0"), opened():
            pass
    finally:
        aravis.load_aravis.cache_clear()


def test_network_camera_that_goes_away_is_lost_and_read_again_when_it_is_back() -> None:
    source = genicam_source()
    with AravisCamera() as camera, source:
        assert first_good(source).image.shape == (512, 512, 3)
        camera.unplug()
        with pytest.raises(SourceError, match=f"camera {CAMERA_ID}"):
            for _ in range(1000):
                first_good(source)
    with pytest.raises(SourceError, match="does not answer"), source:
        pass
    with AravisCamera():
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                with source:
                    assert first_good(source).image.shape == (512, 512, 3)
                break
            except SourceError:
                assert time.monotonic() < deadline_s


def test_frames_with_lost_packets_are_damaged_and_never_filled() -> None:
    """The library's camera cannot send packets again. About one frame of six misses one."""
    source = genicam_source()
    damaged = 0
    with AravisCamera(lost_ratio=0.001), source:
        deadline_s = time.monotonic() + PATIENCE_S
        good = 0
        while damaged < 2 or good < 5:
            assert time.monotonic() < deadline_s
            try:
                picture = source.read()
            except ImageError as error:
                assert "the frame is incomplete" in str(error)
                damaged += 1
                continue
            assert picture is not None
            grey = picture.image[..., 0].astype(int)  # its pattern rises by 1 to the right and down, from 0 after 254
            for axis in (0, 1):
                assert set(np.unique(np.diff(grey, axis=axis))) == {1, -254}
            good += 1


def test_camera_with_a_hardware_trigger_may_be_silent_and_its_loss_is_still_noticed() -> None:
    source = genicam_source(stale_after_s=1.0, aravis_trigger="hardware Line0")
    with AravisCamera() as camera, source:
        began_s = time.monotonic()
        timer = threading.Timer(3.0, camera.unplug)
        timer.start()
        with pytest.raises(SourceError, match="the connection is lost"):
            source.read()
        assert time.monotonic() - began_s > 2.9  # longer than stale_after_s
        timer.join()


class DamagedCamera:
    """Gives nothing but damaged frames."""

    description = "camera"

    def open(self) -> None: ...

    def close(self) -> None: ...

    def next_frame(self) -> Frame:
        raise ImageError("camera: packets are missing")


@pytest.mark.parametrize(("stale_after_s", "lost_after"), [(0.0, 25), (3600.0, None)])
def test_camera_with_damaged_frames_alone_is_lost_after_the_stale_time(
    stale_after_s: float, lost_after: int | None
) -> None:
    """At 50 frames a second half a second of them must not close the camera: that mends no network."""
    with DirectSource(DamagedCamera(), stale_after_s=stale_after_s) as source:
        for count in range(1, 200):
            with pytest.raises((ImageError, SourceError)) as caught:
                source.read()
            if caught.type is SourceError:
                assert count == lost_after
                assert str(caught.value) == "camera: packets are missing, like the 24 frames before it"
                return
    assert lost_after is None
