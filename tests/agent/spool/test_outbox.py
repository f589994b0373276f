import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zsad_agent.spool import Accepted, Entry, Outbox, Spool, SpoolClock, Stamp
from zsad_agent.spool.outbox import DELETE_AFTER_S, DELETE_BATCH, PICTURE_TRIES, RETRY_S, UPKEEP_S
from zsad_agent.spool.spool import HUNG_S
from zsad_core.errors import SpoolError


class FailingDisk(Spool):
    """A spool whose disk fails the calls that are named in `failing`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, max_results=10_000)
        self.failing: set[str] = set()
        self.commits = 0
        self.appends = 0

    def append(self, entries, pictures=()) -> None:  # type: ignore[no-untyped-def]
        self._fail("append")
        self.appends += 1
        super().append(entries, pictures)

    def read(self, after_id: int, up_to_id: int, limit: int) -> list[Entry]:
        self._fail("read")
        return super().read(after_id, up_to_id, limit)

    def delete(self, results, pictures=()) -> None:  # type: ignore[no-untyped-def]
        self._fail("delete")
        self.commits += 1
        super().delete(results, pictures)

    def sync(self) -> None:
        self._fail("sync")
        super().sync()

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise SpoolError("disk is full")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FailingDisk]:
    with FailingDisk(tmp_path / "spool.sqlite3") as spool:
        yield spool


@pytest.fixture
def outbox(disk: FailingDisk, clock: Clock) -> Outbox:
    return Outbox(disk, max_in_memory=5, clock_s=clock)


def add(outbox: Outbox, *bodies: str) -> list[int]:
    return [outbox.add_all([Accepted("cam0", body.encode())])[0] for body in bodies]


def take(outbox: Outbox, limit: int = 100) -> list[str]:
    return [entry.body.decode() for entry in outbox.take(limit)]


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


def test_acknowledged_entry_is_not_taken_again_though_not_yet_deleted(outbox: Outbox) -> None:
    ids = add(outbox, "a", "b", "c")
    take(outbox)
    outbox.acknowledge(ids[1])
    assert outbox.unsent == 2
    outbox.rewind()
    assert take(outbox) == ["a", "c"]


def test_results_that_come_together_are_committed_at_once_and_go_out_in_order(
    outbox: Outbox, disk: FailingDisk
) -> None:
    together = [Accepted("cam0", body) for body in (b"b", b"c", b"d")]
    (first,) = add(outbox, "a")
    ids = outbox.add_all(together)
    assert [first, *ids] == sorted({first, *ids})
    assert disk.appends == 2
    assert disk.count == 4
    assert take(outbox) == ["a", "b", "c", "d"]


def test_results_added_together_wait_in_memory_while_the_disk_fails(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    disk.failing = {"append"}
    picture = ("id", b"jpeg")
    outbox.add_all([Accepted("cam0", str(number).encode(), picture) for number in range(7)])
    assert outbox.losses.results == {"disk": 2}  # five have room
    assert outbox.losses.pictures == {"disk": 7}
    assert take(outbox) == ["2", "3", "4", "5", "6"]
    disk.failing.clear()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert (disk.count, disk.picture_count, outbox.fault) == (5, 0, None)


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


def test_window_reaches_over_acknowledged_entries_that_are_not_deleted(outbox: Outbox) -> None:
    ids = add(outbox, "a", "b", "c", "d", "e")
    for entry_id in ids[:3]:
        outbox.acknowledge(entry_id)
    assert take(outbox, 2) == ["d", "e"]


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
    assert take(outbox) == ["b", "c"]  # what was taken from memory is not taken from disk again
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


def test_oldest_is_given_up_and_counted_when_memory_is_full_too(
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


def test_unreadable_spool_neither_delays_results_in_memory_nor_loses_one(
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


def taken_and_acknowledged(outbox: Outbox, limit: int) -> list[str]:
    entries = outbox.take(limit)
    for entry in entries:
        outbox.acknowledge(entry.id)
    outbox.delete_acknowledged()
    return [entry.body.decode() for entry in entries]


def test_live_results_go_first_and_the_backlog_keeps_its_share(outbox: Outbox) -> None:
    add(outbox, *(f"old{number}" for number in range(6)))
    outbox.rewind()
    add(outbox, *(f"new{number}" for number in range(9)))
    assert take(outbox, 4) == ["new0", "new1", "new2", "old0"]
    assert take(outbox) == [
        *("new3", "new4", "new5", "old1", "new6", "new7", "new8", "old2"),
        *("old3", "old4", "old5"),  # no live result waits, so the backlog has the whole window
    ]


@pytest.mark.parametrize("window", [1, 3, 20])
def test_backlog_drains_under_a_live_rate_that_fills_the_window(outbox: Outbox, window: int) -> None:
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
        assert number < 200 + window, "the backlog starves"
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


def test_acknowledgements_that_cannot_be_deleted_take_no_memory_each(
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


def with_picture(outbox: Outbox, name: str) -> int:
    return outbox.add_all([Accepted("cam0", name.encode(), (f"id-{name}", f"jpeg-{name}".encode()))])[0]


def test_picture_goes_after_its_result_one_at_a_time_and_again_until_acknowledged(outbox: Outbox, clock: Clock) -> None:
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


def test_picture_at_which_the_connection_always_ends_is_given_up(
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


class HangingDisk(SpoolClock):
    """A commit hangs while `hangs` is set: the clock is read last before it."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = False
        self.reached = threading.Event()

    def stamp(self) -> Stamp:
        while self.hangs:
            self.reached.set()
            time.sleep(0.01)
        return super().stamp()


def test_status_queries_and_the_stop_do_not_wait_for_a_commit_that_hangs(tmp_path: Path) -> None:
    hanging = HangingDisk()
    spool = Spool(tmp_path / "spool.sqlite3", max_results=10, clock=hanging)
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, hanging, "hangs", False)
        stack.push(spool)
        spool.__enter__()
        outbox = Outbox(spool)
        add(outbox, "a")
        size = spool.bytes
        hanging.hangs = True
        writer = threading.Thread(target=add, args=(outbox, "b"), daemon=True)
        writer.start()
        assert hanging.reached.wait(5)
        started_s = time.monotonic()
        assert (outbox.fault, outbox.unsent, outbox.unsent_pictures, sum(outbox.losses.results.values())) == (
            None,
            2,
            0,
            0,
        )
        assert (spool.count, spool.picture_count, spool.bytes) == (1, 0, size)
        assert size > 0 and spool.oldest_age_s is not None
        assert time.monotonic() - started_s < 0.1
        behind = threading.Thread(target=add, args=(outbox, "c"), daemon=True)
        behind.start()
        while outbox.unsent < 3:
            time.sleep(0.01)
        assert outbox.store_or_count_lost() == 2  # the first may or may not be on the disk
        assert spool.hangs
        spool.__exit__(None, None, None)
        assert time.monotonic() - started_s < HUNG_S + 0.6
        hanging.hangs = False
        writer.join(5)
        behind.join(5)
    assert not writer.is_alive() and not behind.is_alive()


def test_disk_that_does_not_answer_is_a_fault_until_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.spool.database.MAX_WAIT_S", 0.2)
    hanging = HangingDisk()
    with Spool(tmp_path / "spool.sqlite3", max_results=10, clock=hanging) as spool:
        outbox = Outbox(spool)
        hanging.hangs = True
        writer = threading.Thread(target=add, args=(outbox, "a"))
        writer.start()
        assert hanging.reached.wait(5)
        time.sleep(0.3)
        assert "the disk has not answered for more than 0.2 s" in (outbox.fault or "")
        hanging.hangs = False
        writer.join(5)
        assert outbox.fault is None


class HangingOpening(SpoolClock):
    """The opening of the file hangs until `answers` is set: the clock is set at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def go_on_from(self, last: Stamp) -> None:
        assert self.answers.wait(20)
        super().go_on_from(last)


def test_opening_that_hangs_is_a_fault_and_results_are_sent_from_memory_and_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zsad_agent.spool.database.MAX_WAIT_S", 0.2)
    path = tmp_path / "spool.sqlite3"
    with Spool(path, max_results=10) as spool:
        add(Outbox(spool), "a")
    monkeypatch.setattr("zsad_agent.spool.spool.MAX_WAIT_S", 0.2)
    monkeypatch.setattr("zsad_agent.spool.outbox.MAX_WAIT_S", 0.2)
    hanging = HangingOpening()
    started_s = time.monotonic()
    with Spool(path, max_results=10, clock=hanging) as spool:
        outbox = Outbox(spool, clock_s=clock)
        ids = add(outbox, "b", "c")
        assert outbox.fault == f"{path}: the disk has not answered for more than 0.2 s"
        assert take(outbox, 1) == ["b"]
        outbox.acknowledge(ids[0])
        assert outbox.store_or_count_lost() == outbox.unsent == 1
        spool.__exit__()  # a stop raises no error
        assert time.monotonic() - started_s < 1.0
        assert len(caplog.records) == 1
        hanging.answers.set()
        while spool.faults:
            time.sleep(0.01)
        clock.now_s += UPKEEP_S
        outbox.delete_acknowledged()
        assert (spool.count, outbox.fault, outbox.unsent) == (2, None, 2)
        outbox.rewind()
        assert take(outbox) == ["a", "c"]


def test_stop_ends_the_wait_for_an_opening_that_hangs(tmp_path: Path) -> None:
    hanging, stop = HangingOpening(), threading.Event()
    stop.set()
    started_s = time.monotonic()
    with Spool(tmp_path / "spool.sqlite3", max_results=10, clock=hanging, stop=stop) as spool:
        Outbox(spool)
        assert spool.hangs
    assert time.monotonic() - started_s < HUNG_S + 0.3
    hanging.answers.set()


def add_noted(outbox: Outbox, told: list[str], *bodies: str) -> list[int]:
    """All at once; each is in `told` as soon as it is durable."""
    return outbox.add_all(
        [Accepted("cam0", body.encode(), on_durable=lambda body=body: told.append(body)) for body in bodies]  # type: ignore[misc]
    )


def test_on_durable_is_called_exactly_once_when_the_result_is_on_disk(outbox: Outbox) -> None:
    told: list[str] = []
    ids = add_noted(outbox, told, "a", "b")
    assert told == ["a", "b"]
    take(outbox)
    outbox.acknowledge(ids[0])
    outbox.delete_acknowledged(everything=True)
    assert told == ["a", "b"]


def test_on_durable_is_not_called_for_a_result_given_up_from_memory(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    told: list[str] = []
    disk.failing = {"append"}
    for body in "abcdefgh":
        add_noted(outbox, told, body)
    assert (told, sum(outbox.losses.results.values())) == ([], 3)
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert told == list("defgh")
    assert disk.count == 5


def test_on_durable_of_a_result_in_memory_is_called_when_the_broker_has_it_not_when_it_refuses_it(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    told: list[str] = []
    disk.failing = {"append"}
    ids = add_noted(outbox, told, "a", "b", "c")
    take(outbox)
    outbox.acknowledge(ids[0])
    assert told == ["a"]
    outbox.refuse(ids[1])
    outbox.delete_acknowledged(everything=True)
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert told == ["a", "c"]


def test_slow_on_durable_does_not_block_other_threads(outbox: Outbox) -> None:
    told, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        told.set()
        assert go_on.wait(10)

    result = Accepted("cam0", b"a", on_durable=wait)
    teller = threading.Thread(target=outbox.add_all, args=([result],))
    teller.start()
    assert told.wait(5)
    assert take(outbox) == ["a"]
    go_on.set()
    teller.join(5)
