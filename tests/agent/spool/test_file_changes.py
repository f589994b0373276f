"""The spool's files are removed, renamed, replaced or hidden while the agent has them open: no result is lost."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fast_clock import FastClock
from file_change_tools import AFTER, BEFORE, FOREIGN, add, drain, write_spool

from zsad_agent.spool import Accepted, Entry, Outbox, Spool
from zsad_agent.system import open_sqlite
from zsad_core.errors import SpoolError

BACKUP = BEFORE[:10]  # the content of the backup


def remove_folder(state: Path) -> None:
    shutil.rmtree(state)


def rename_folder(state: Path) -> None:
    state.rename(state.with_name("state.old"))


def remove_file(state: Path) -> None:
    (state / "spool.sqlite3").unlink()


def remove_log(state: Path) -> None:
    (state / "spool.sqlite3-wal").unlink()


def empty_file(state: Path) -> None:
    (state / "spool.sqlite3").write_bytes(b"")


def truncate_log(state: Path) -> None:
    (state / "spool.sqlite3-wal").write_bytes(b"")


def truncate_every_file(state: Path) -> None:
    """A mapped file that is truncated would end the process (SIGBUS)."""
    for file in state.iterdir():
        os.truncate(file, 0)


def restore_by_rename(state: Path) -> None:
    """Like rsync and most backup programs."""
    for file in (state.parent / "backup").iterdir():
        shutil.copy2(file, state / "restoring")
        (state / "restoring").rename(state / file.name)


def restore_in_place(state: Path) -> None:
    """Like cp."""
    shutil.copytree(state.parent / "backup", state, dirs_exist_ok=True, copy_function=shutil.copy)


def restore_live_backup_in_place(state: Path) -> None:
    shutil.copytree(state.parent / "live backup", state, dirs_exist_ok=True)


def restore_live_backup_by_rename(state: Path) -> None:
    shutil.rmtree(state)
    shutil.copytree(state.parent / "live backup", state)


def put_foreign_spool(state: Path) -> None:
    shutil.rmtree(state)
    write_spool(state / "spool.sqlite3", FOREIGN)


def put_foreign_spool_in_place(state: Path) -> None:
    write_spool(state.parent / "foreign" / "spool.sqlite3", FOREIGN)
    shutil.copy(state.parent / "foreign" / "spool.sqlite3", state / "spool.sqlite3")


def link_to_other_folder(state: Path) -> None:
    (state.parent / "other").mkdir()
    state.rename(state.with_name("state.old"))
    state.symlink_to(state.parent / "other")


def copy_and_swap(state: Path) -> None:
    """The folder moves to another disk; what is written during the copy is missing there."""
    shutil.copytree(state, state.with_name("moved"))
    shutil.rmtree(state)
    state.with_name("moved").rename(state)


def write_over_the_middle(state: Path) -> None:
    with (state / "spool.sqlite3").open("r+b") as file:
        file.seek(4096)
        file.write(b"\0" * 4096)


CHANGES: list[tuple[Callable[[Path], None], list[str]]] = [
    (remove_folder, []),
    (rename_folder, []),
    (remove_file, []),
    (remove_log, []),
    (empty_file, []),
    (truncate_log, []),
    (truncate_every_file, []),
    (restore_by_rename, []),
    (restore_in_place, []),
    (restore_live_backup_in_place, []),
    (restore_live_backup_by_rename, []),
    (put_foreign_spool, FOREIGN),
    (put_foreign_spool_in_place, FOREIGN),
    (link_to_other_folder, []),
    (copy_and_swap, []),
    (write_over_the_middle, []),
]


@pytest.mark.parametrize("synced", [False, True], ids=["in the log", "in the file"])
@pytest.mark.parametrize(("change", "more"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_no_result_is_lost_when_the_files_are_changed(
    path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None], more: list[str], synced: bool
) -> None:
    write_spool(path, BACKUP)
    shutil.copytree(path.parent, path.parent.with_name("backup"))
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE[10:20])
        shutil.copytree(path.parent, path.parent.with_name("live backup"))
        add(outbox, BEFORE[20:])
        if synced:
            spool.sync()
        change(path.parent)
        add(outbox, AFTER)
        assert "was changed while it was open" in (outbox.incident or "")
        assert outbox.unsent >= len(BEFORE + AFTER)
        assert path.exists()
    assert "was changed while it was open" in caplog.text
    assert "LOST" not in caplog.text
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool)
        found = [body for body, _ in drain(outbox)]
        assert outbox.unsent == 0
    assert set(found) == {*BEFORE, *AFTER, *more}
    for ours in (BEFORE, AFTER):
        assert [body for number, body in enumerate(found) if body in ours and body not in found[:number]] == ours


@pytest.mark.parametrize(("change", "more"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_results_arrive_over_the_present_connection_when_the_files_are_changed(
    path: Path, change: Callable[[Path], None], more: list[str]
) -> None:
    write_spool(path, BACKUP)
    shutil.copytree(path.parent, path.parent.with_name("backup"))
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE[10:20])
        shutil.copytree(path.parent, path.parent.with_name("live backup"))
        add(outbox, BEFORE[20:])
        outbox.rewind()
        in_flight = outbox.take(5)
        change(path.parent)
        add(outbox, AFTER)
        for entry in in_flight:
            outbox.acknowledge(entry.id)
        found = drain(outbox)
        assert outbox.unsent == 0 and spool.count == 0
        add(outbox, ["live"])
        assert drain(outbox) == [("live", False)]
    bodies = [body for body, _ in found]
    assert {entry.body.decode() for entry in in_flight} | set(bodies) == {*BEFORE, *AFTER, *more}
    assert all(replayed for body, replayed in found if body in {*BEFORE, *FOREIGN})


def test_results_are_sent_and_a_fault_is_reported_while_no_new_file_can_be_written(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        shutil.rmtree(path.parent)
        path.parent.touch()  # a file, so that no folder can be created
        add(outbox, AFTER[:10])
        assert "30 results cannot be rescued into a new file (File exists)" in (outbox.fault or "")
        assert spool.is_kept() is False
        assert outbox.store_or_count_lost() == 40
        outbox.rewind()
        assert [entry.body.decode() for entry in outbox.take(35)] == BEFORE + AFTER[:5]
        path.parent.unlink()
        add(outbox, AFTER[10:])
        assert spool.is_kept() and outbox.store_or_count_lost() == 0
        outbox.rewind()
        assert [body for body, _ in drain(outbox)] == BEFORE + AFTER


@contextlib.contextmanager
def mounted_over(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_spool_continues_when_a_file_system_is_mounted_over_it_and_unmounted(tiny_disk: Path) -> None:
    path = tiny_disk / "spool.sqlite3"
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        with mounted_over(tiny_disk):
            add(outbox, AFTER[:10])
            assert path.exists()
            outbox.rewind()
            assert [body for body, _ in drain(outbox)] == BEFORE + AFTER[:10]
        add(outbox, AFTER[10:])
        assert [body for body, _ in drain(outbox) if body not in BEFORE] == AFTER[10:]


def test_no_result_is_lost_when_another_program_has_used_its_id(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("INSERT INTO results VALUES (31, 'cam0', ?, ?, 0)", (b"other", zlib.crc32(b"other")))
            db.commit()
            add(outbox, AFTER)
        found = [body for body, _ in drain(outbox)]
    assert set(found) == {*BEFORE, *AFTER, "other"}
    assert len(found) == len(BEFORE) + len(AFTER) + 1


def test_a_new_result_with_an_id_in_use_is_an_error_and_the_same_result_again_is_not(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        entry = Entry(spool.new_id(), "cam0", b"a")
        spool.append([entry])
        spool.append([entry])
        assert spool.count == 1
        spool.append([Entry(entry.id, "cam0", b"b")])  # a stale counter: the file is read into a new one
        assert {entry.body for entry in spool.read(0, spool.last_id, 10)} == {b"a", b"b"}
        assert spool.count == 2


def test_a_file_that_disappears_while_the_disk_fails_and_sqlite_has_closed_it_is_read(path: Path) -> None:
    bodies = [b"%d" % number for number in range(1500)]
    with Spool(path, max_results=10_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body) for body in bodies])
        spool._file._close_connections()
        shutil.rmtree(path.parent)
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, AFTER)
        assert outbox.losses.results == {}
        assert {body for body, _ in drain(outbox)} == {*AFTER, *(body.decode() for body in bodies)}


def test_results_that_cannot_be_read_any_more_are_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only the newest results are in memory when the content is overwritten."""
    bodies = [b"%d" % number for number in range(1500)]
    with Spool(path, max_results=10_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body) for body in bodies])
        spool._file._close_connections()
        path.write_bytes(b"")
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, AFTER)
        assert outbox.losses.results == {"damage": 500}
        assert outbox.unsent == 1000 + len(AFTER)
        found = [body for body, _ in drain(outbox)]
    assert set(found) == {*AFTER, *(body.decode() for body in bodies[500:])}
    assert "500 results cannot be read any more and are LOST" in caplog.text


def test_checkpoints_of_the_agent_are_not_reported_as_changes(path: Path) -> None:
    with Spool(path, max_results=100_000, max_bytes=2_000_000, fsync="periodic") as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        for _ in range(40):
            outbox.add_all([Accepted("cam0", b"x" * 2000)] * 50)
            spool.sync()
            outbox.delete_acknowledged()
            for entry in outbox.take(40):
                outbox.acknowledge(entry.id)
        assert outbox.fault is None
    assert [file.name for file in path.parent.iterdir()] == ["spool.sqlite3"]


def test_an_idle_agent_also_rescues_its_results(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        shutil.rmtree(path.parent)
        outbox.delete_acknowledged()
        assert path.exists()
        shutil.rmtree(path.parent)
    with Spool(path, max_results=1000) as spool:  # closing it has rescued them again
        assert [body for body, _ in drain(Outbox(spool))] == BEFORE


def test_a_disk_that_is_too_full_for_the_rescue_is_a_fault_and_no_result_is_lost(tiny_disk: Path) -> None:
    path = tiny_disk / "spool.sqlite3"
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        path.rename(tiny_disk / "moved")
        with nearly_full(tiny_disk, 0):
            add(outbox, AFTER[:5])
            assert "cannot be rescued into a new file (database or disk is full)" in (outbox.fault or "")
            assert not path.exists()
            assert sorted(file.name for file in tiny_disk.iterdir() if "new-" in file.name) == []
        add(outbox, AFTER[5:])
        outbox.rewind()
        assert [body for body, _ in drain(outbox)] == BEFORE + AFTER


def test_a_folder_in_place_of_the_spool_is_a_fault_and_no_result_is_lost(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, BEFORE)
        path.unlink()
        path.mkdir()
        add(outbox, AFTER[:5])
        assert "cannot be rescued into a new file (Is a directory)" in (outbox.fault or "")
        path.rmdir()
        add(outbox, AFTER[5:])
        assert [body for body, _ in drain(outbox)] == BEFORE + AFTER


def test_a_file_that_is_changed_and_removed_is_read_as_far_as_possible(path: Path) -> None:
    bodies = [b"%d" % number for number in range(1500)]  # more than are in memory
    with Spool(path, max_results=10_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body) for body in bodies])
        spool.sync()
        with contextlib.closing(open_sqlite(path)) as db:
            db.execute("UPDATE state SET results = 7")
        path.unlink()
        outbox = Outbox(spool, clock_s=FastClock())
        add(outbox, AFTER)
        assert outbox.losses.results == {}
        assert {body for body, _ in drain(outbox)} == {*AFTER, *(body.decode() for body in bodies)}


def test_a_checkpoint_that_fails_on_a_full_disk_is_not_reported_as_a_change(tiny_disk: Path) -> None:
    with Spool(tiny_disk / "spool.sqlite3", max_results=1000, fsync="periodic") as spool:
        spool.append([Entry(spool.new_id(), "cam0", bytes(4000)) for _ in range(60)])
        with nearly_full(tiny_disk, 40_000):  # a part of the checkpoint fits
            with pytest.raises(SpoolError, match="cannot be synced to disk: database or disk is full"):
                spool.sync()
            assert spool.is_kept() and spool.hang_fault is spool.incident is None
            assert not spool.adrift


@contextlib.contextmanager
def nearly_full(disk: Path, free: int) -> Iterator[None]:
    """Fills the disk except for `free` bytes."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.truncate(ballast, ballast.stat().st_size - free)
    yield
    ballast.unlink()


@pytest.mark.parametrize("free", [0, 16_384, 65_536])
def test_no_result_is_lost_when_the_disk_fills_up_during_a_rescue(
    tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr("zsad_agent.spool.repair.RESCUE_BATCH", 5)
    path, foreign = tiny_disk / "spool.sqlite3", [f"{number} {'x' * 2000}" for number in range(60)]
    write_spool(path, foreign)
    aside = path.rename(f"{path}.found-20261129T112801-714898")
    Path(f"{aside}-rescue").touch()
    write_spool(tiny_disk.parent / "spool.sqlite3", BEFORE)
    shutil.copy(tiny_disk.parent / "spool.sqlite3", path)
    with nearly_full(tiny_disk, free), Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        found = [body for body, _ in drain(outbox)]
        assert set(BEFORE) <= set(found) and len(set(found)) == len(found)
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool, clock_s=FastClock())
        found += [body for body, _ in drain(outbox)]
    assert set(found) == {*BEFORE, *foreign}


@pytest.mark.parametrize("kind", ["new", "corrupt"])
def test_results_that_were_set_aside_are_read_although_another_spool_has_their_ids(path: Path, kind: str) -> None:
    """The process was killed during the rescue of a spool that another program had replaced."""
    write_spool(path, BEFORE)
    aside = path.rename(f"{path}.{kind}-20261129T112801-714898")
    Path(f"{aside}-rescue").touch()
    write_spool(path, FOREIGN)
    with Spool(path, max_results=1000) as spool:
        found = [body for body, _ in drain(Outbox(spool, clock_s=FastClock()))]
    assert sorted(found) == sorted(BEFORE + FOREIGN)
