"""The outbox while a commit or the opening of the file hangs."""

import contextlib
import threading
import time
from pathlib import Path

import pytest
from mqtt_listener import wait_until
from outbox_tools import Clock, add, take

from zsad_agent.spool import Outbox, Spool, SpoolClock, Stamp
from zsad_agent.spool.outbox import UPKEEP_S


class HangingDisk(SpoolClock):
    """A commit hangs while `hangs` is set: the spool reads this clock directly before it."""

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
        assert hanging.reached.wait(60)
        started_s = time.monotonic()
        assert (outbox.fault, outbox.unsent, outbox.unsent_pictures, sum(outbox.losses.results.values())) == (
            None,
            2,
            0,
            0,
        )
        assert (spool.count, spool.picture_count, spool.bytes) == (1, 0, size)
        assert size > 0 and spool.oldest_age_s is not None
        assert time.monotonic() - started_s < 20
        behind = threading.Thread(target=add, args=(outbox, "c"), daemon=True)
        behind.start()
        while outbox.unsent < 3:
            time.sleep(0.01)
        assert outbox.store_or_count_lost() == 2  # the first may or may not be on the disk
        assert spool.hangs
        spool.__exit__(None, None, None)
        assert time.monotonic() - started_s < 20
        hanging.hangs = False
        writer.join(60)
        behind.join(60)
    assert not writer.is_alive() and not behind.is_alive()


def test_disk_that_does_not_answer_is_a_fault_until_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.spool.clock.MAX_WAIT_S", 0.2)
    hanging = HangingDisk()
    with Spool(tmp_path / "spool.sqlite3", max_results=10, clock=hanging) as spool:
        outbox = Outbox(spool)
        hanging.hangs = True
        writer = threading.Thread(target=add, args=(outbox, "a"))
        writer.start()
        assert hanging.reached.wait(60)
        wait_until(lambda: "the disk has not answered for more than 0.2 s" in (outbox.fault or ""))
        hanging.hangs = False
        writer.join(60)
        assert outbox.fault is None


class HangingOpening(SpoolClock):
    """The opening of the file hangs until `answers` is set: the spool sets this clock at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = threading.Event()

    def go_on_from(self, last: Stamp) -> None:
        assert self.answers.wait(60)
        super().go_on_from(last)


def test_opening_that_hangs_is_a_fault_and_results_are_sent_from_memory_and_stored_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zsad_agent.spool.clock.MAX_WAIT_S", 0.2)
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
        assert time.monotonic() - started_s < 20
        assert len(caplog.records) == 1
        hanging.answers.set()
        while spool.hang_fault:
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
    assert time.monotonic() - started_s < 20
    hanging.answers.set()
