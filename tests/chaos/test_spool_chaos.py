"""The spool and the outbox when the disk, the file, the clock or the process fails. They raise no error."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_record import record
from fast_clock import FastClock

from zsad_agent.spool import Accepted, Entry, Outbox, Spool, SpoolClock
from zsad_agent.spool.given_up import NEWEST
from zsad_core.errors import SpoolError

PAGE_BYTES = 4096


def drain(outbox: Outbox) -> list[str]:
    """Takes and acknowledges all results, as over one connection."""
    outbox.rewind()
    found = []
    while entries := outbox.take(50):
        for entry in entries:
            found.append(entry.body.decode())
            outbox.acknowledge(entry.id)
        outbox.delete_acknowledged()
    outbox.delete_acknowledged(everything=True)
    return found


def sound_spool(path: Path, results: int) -> list[str]:
    written = [f"{number:05}" * 200 for number in range(results)]
    with Spool(path, max_results=10_000, fsync="periodic") as spool:
        spool.append([Entry(spool.new_id(), "cam0", body.encode()) for body in written])
    return written


def check_truncations(tmp_path: Path, step: int) -> None:
    """Truncates at every `step`th byte of the last page: the order is kept, and new results are accepted."""
    original = tmp_path / "original.sqlite3"
    written = sound_spool(original, 40)
    content = original.read_bytes()
    lost, recover_s = 0, []
    cuts = [*range(len(content) - 1, len(content) - PAGE_BYTES, -step), len(content) - PAGE_BYTES]  # also all of it
    for cut in cuts:
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        path = folder / "spool.sqlite3"
        path.write_bytes(content[:cut])
        started_s = time.monotonic()
        with Spool(path, max_results=10_000, fsync="periodic") as spool:
            outbox = Outbox(spool, clock_s=FastClock())
            outbox.add_all([Accepted("cam0", b"after")])
            recover_s.append(time.monotonic() - started_s)
            assert outbox.fault is None
            found = drain(outbox)
        kept = found[:-1]
        assert found[-1] == "after", cut
        assert kept == [body for body in written if body in set(kept)], cut  # unchanged, in order, none twice
        assert len(kept) >= len(written) - 4, cut  # at most the content of the last page is lost
        lost += len(written) - len(kept)
        shutil.rmtree(folder)
    record(
        "spool file truncated within its last page",
        tried=len(cuts),
        lost=lost,
        doubled=0,
        recover_s=recover_s,
        note=f"step {step} byte; lost: results whose bytes were cut off, of {len(written)} in each file",
    )


def test_a_spool_truncated_within_its_last_page_keeps_all_other_results(tmp_path: Path) -> None:
    check_truncations(tmp_path, 64)


@pytest.mark.chaos
def test_a_spool_truncated_at_every_byte_of_its_last_page_keeps_all_other_results(tmp_path: Path) -> None:
    check_truncations(tmp_path, 1)


WRITER = """
import sys
from pathlib import Path
from zsad_agent.spool import Accepted, Outbox
from zsad_agent.spool import Spool
with Spool(Path(sys.argv[1]), max_results=10**8, fsync=sys.argv[3]) as spool:
    outbox = Outbox(spool)
    number = int(sys.argv[2])
    while True:
        for _ in range(3):
            picture = (f"id-{number}", b"x" * 20_000) if number % 7 == 0 else None
            outbox.add_all([Accepted("cam0", b"%d" % number, picture)])
            print("accepted", number, flush=True)
            number += 1
        for entry in outbox.take(2):
            print("acknowledged", entry.body.decode(), flush=True)
            outbox.acknowledge(entry.id)
        outbox.delete_acknowledged()
"""
PER_KILL = 1_000_000


def check_kills(path: Path, kills: int, fsync: str, seed: int) -> None:
    """Kills a child that accepts, acknowledges and deletes: each accepted result is in the spool or acknowledged."""
    choice = random.Random(seed)
    accepted: set[int] = set()
    acknowledged: list[int] = []
    recover_s = []
    for kill in range(kills):
        command = [sys.executable, "-c", WRITER, str(path), str(kill * PER_KILL), fsync]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        started_s = time.monotonic()
        said = [writer.stdout.readline()]
        recover_s.append(time.monotonic() - started_s)
        time.sleep(choice.uniform(0, 0.15))
        writer.send_signal(signal.SIGKILL)
        said += writer.stdout.read().splitlines(keepends=True)
        assert writer.wait() == -signal.SIGKILL, "the writer failed by itself"
        writer.stdout.close()
        for line in said:
            if line.endswith("\n"):  # an incomplete last line does not count
                what, number = line.split()
                accepted.add(int(number)) if what == "accepted" else acknowledged.append(int(number))
    with Spool(path, max_results=10**8) as spool:
        outbox = Outbox(spool)
        assert outbox.fault is None
        found = [int(body) for body in drain(outbox)]
        assert outbox.unsent == 0
    assert len(accepted) >= kills
    missing = accepted - set(found) - set(acknowledged)
    record(
        f"kill -9 of a writer, spool.fsync = {fsync}",
        tried=kills,
        lost=len(missing),
        doubled=len(set(found) & set(acknowledged)),
        recover_s=recover_s,
        note=f"{len(accepted)} results accepted; doubled: results acknowledged and not yet deleted at the kill",
    )
    assert not missing
    assert found == sorted(set(found))


@pytest.mark.parametrize("fsync", ["each", "periodic"])
def test_every_accepted_result_is_found_after_kills(tmp_path: Path, fsync: str) -> None:
    check_kills(tmp_path / "spool.sqlite3", 10, fsync, seed=1)


@pytest.mark.chaos
@pytest.mark.parametrize("fsync", ["each", "periodic"])
def test_every_accepted_result_is_found_after_many_kills(tmp_path: Path, fsync: str) -> None:
    check_kills(tmp_path / "spool.sqlite3", 200, fsync, seed=2)


def fill_up(disk: Path) -> Path:
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 1024)
    return ballast


def check_full_disk(disk: Path, rounds: int) -> None:
    sent: list[str] = []
    recover_s = []
    number = 0
    with Spool(disk / "spool.sqlite3", max_results=10_000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        for _ in range(rounds):
            ballast = fill_up(disk)
            faults = 0
            for _ in range(150):
                outbox.add_all([Accepted("cam0", f"{number:0500}".encode(), (f"id-{number}", b"x" * 5000))])
                number += 1
                faults += outbox.fault is not None
            assert faults > 50, "the disk was not full"
            ballast.unlink()
            started_s = time.monotonic()
            while outbox.fault is not None:
                outbox.add_all([Accepted("cam0", f"{number:0500}".encode())])
                number += 1
                outbox.take(0)
                outbox.delete_acknowledged()
                assert time.monotonic() - started_s < 10
            recover_s.append(time.monotonic() - started_s)
            sent += drain(outbox)
        assert outbox.losses.results == {}
        assert outbox.losses.pictures.get("disk", 0) > 0  # images are dropped before results
    missing = {f"{each:0500}" for each in range(number)} - set(sent)
    record("full disk", tried=rounds, lost=len(missing), doubled=len(sent) - len(set(sent)), recover_s=recover_s)
    assert sent == [f"{each:0500}" for each in range(number)]


def test_a_full_disk_that_is_freed_costs_no_result(tiny_disk: Path) -> None:
    check_full_disk(tiny_disk, 2)


@pytest.mark.chaos
def test_a_disk_that_is_full_and_freed_many_times_costs_no_result(tiny_disk: Path) -> None:
    check_full_disk(tiny_disk, 50)


def test_a_start_on_a_full_disk_is_a_fault_and_the_results_are_sent(tiny_disk: Path) -> None:
    ballast = fill_up(tiny_disk)
    with Spool(tiny_disk / "spool.sqlite3", max_results=10_000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        assert outbox.fault is not None
        for number in range(100):
            outbox.add_all([Accepted("cam0", b"%d" % number)])
        entries = outbox.take(10)
        assert [entry.body for entry in entries] == [b"%d" % number for number in range(10)]
        ballast.unlink()
        outbox.add_all([Accepted("cam0", b"100")])
        assert drain(outbox) == [str(number) for number in range(101)]
        assert outbox.fault is None


@pytest.fixture
def read_only(tiny_disk: Path) -> Iterator[Path]:
    """A disk with a spool of two results, mounted read-only."""
    sound_spool(tiny_disk / "spool.sqlite3", 2)
    remount(tiny_disk, "ro")
    yield tiny_disk
    remount(tiny_disk, "rw")


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_a_read_only_spool_is_a_fault_and_works_when_it_can_be_written(read_only: Path) -> None:
    path = read_only / "spool.sqlite3"
    started_s = time.monotonic()
    with Spool(path, max_results=10_000) as spool:
        outbox = Outbox(spool, max_in_memory=50, clock_s=FastClock())
        assert str(path) in (outbox.fault or "")
        for number in range(60):
            outbox.add_all([Accepted("cam0", b"new %d" % number)])
        assert outbox.losses.results == {"disk": 10}  # memory is bounded, and the dropped results are counted
        remount(read_only, "rw")
        outbox.add_all([Accepted("cam0", b"last")])
        found = drain(outbox)
        assert outbox.fault is None
        assert outbox.losses.results == {"disk": 10}
    assert [body[:5] for body in found[:2]] == ["00000", "00001"]
    assert found[2:] == [*(f"new {number}" for number in range(10, 60)), "last"]
    record(
        "read-only spool at start",
        tried=1,
        lost=0,
        doubled=0,
        recover_s=[time.monotonic() - started_s],
        note="up to 1000 results wait in memory; more drop the oldest, which are counted",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_spool_in_a_folder_without_write_permission_is_a_fault(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    child = """
import os, sys
from pathlib import Path
from zsad_agent.spool import Accepted, Outbox
from zsad_agent.spool import Spool
os.setuid(65534)
with Spool(Path(sys.argv[1]), max_results=10) as spool:
    outbox = Outbox(spool)
    outbox.add_all([Accepted("cam0", b"a")])
    print(outbox.fault, "|", [entry.body for entry in outbox.take(5)])
"""
    for parent in (tmp_path, *tmp_path.parents[:2]):
        parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", child, str(folder / "spool.sqlite3")], capture_output=True, text=True, check=True
    )
    fault, _, taken = done.stdout.strip().partition(" | ")
    assert "Permission denied" in fault
    assert taken == "[b'a']"


def check_clock(path: Path, jumps: int, seed: int) -> None:
    """The system clock jumps by up to 30 years either way, and agent and machine restart: no result is dropped."""
    choice = random.Random(seed)
    now_s = {"wall": 1.8e9, "boot": 100.0}
    boot = 0
    written: list[str] = []
    for jump in range(jumps):
        if choice.random() < 0.1:
            boot, now_s["boot"] = boot + 1, 10.0
        clock = SpoolClock(wall_s=lambda: now_s["wall"], boot_s=lambda: now_s["boot"], boot_id=f"boot {boot}")
        with Spool(path, max_results=10_000, max_age_h=24.0 * 30, fsync="periodic", clock=clock) as spool:
            for step in range(3):
                now_s["wall"] += choice.uniform(-1e9, 1e9)
                body = f"{jump}-{step}"
                spool.append([Entry(spool.new_id(), "cam0", body.encode())])
                written.append(body)
                now_s["boot"] += 1.0
                spool.upkeep()
            assert spool.losses.results == {}
    with Spool(path, max_results=10_000) as spool:
        found = drain(Outbox(spool))
    record("system clock jumps", tried=3 * jumps, lost=len(written) - len(found), doubled=0, recover_s=None)
    assert found == written


def test_system_clock_jumps_cost_no_result(tmp_path: Path) -> None:
    check_clock(tmp_path / "spool.sqlite3", 20, seed=3)


@pytest.mark.chaos
def test_many_system_clock_jumps_cost_no_result(tmp_path: Path) -> None:
    check_clock(tmp_path / "spool.sqlite3", 150, seed=4)


def remove_folder(state: Path) -> None:
    shutil.rmtree(state)


def rename_folder(state: Path) -> None:
    state.rename(state.with_name(f"state.{time.monotonic_ns()}"))


def remove_file(state: Path) -> None:
    (state / "spool.sqlite3").unlink()


def remove_log(state: Path) -> None:
    (state / "spool.sqlite3-wal").unlink()


def restore_anew(state: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(state.with_name("backup"), state)


def restore_in_place(state: Path) -> None:
    shutil.copytree(state.with_name("backup"), state, dirs_exist_ok=True, copy_function=shutil.copy)


RESTORES = [restore_anew, restore_in_place]
CHANGES = [remove_folder, rename_folder, remove_file, remove_log, *RESTORES]


def check_file_changes(path: Path, changes: int, seed: int) -> None:
    """One thread adds results, one sends them every other second, a third changes the files: every result is sent.

    What waits is always less than `NEWEST`, which `restore_in_place` relies on: a restore brings back what was sent.
    """
    choice = random.Random(seed)
    stop = threading.Event()
    added: list[str] = []
    sent: list[str] = []
    with Spool(path, max_results=100_000, fsync="periodic") as spool:
        outbox = Outbox(spool, clock_s=FastClock())

        def add() -> None:
            while not stop.wait(0.005):
                if outbox.unsent < NEWEST // 4:  # also on a busy machine
                    outbox.add_all([Accepted("cam0", b"%d" % len(added))])
                    added.append(str(len(added)))

        def send() -> None:
            while not stop.wait(0.01):
                for entry in outbox.take(5) if time.monotonic() % 2 < 1 else ():
                    sent.append(entry.body.decode())
                    outbox.acknowledge(entry.id)
                outbox.delete_acknowledged()
                with contextlib.suppress(SpoolError):
                    spool.sync()

        threads = [threading.Thread(target=run) for run in (add, send)]
        for thread in threads:
            thread.start()
        for _ in range(changes):
            time.sleep(choice.uniform(0, 0.2))
            if choice.random() < 0.3:
                shutil.rmtree(path.parent.with_name("backup"), ignore_errors=True)
            with contextlib.suppress(OSError):  # the files are being changed by the agent itself
                if not path.parent.with_name("backup").exists():
                    shutil.copytree(path.parent, path.parent.with_name("backup"))
                change = choice.choice(CHANGES)
                if change not in RESTORES or spool.count < NEWEST // 4 + 50:
                    change(path.parent)
        stop.set()
        for thread in threads:
            thread.join()
        sent += drain(outbox)
        assert (outbox.unsent, spool.count) == (0, 0)
    missing = len(set(added) - set(sent))
    record(
        "spool's files removed, renamed, or restored from a backup, while they are open",
        tried=changes,
        lost=missing,
        doubled=len(sent) - len(set(sent)),
        recover_s=None,
        note=f"{len(added)} results",
    )
    assert missing == 0


def test_results_are_sent_when_the_files_of_the_spool_are_changed(tmp_path: Path) -> None:
    check_file_changes(tmp_path / "state" / "spool.sqlite3", 20, seed=5)


@pytest.mark.chaos
def test_results_are_sent_when_the_files_of_the_spool_are_changed_many_times(tmp_path: Path) -> None:
    check_file_changes(tmp_path / "state" / "spool.sqlite3", 500, seed=6)
