"""The spool's files are removed, renamed, replaced or hidden while the agent has them open: no result is lost."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zsad_agent.spool import Accepted, Entry, Outbox, Spool
from zsad_core.errors import SpoolError

BEFORE = [f"before {number}" for number in range(30)]
AFTER = [f"after {number}" for number in range(30)]
BACKUP = BEFORE[:10]  # what the backup has
FOREIGN = [f"foreign {number}" for number in range(40)]  # more than this agent has written


class Hurry:
    """A clock that advances at each call, so that retries are due at once."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def __call__(self) -> float:
        self._now_s += 5.0
        return self._now_s


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"


def add(outbox: Outbox, bodies: list[str]) -> None:
    for body in bodies:
        outbox.add_all([Accepted("cam0", body.encode())])


def drain(outbox: Outbox) -> list[tuple[str, bool]]:
    """Takes and acknowledges all results, as over the present connection: (body, replayed)."""
    found = []
    while entries := outbox.take(7):
        for entry in entries:
            found.append((entry.body.decode(), entry.id <= outbox.live_after))
            outbox.acknowledge(entry.id)
        outbox.delete_acknowledged()
    outbox.delete_acknowledged(everything=True)
    return found


def write_spool(path: Path, bodies: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Spool(path, max_results=1000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body.encode()) for body in bodies])


def remove_folder(state: Path) -> None:
    shutil.rmtree(state)


def rename_folder(state: Path) -> None:
    state.rename(state.with_name("state.old"))


def remove_file(state: Path) -> None:
    (state / "spool.sqlite3").unlink()


def remove_log(state: Path) -> None:
    (state / "spool.sqlite3-wal").unlink()


def remove_index(state: Path) -> None:
    (state / "spool.sqlite3-shm").unlink()


def remove_log_and_index(state: Path) -> None:
    remove_log(state)
    remove_index(state)


def empty_file(state: Path) -> None:
    (state / "spool.sqlite3").write_bytes(b"")


def truncate_log(state: Path) -> None:
    (state / "spool.sqlite3-wal").write_bytes(b"")


def restore_by_rename(state: Path) -> None:
    """As rsync and most backup programs."""
    for file in (state.parent / "backup").iterdir():
        shutil.copy2(file, state / "restoring")
        (state / "restoring").rename(state / file.name)


def restore_in_place(state: Path) -> None:
    """As cp."""
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
    (remove_index, []),
    (remove_log_and_index, []),
    (empty_file, []),
    (truncate_log, []),
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
        outbox = Outbox(spool, clock_s=Hurry())
        add(outbox, BEFORE[10:20])
        shutil.copytree(path.parent, path.parent.with_name("live backup"))
        add(outbox, BEFORE[20:])
        if synced:
            spool.sync()
        change(path.parent)
        add(outbox, AFTER)
        assert "was changed while it was open" in (outbox.fault or "")
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
        outbox = Outbox(spool, clock_s=Hurry())
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
