"""The outbox while the disk fails: results wait in memory."""

import contextlib
import sqlite3
from pathlib import Path

import pytest
from outbox_tools import Clock, FailingDisk, add, take, taken_and_acknowledged, with_picture

from zsad_agent.spool import Accepted, Outbox, Spool
from zsad_agent.spool.outbox import RETRY_S, UPKEEP_S


def test_results_added_together_wait_in_memory_while_the_disk_fails(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    disk.failing = {"append"}
    picture = ("id", b"jpeg")
    outbox.add_all([Accepted("cam0", str(number).encode(), picture) for number in range(7)])
    assert outbox.losses.results == {"disk": 2}  # memory has room for five
    assert outbox.losses.pictures == {"disk": 7}
    assert take(outbox) == ["2", "3", "4", "5", "6"]
    disk.failing.clear()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert (disk.count, disk.picture_count, outbox.fault) == (5, 0, None)


def test_results_wait_in_memory_while_the_disk_is_full_and_are_sent_in_order(
    outbox: Outbox, disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    add(outbox, "a")
    disk.failing = {"append"}
    ids = add(outbox, "b", "c")
    assert "disk is full" in (outbox.fault or "")
    assert outbox.unsent == 3
    assert take(outbox) == ["a", "b", "c"]
    for entry_id in ids:
        outbox.acknowledge(entry_id)
    outbox.delete_acknowledged(everything=True)
    assert outbox.unsent == 1
    assert len(caplog.records) == 1


def test_results_in_memory_move_to_disk_when_it_works_again(
    outbox: Outbox, disk: FailingDisk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    disk.failing = {"append"}
    add(outbox, "a", "b")
    assert take(outbox, 1) == ["a"]
    disk.failing = set()
    add(outbox, "c")
    assert disk.count == 0  # not tried again at once
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert (disk.count, outbox.fault, outbox.unsent) == (3, None, 3)
    assert take(outbox) == ["b", "c"]  # a result that was taken from memory is not taken from disk again
    assert [record.message.split(" (")[0] for record in caplog.records] == ["spool lost", "spool back"]


def test_last_attempt_to_store_is_made_at_once_and_counts_the_results_that_are_lost(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    assert outbox.store_or_count_lost() == 0
    disk.failing = {"append"}
    first, *_ = add(outbox, *"abc")
    take(outbox)
    outbox.acknowledge(first)
    assert (outbox.store_or_count_lost(), outbox.unsent) == (2, 2)
    disk.failing = set()
    assert (outbox.store_or_count_lost(), disk.count) == (0, 2)  # the broker has the first


def test_oldest_result_is_given_up_and_counted_when_memory_is_also_full(
    outbox: Outbox, disk: FailingDisk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.failing = {"append"}
    add(outbox, *"abcdefg")
    assert take(outbox) == list("cdefg")
    assert sum(outbox.losses.results.values()) == 2
    assert caplog.text.count("given up") == 1
    add(outbox, "h")  # all others are in flight, so the new one is given up
    assert sum(outbox.losses.results.values()) == 3
    outbox.rewind()
    assert take(outbox) == list("cdefg")


def test_unreadable_spool_does_not_delay_or_lose_results_in_memory(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    add(outbox, "a")
    disk.failing = {"append", "read"}
    (in_memory,) = add(outbox, "b")
    assert take(outbox) == ["b"]
    outbox.acknowledge(in_memory)
    disk.failing = set()
    clock.now_s += RETRY_S
    assert take(outbox) == ["a"]


def test_acknowledgement_that_cannot_be_stored_is_kept_and_tried_again(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    (entry_id,) = add(outbox, "a")
    outbox.acknowledge(entry_id)
    disk.failing = {"delete"}
    outbox.delete_acknowledged(everything=True)
    outbox.rewind()
    assert take(outbox) == []
    assert outbox.unsent == 0
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert (disk.count, outbox.fault) == (0, None)


def test_disk_that_fails_only_to_sync_is_logged_once(
    outbox: Outbox, disk: FailingDisk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    disk.failing = {"sync"}
    for _ in range(5):
        clock.now_s += 10
        add(outbox, "a")
        outbox.delete_acknowledged()
    assert len(caplog.records) == 1


def test_memory_does_not_grow_with_acknowledgements_that_cannot_be_deleted(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    add(outbox, *(str(number) for number in range(500)))
    disk.failing = {"delete"}
    for _ in range(50):
        taken_and_acknowledged(outbox, 10)
        clock.now_s += 1
    assert len(outbox._acknowledged.runs) == 1
    outbox.rewind()
    assert take(outbox) == []
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert disk.count == 0


def test_failed_disk_loses_pictures_but_no_result(
    outbox: Outbox, disk: FailingDisk, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    disk.failing = {"append"}
    with_picture(outbox, "a")
    with_picture(outbox, "b")
    disk.failing = set()
    clock.now_s += RETRY_S
    with_picture(outbox, "c")
    assert take(outbox) == ["a", "b", "c"]
    picture = outbox.take_picture()
    assert picture is not None
    assert picture.result_id == "id-c"
    assert (outbox.losses.results, outbox.losses.pictures) == ({}, {"disk": 2})
    assert caplog.text.count("evidence pictures are given up") == 1


def test_results_accepted_before_the_spool_opens_are_sent_once_and_in_order_with_its_results(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    with Spool(path, max_results=100) as spool:
        add(Outbox(spool), "a", "b")
    clock = Clock()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")  # another program holds the file when the agent starts
        with Spool(path, max_results=100) as spool:
            outbox = Outbox(spool, clock_s=clock)
            assert "locked" in (outbox.fault or "")
            first, _ = add(outbox, "c", "d")
            assert take(outbox, 1) == ["c"]
            other.close()
            clock.now_s += UPKEEP_S
            add(outbox, "e")
            outbox.acknowledge(first)
            outbox.delete_acknowledged(everything=True)
            assert take(outbox) == ["d", "e", "a", "b"]
            assert outbox.fault is None
            assert outbox.unsent == 4
            outbox.rewind()
            assert take(outbox) == ["a", "b", "d", "e"]


def test_fault_ends_when_the_disk_works_again_although_everything_was_sent_meanwhile(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    disk.failing = {"append"}
    (entry_id,) = add(outbox, "a")
    take(outbox)
    outbox.acknowledge(entry_id)
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert "disk is full" in (outbox.fault or "")
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert (outbox.fault, disk.count) == (None, 0)


def test_read_fault_ends_when_the_disk_can_be_read_again_without_results_to_send(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    (entry_id,) = add(outbox, "a")
    disk.failing = {"read"}
    assert take(outbox) == []
    outbox.acknowledge(entry_id)
    disk.failing = set()
    clock.now_s += UPKEEP_S
    outbox.delete_acknowledged()
    assert outbox.fault is None
