"""Triggers of a capture. The test gives the camera every frame."""

import threading
from collections.abc import Callable

import pytest
from controlled_capture import BLACK, Rig, picture
from mqtt_listener import wait_until

from zsad_agent.capture import Fault
from zsad_agent.capture.triggers import MAX_REFUSED, MAX_WAITING
from zsad_agent.sources import Picture
from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Frame


def test_nothing_is_inspected_without_a_trigger(rig: Callable[..., Rig]) -> None:
    line = rig()
    for _ in range(3):
        line.source.give(picture())
    assert line.answers(0) == []
    assert line.said[-1]["state"] == "ok"


def test_trigger_gets_the_first_frame_whose_reading_began_after_it_and_no_other(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture(40))
    line.capture.trigger("a")  # the next frame may have been exposed before the trigger
    line.source.give(picture(50))
    assert line.answers(0) == []
    line.source.give(picture(60))
    line.source.give(picture(70))
    frame = line.get()
    assert isinstance(frame, Frame) and frame.trigger_id == "a"
    assert int(frame.image_bgr[5, 5, 0]) == 60
    assert line.answers(0) == []


def test_trigger_without_an_id_is_answered(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    line.capture.trigger(None)
    for _ in range(3):
        line.source.give(picture())
    assert line.answers(1) == [(None, "frame")]


def test_waiting_triggers_are_all_answered_in_order(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    for number in range(4):
        line.capture.trigger(str(number))
    for _ in range(3):
        line.source.give(picture())
    for number in range(4, 8):
        line.capture.trigger(str(number))
    for _ in range(3):
        line.source.give(picture())
    assert line.answers(8) == [(str(number), "frame") for number in range(8)]
    assert line.slot.dropped == 0


def test_triggers_above_the_limit_are_refused_at_once(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    for number in range(MAX_WAITING + 2):
        line.capture.trigger(str(number))
    refused = [line.get(), line.get()]
    assert [(item.trigger_id, getattr(item, "reason", None)) for item in refused] == [
        (str(number), f"too many triggers waiting, {MAX_WAITING}") for number in (MAX_WAITING, MAX_WAITING + 1)
    ]
    for _ in range(2):
        line.source.give(picture())
    line.capture.trigger("more")  # triggers whose frame was not taken yet count too
    assert [item for item, _ in line.answers(MAX_WAITING + 1)] == [str(n) for n in range(MAX_WAITING)] + ["more"]


def test_triggers_are_answered_at_once_when_the_camera_is_lost(
    rig: Callable[..., Rig],
) -> None:
    line = rig()
    line.source.give(picture())
    line.capture.trigger("waited")
    line.source.give(SourceError("fake: gone"))
    lost, waited = line.get(), line.get()
    assert isinstance(lost, Fault) and not lost.is_part and lost.trigger_id is None
    assert isinstance(waited, Fault)
    assert (waited.trigger_id, waited.reason, waited.is_part) == ("waited", "camera lost: fake: gone", True)
    line.capture.trigger("late")
    assert line.answers(1) == [("late", "camera lost: fake: gone")]
    wait_until(lambda: line.source.openings > 1)
    line.source.give(picture())
    line.capture.trigger("again")
    line.source.give(picture())
    line.source.give(picture())
    assert line.answers(1) == [("again", "frame")]


def test_trigger_without_a_picture_in_time_is_answered_when_the_next_picture_comes(rig: Callable[..., Rig]) -> None:
    line = rig(stale_after_s=5.0)
    line.source.give(picture())
    line.capture.trigger("late")
    line.clock.ahead_s = 4.0
    line.source.give(picture())  # its reading began before the trigger
    line.capture.trigger("in time")
    line.clock.ahead_s = 5.5
    line.source.give(picture())
    line.source.give(picture())
    assert line.answers(2) == [("late", "no picture within 5 s of the trigger"), ("in time", "frame")]


def test_every_trigger_of_a_black_camera_is_answered(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    for number in range(5):
        line.capture.trigger(str(number))
        line.source.give(BLACK)
        line.source.give(BLACK)
    answers = line.answers(5)
    assert [trigger_id for trigger_id, _ in answers] == list("01234")
    assert all(reason.startswith("black picture: ") for _, reason in answers)


def test_trigger_that_gets_a_black_or_damaged_picture_is_answered_with_the_reason(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    line.capture.trigger("black")
    line.source.give(picture())
    line.source.give(BLACK)
    line.capture.trigger("damaged")
    line.source.give(picture())
    line.source.give(ImageError("fake: half a picture"))
    (first, reason), damaged = line.answers(2)
    assert first == "black" and reason.startswith("black picture: ")
    assert damaged == ("damaged", "fake: half a picture")


def test_trigger_before_a_damaged_picture_gets_none_that_was_exposed_before_the_trigger(
    rig: Callable[..., Rig],
) -> None:
    """A camera that waits for lost packets gives up a frame late, and then the frames that arrived meanwhile."""
    line = rig()
    line.source.give(picture(40))
    exposed_s = line.clock()
    line.capture.trigger("a")
    line.source.give(ImageError("fake: packets are missing"))
    line.source.give(Picture(image=picture(50), captured_monotonic_s=exposed_s))
    assert line.answers(0) == []
    line.source.give(picture(60))
    line.source.give(picture(70))
    frame = line.get()
    assert isinstance(frame, Frame) and frame.trigger_id == "a"
    assert int(frame.image_bgr[5, 5, 0]) > 50


@pytest.mark.parametrize("lossless", [True, False])
def test_trigger_while_paused_is_refused(rig: Callable[..., Rig], lossless: bool) -> None:
    line = rig(lossless=lossless)
    line.capture.pause(True)
    line.capture.trigger("a")
    item = line.get()
    assert isinstance(item, Fault) and (item.trigger_id, item.reason) == ("a", "paused")


def test_waiting_triggers_are_answered_at_a_pause(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    line.capture.trigger("a")
    line.capture.pause(True)
    line.source.give(picture())
    line.source.give(picture())
    assert line.answers(1) == [("a", "paused")]


def test_each_trigger_gets_the_next_picture_of_a_folder_and_the_others_are_answered_at_its_end(
    rig: Callable[..., Rig],
) -> None:
    line = rig(lossless=True)
    assert line.source.reads == 0
    for name in "abcd":
        line.capture.trigger(name)
    line.source.give(picture())
    line.source.give(ImageError("b.jpg: damaged"))
    line.source.give(None)
    line.thread.join(60)
    items = [line.get() for _ in range(4)]
    assert [(item.trigger_id, getattr(item, "reason", "frame")) for item in items] == [
        ("a", "frame"),
        ("b", "b.jpg: damaged"),
        ("c", "the source has ended"),
        ("d", "the source has ended"),
    ]


def test_trigger_after_the_end_of_a_file_is_logged(rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture) -> None:
    line = rig(lossless=True)
    line.capture.trigger("a")
    line.source.give(None)
    line.thread.join(60)
    line.capture.trigger("b")
    assert [item.trigger_id for item in line.rest()] == ["a"]
    assert "a trigger has no result: the source has ended" in caplog.text


@pytest.mark.parametrize("trigger_id", ["", "x" * 129])
def test_trigger_with_an_invalid_id_raises_value_error(rig: Callable[..., Rig], trigger_id: str) -> None:
    with pytest.raises(ValueError, match="1 to 128 characters"):
        rig().capture.trigger(trigger_id)


def test_trigger_of_a_free_running_camera_raises_value_error(rig: Callable[..., Rig]) -> None:
    with pytest.raises(ValueError, match=r"not triggered \(trigger: free\)"):
        rig(trigger="free").capture.trigger("a")


def test_every_trigger_from_many_threads_is_answered_once(rig: Callable[..., Rig]) -> None:
    line = rig()
    line.source.give(picture())
    answered: list[str | None] = []
    asked = [f"{thread}-{number}" for thread in range(4) for number in range(50)]
    askers = [
        threading.Thread(target=lambda part: [line.capture.trigger(name) for name in part], args=(asked[n::4],))
        for n in range(4)
    ]
    for asker in askers:
        asker.start()
    while len(answered) < len(asked):
        line.source.give(picture())
        while (item := line.slot.get(0)) is not None:
            answered.append(item.trigger_id)
    for asker in askers:
        asker.join()
    assert sorted(map(str, answered)) == sorted(asked)


@pytest.mark.parametrize("lossless", [False, True])
def test_flood_of_triggers_uses_limited_memory(
    rig: Callable[..., Rig], lossless: bool, caplog: pytest.LogCaptureFixture
) -> None:
    line = rig(lossless=lossless)
    for number in range(MAX_REFUSED + 2 * MAX_WAITING + 500):
        line.capture.trigger(str(number))
    line.source.give(None)  # end of a file, or loss of a live source: waiting triggers are answered
    answered = line.rest(timeout_s=1.0)
    assert MAX_REFUSED <= len(answered) <= MAX_REFUSED + MAX_WAITING + 1
    assert caplog.text.count("triggers are dropped") == 1
