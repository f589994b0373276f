"""The pictures that the outbox sends after their results."""

import pytest
from outbox_tools import Clock, take, with_picture

from zsad_agent.spool import Outbox
from zsad_agent.spool.outbox import PICTURE_TRIES


def test_pictures_are_sent_one_at_a_time_after_their_results_until_they_are_acknowledged(
    outbox: Outbox, clock: Clock
) -> None:
    ids = [with_picture(outbox, name) for name in "ab"]
    assert outbox.take_picture() is None  # its result was not sent
    assert take(outbox, 1) == ["a"]
    picture = outbox.take_picture()
    assert picture is not None
    assert (picture.id, picture.camera, picture.result_id, picture.jpeg) == (ids[0], "cam0", "id-a", b"jpeg-a")
    take(outbox)
    assert outbox.take_picture() is None  # the first is in flight
    outbox.acknowledge(ids[0])
    outbox.acknowledge(ids[1])
    outbox.delete_acknowledged(everything=True)
    assert (outbox.unsent, outbox.unsent_pictures) == (0, 2)
    outbox.rewind()  # the connection ends before the pictures are sent
    assert take(outbox) == []
    for entry_id in ids:
        picture = outbox.take_picture()
        assert picture is not None
        assert picture.id == entry_id
        outbox.acknowledge_picture(entry_id)
    outbox.delete_acknowledged(everything=True)
    assert (outbox.take_picture(), outbox.unsent_pictures, outbox.untidy) == (None, 0, False)


def test_pictures_of_live_results_do_not_wait_for_those_of_the_backlog(outbox: Outbox) -> None:
    for name in "ab":
        with_picture(outbox, name)
    outbox.rewind()
    for name in "cd":
        with_picture(outbox, name)
    take(outbox)
    sent = []
    while (picture := outbox.take_picture()) is not None:
        sent.append(picture.result_id[-1])
        outbox.acknowledge_picture(picture.id)
    assert sent == ["c", "d", "a", "b"]


def test_picture_that_always_breaks_the_connection_is_given_up(
    outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    with_picture(outbox, "a")
    with_picture(outbox, "b")
    for _ in range(PICTURE_TRIES):
        outbox.rewind()
        take(outbox)
        picture = outbox.take_picture()
        assert picture is not None
        assert picture.result_id == "id-a"
    outbox.rewind()
    assert take(outbox) == ["a", "b"]  # results are never given up for this reason
    picture = outbox.take_picture()
    assert picture is not None
    assert picture.result_id == "id-b"
    assert outbox.losses.pictures == {"broker": 1}
    assert "is it too large for the broker" in caplog.text


def test_picture_that_the_broker_refuses_is_sent_again_and_never_counts_as_a_broken_connection(outbox: Outbox) -> None:
    with_picture(outbox, "a")
    with_picture(outbox, "b")
    take(outbox)
    for _ in range(PICTURE_TRIES + 1):
        picture = outbox.take_picture()
        assert picture is not None and picture.result_id == "id-a"
        outbox.return_picture(picture.id)
        outbox.rewind()
        take(outbox)
    assert outbox.losses.pictures == {}
    assert outbox.unsent_pictures == 2
