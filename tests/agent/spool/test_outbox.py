"""The order in which the outbox gives results and when it deletes them."""

import contextlib
from pathlib import Path

import pytest
from outbox_tools import Clock, FailingDisk, add, take, taken_and_acknowledged

from zsad_agent.spool import Accepted, Outbox, Spool
from zsad_agent.spool.outbox import DELETE_AFTER_S, DELETE_BATCH


@pytest.mark.parametrize("limit", [0, -1, 5])
def test_empty_outbox_has_nothing_to_take(outbox: Outbox, limit: int) -> None:
    assert take(outbox, limit) == []
    outbox.delete_acknowledged(everything=True)
    assert (outbox.unsent, outbox.fault, outbox.untidy) == (0, None, False)


def test_full_window_sends_nothing_and_skips_nothing(outbox: Outbox) -> None:
    add(outbox, "a", "b")
    assert take(outbox, 0) == []
    assert take(outbox, 1) == ["a"]
    assert take(outbox, 0) == []
    assert take(outbox) == ["b"]


def test_entries_are_taken_once_in_order_until_a_rewind(outbox: Outbox) -> None:
    add(outbox, "a", "b", "c")
    assert take(outbox, 2) == ["a", "b"]
    add(outbox, "d")
    assert take(outbox) == ["c", "d"]
    assert take(outbox) == []
    outbox.rewind()
    assert take(outbox) == ["a", "b", "c", "d"]


def test_acknowledged_entry_is_not_taken_again_even_if_it_is_not_deleted_yet(outbox: Outbox) -> None:
    ids = add(outbox, "a", "b", "c")
    take(outbox)
    outbox.acknowledge(ids[1])
    assert outbox.unsent == 2
    outbox.rewind()
    assert take(outbox) == ["a", "c"]


def test_results_that_are_added_together_are_committed_together_and_sent_in_order(
    outbox: Outbox, disk: FailingDisk
) -> None:
    together = [Accepted("cam0", body) for body in (b"b", b"c", b"d")]
    (first,) = add(outbox, "a")
    ids = outbox.add_all(together)
    assert [first, *ids] == sorted({first, *ids})
    assert disk.appends == 2
    assert disk.count == 4
    assert take(outbox) == ["a", "b", "c", "d"]


def test_deletes_are_batched_by_number_and_by_time(outbox: Outbox, disk: FailingDisk, clock: Clock) -> None:
    ids = add(outbox, *("x" for _ in range(DELETE_BATCH + 1)))
    for entry_id in ids[:-1]:
        outbox.acknowledge(entry_id)
        outbox.delete_acknowledged()
    assert disk.commits == 1
    outbox.acknowledge(ids[-1])
    outbox.delete_acknowledged()
    assert (disk.commits, disk.count, outbox.untidy) == (1, 1, True)
    clock.now_s += DELETE_AFTER_S
    outbox.delete_acknowledged()
    assert (disk.commits, disk.count, outbox.untidy) == (2, 0, False)


def test_acknowledged_results_stay_until_they_may_be_deleted(tmp_path: Path, clock: Clock) -> None:
    may_delete = False
    with Spool(tmp_path / "spool", max_results=10) as spool:
        outbox = Outbox(spool, may_delete=lambda: may_delete, clock_s=clock)
        for entry_id in add(outbox, "a", "b"):
            outbox.acknowledge(entry_id)
        outbox.delete_acknowledged(everything=True)
        assert (outbox.unsent, spool.count, outbox.untidy) == (0, 2, True)
        assert [entry.body for entry in spool.newest(1)] == [b"b"]
        may_delete = True
        clock.now_s += DELETE_AFTER_S / 2
        outbox.delete_acknowledged()
        assert spool.count == 2  # it does not ask so soon again
        clock.now_s += DELETE_AFTER_S
        outbox.delete_acknowledged()
        assert (outbox.unsent, spool.count, outbox.untidy) == (0, 0, False)


def test_window_skips_acknowledged_entries_that_are_not_deleted_yet(outbox: Outbox) -> None:
    ids = add(outbox, "a", "b", "c", "d", "e")
    for entry_id in ids[:3]:
        outbox.acknowledge(entry_id)
    assert take(outbox, 2) == ["d", "e"]


def test_live_results_go_before_the_backlog_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    with Spool(path, max_results=10) as spool:
        add(Outbox(spool), "a", "b")
    with contextlib.ExitStack() as stack:
        outbox = Outbox(stack.enter_context(Spool(path, max_results=10)))
        boundary = outbox.live_after
        add(outbox, "c")
        entries = outbox.take(10)
        assert [(entry.body, entry.id <= boundary) for entry in entries] == [(b"c", False), (b"a", True), (b"b", True)]


def test_live_results_are_sent_first_and_the_backlog_keeps_its_share(outbox: Outbox) -> None:
    add(outbox, *(f"old{number}" for number in range(6)))
    outbox.rewind()
    add(outbox, *(f"new{number}" for number in range(9)))
    assert take(outbox, 4) == ["new0", "new1", "new2", "old0"]
    assert take(outbox) == [
        *("new3", "new4", "new5", "old1", "new6", "new7", "new8", "old2"),
        *("old3", "old4", "old5"),  # no live result waits, so the backlog has the whole window
    ]


@pytest.mark.parametrize("window", [1, 3, 20])
def test_backlog_is_sent_while_live_results_fill_the_window(outbox: Outbox, window: int) -> None:
    backlog = [f"old{number}" for number in range(30)]
    add(outbox, *backlog)
    outbox.rewind()
    sent: list[str] = []
    number = 0
    while not set(backlog) <= set(sent):
        for _ in range(window):  # more live results than the window holds
            add(outbox, f"new{number}")
            number += 1
        sent += taken_and_acknowledged(outbox, window)
        assert number < 200 + window, "the backlog is not sent"
    assert [body for body in sent if body in backlog] == backlog
    live = [body for body in sent if body not in backlog]
    assert live == [f"new{number}" for number in range(len(live))]


def test_unacknowledged_live_results_are_backlog_of_the_next_connection_in_order(outbox: Outbox) -> None:
    add(outbox, "a", "b")
    outbox.rewind()
    ids = add(outbox, "c", "d")
    assert take(outbox, 3) == ["c", "d", "a"]
    outbox.acknowledge(ids[0])
    outbox.rewind()
    add(outbox, "e")
    assert take(outbox) == ["e", "a", "b", "d"]
