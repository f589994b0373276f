"""Pause, faults of the picture and newest images of a capture."""

import logging
from collections.abc import Callable
from typing import Any

import cv2
import pytest
from controlled_capture import BLACK, Rig, picture
from mqtt_listener import wait_until

from zsad_agent.capture import Fault
from zsad_agent.capture.output import NEWEST_BYTES
from zsad_agent.config import HealthConfig
from zsad_agent.sources import Picture
from zsad_core.errors import ConfigError, SourceError
from zsad_core.types import Frame


def test_paused_camera_stays_open_is_checked_and_gives_no_results(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    line.source.give(picture())
    assert isinstance(line.get(), Frame)
    line.capture.pause(True)
    assert line.capture.paused
    line.source.give(picture())
    line.source.give(BLACK)
    assert line.answers(0) == []
    assert [status["state"] for status in line.said] == ["ok", "paused"]
    line.capture.pause(False)
    assert not line.capture.paused
    line.source.give(picture())
    assert isinstance(line.get(), Frame)
    assert line.source.openings == 1
    assert line.said[-1]["state"] == "ok"


def test_black_camera_gives_one_unknown_and_one_log_line_for_start_and_end(
    rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(trigger="free")
    items = []
    with caplog.at_level(logging.INFO):
        for image in [picture(), *[BLACK] * 6, *[picture() for _ in range(4)]]:
            line.source.give(image)
            while (item := line.slot.get(0)) is not None:
                items.append(item)
    kinds = ["frame" if isinstance(item, Frame) else item.reason.split(":")[0] for item in items]
    assert kinds == ["frame", "black picture", "frame", "frame"]
    assert all(item.is_part for item in items if isinstance(item, Fault))
    assert [status["state"] for status in line.said] == ["ok", "degraded", "ok"]
    assert line.said[1]["reason"].startswith("black picture: ")
    assert caplog.text.count("fake: black picture") == 1
    assert caplog.text.count("back: the pictures of fake") == 1


def test_lost_camera_and_black_pictures_are_separate_faults(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    for _ in range(3):
        line.source.give(BLACK)
    line.source.give(SourceError("fake: gone"))
    wait_until(lambda: "gone" in str(line.said[-1]["reason"]))
    assert line.said[-1]["reason"].startswith("fake: gone; black picture: ")


def test_damaged_frames_that_newer_ones_replaced_degrade_the_camera(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    reason = "fake: packets are missing"
    line.source.give(Picture(image=picture(), skipped=60, damaged=2, damage=reason))  # 2 of 61
    assert line.said[-1]["state"] == "ok"
    line.source.give(Picture(image=picture(), skipped=3, damaged=3, damage=reason))
    assert line.said[-1]["state"] == "degraded"
    assert line.said[-1]["reason"] == f"3 or more of 25 pictures are damaged: {reason}"
    line.source.give(Picture(image=picture(), skipped=25))
    assert line.said[-1]["state"] == "ok"


def test_frozen_camera_gives_an_unknown(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free", health=HealthConfig(frozen_after_s=10))
    frozen = picture()
    for ahead_s in (0.0, 5.0, 9.0):
        line.clock.ahead_s = ahead_s
        line.source.give(frozen.copy())
        assert isinstance(line.get(), Frame)
    line.clock.ahead_s = 10.5
    line.source.give(frozen.copy())
    item = line.get()
    assert isinstance(item, Fault) and item.reason == "frozen picture: the same, bit for bit, for 10 s"


def test_every_black_picture_of_a_folder_is_unknown(rig: Callable[..., Rig]) -> None:
    line = rig(lossless=True, trigger="free")
    for _ in range(5):
        line.source.give(BLACK)
        item = line.get()
        assert isinstance(item, Fault) and item.reason.startswith("black picture: ")


def test_newest_images_are_the_last_valid_ones_whether_inspected_or_not(rig: Callable[..., Rig]) -> None:
    line = rig()
    assert line.capture.newest_images(4) == []
    for level in (30, 40, 50, 60, 70, 0):
        line.source.give(picture(level) if level else BLACK)
    newest = line.capture.newest_images(9)
    assert [int(image[5, 5, 0]) for image in newest] == [40, 50, 60, 70]
    assert [int(image[5, 5, 0]) for image in line.capture.newest_images(1)] == [70]
    assert line.capture.newest_images(0) == []


def test_fewer_newest_images_are_kept_of_a_huge_camera(rig: Callable[..., Rig]) -> None:
    line = rig()
    side = int((NEWEST_BYTES / 3 / 2.5) ** 0.5)
    for level in (30, 40, 50):
        line.source.give(cv2.resize(picture(level), (side, side)))
    assert len(line.capture.newest_images(4)) == 2


def test_reference_that_is_missing_is_refused_at_the_start(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"nix\.npz"):
        Rig(health=HealthConfig(reference=tmp_path / "nix.npz"))


def test_a_free_running_camera_is_silent_after_three_of_its_intervals(rig: Callable[..., Rig]) -> None:
    line = rig(trigger="free")
    assert line.capture.silent_s is None  # no picture yet
    line.source.give(picture())
    line.clock.ahead_s += 1.4
    assert line.capture.silent_s is None
    line.clock.ahead_s += 0.2
    assert 1.5 < (line.capture.silent_s or 0) < 30
    line.source.give(picture())  # after 1.6 s
    line.clock.ahead_s += 3.0
    assert line.capture.silent_s is None
    line.clock.ahead_s += 30.0
    assert line.capture.silent_s is not None
    line.source.give(SourceError("fake: gone"))
    wait_until(lambda: line.source.openings > 1)
    assert line.capture.silent_s is None  # it is lost, which the status says


@pytest.mark.parametrize("kind", [{"trigger": "mqtt"}, {"trigger": "free", "lossless": True}])
def test_a_camera_that_waits_for_parts_is_not_silent(rig: Callable[..., Rig], kind: dict[str, Any]) -> None:
    line = rig(**kind)
    line.source.give(picture())
    line.clock.ahead_s += 1000.0
    assert line.capture.silent_s is None
