"""The spool's open file is overwritten while more results wait than are in memory: every loss is counted and stated."""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from zsad_agent.spool import Accepted, Entry, Outbox, Spool, rows
from zsad_agent.spool.rows import PAGE_BYTES, read_what_is_left

RESULTS = 2600
NEWEST = 1000  # in memory
BODIES = [f"{number} {'x' * 700}" for number in range(RESULTS)]
ROWS_BEFORE_BACKUP, ACKNOWLEDGED = 900, 500


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"


def write_spool(path: Path, bodies: list[str]) -> None:
    path.parent.mkdir(parents=True)
    with Spool(path, max_results=10_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body.encode()) for body in bodies])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def restore(path: Path) -> None:
    shutil.copy(path.parent.with_name("backup") / path.name, path)


def put_foreign_spool(path: Path, results: int = 3000) -> None:
    """With more results than were ever in ours."""
    write_spool(path.parent.with_name("foreign") / path.name, [f"foreign {number}" for number in range(results)])
    shutil.copy(path.parent.with_name("foreign") / path.name, path)


def put_small_foreign_spool(path: Path) -> None:
    put_foreign_spool(path, ACKNOWLEDGED + 40)


def zero_the_second_half(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size - size // 2))


def cut_the_second_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("overwrite", "unclear"),
    [
        (empty, 0),
        (fill_with_zeros, 0),
        (restore, ROWS_BEFORE_BACKUP - ACKNOWLEDGED),
        (put_foreign_spool, 0),
        (put_small_foreign_spool, 40),
        (zero_the_second_half, 0),
        (cut_the_second_half, 0),
    ],
)
def test_what_an_overwritten_file_has_lost_is_counted_and_stated(
    path: Path, caplog: pytest.LogCaptureFixture, overwrite: Callable[[Path], None], unclear: int
) -> None:
    with Spool(path, max_results=10_000) as spool:
        outbox = Outbox(spool)
        for start in range(0, RESULTS, 100):
            outbox.add_all([Accepted("cam0", body.encode()) for body in BODIES[start : start + 100]])
            if start + 100 == ROWS_BEFORE_BACKUP:
                spool.sync()
                shutil.copytree(path.parent, path.parent.with_name("backup"))
        for entry in outbox.take(ACKNOWLEDGED):
            outbox.acknowledge(entry.id)
        outbox.delete_acknowledged(everything=True)
        spool.sync()
        spool._file._close_connections()  # nothing is left in SQLite's cache
        overwrite(path)
        outbox.add_all([Accepted("cam0", b"after")])
        fault = outbox.incident or ""
        outbox.rewind()
        found = {entry.body.decode() for entry in outbox.take(10_000)}
        counted = outbox.losses.results.get("damage", 0)
    lost = len(set(BODIES[ACKNOWLEDGED:]) - found)
    assert {*BODIES[-NEWEST:], "after"} <= found
    assert lost > 0
    assert counted <= lost <= counted + unclear
    number = f"{counted} to {counted + unclear}" if unclear else str(counted)
    assert f"{number} results cannot be read any more and are LOST" in fault
    assert f"{number} results cannot be read any more and are LOST" in caplog.text


def test_neither_the_open_spool_nor_a_file_set_aside_is_mapped(path: Path) -> None:
    """A program that truncates a mapped file ends the process with SIGBUS."""
    path.parent.mkdir(parents=True)
    with Spool(path, max_results=10_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body.encode()) for body in BODIES[:3]])
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", path.with_name(f"aside{suffix}"))
        results = read_what_is_left(path.with_name("aside"))
        assert next(results).body == BODIES[0].encode()
        assert str(path.parent) not in Path("/proc/self/maps").read_text()
        assert len(list(results)) == 2
    assert not path.with_name("aside-shm").exists()


def roots(path: Path) -> dict[str, int]:
    """The first page of each table."""
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
        return dict(db.execute("SELECT name, rootpage FROM sqlite_master"))


def restore_all_but_the_counts(path: Path, backup: bytes) -> None:
    """Copies a backup over the file in place, and stops before the page with the state row."""
    counts = roots(path)["state"]
    with path.open("r+b") as file:
        for page in range(len(backup) // PAGE_BYTES):
            if page + 1 != counts:
                file.seek(page * PAGE_BYTES)
                file.write(backup[page * PAGE_BYTES :][:PAGE_BYTES])


@pytest.mark.parametrize("results", [40, RESULTS])
def test_rows_that_an_unfinished_restore_has_replaced_are_missed(path: Path, results: int) -> None:
    """The open connection then reads the newest counts and the rows of the backup, and SQLite finds both sound."""
    path.parent.mkdir(parents=True)
    with Spool(path, max_results=10_000) as spool:
        outbox = Outbox(spool)
        outbox.add_all([Accepted("cam0", body.encode()) for body in BODIES[: results - 2]])
        spool.sync()
        backup = path.read_bytes()
        outbox.add_all([Accepted("cam0", body.encode()) for body in BODIES[results - 2 : results]])
        spool.sync()
        assert len(backup) == path.stat().st_size
        assert spool._file._db is not None
        spool._file._db.execute("PRAGMA shrink_memory")  # SQLite reads the pages again
        restore_all_but_the_counts(path, backup)
        outbox.add_all([Accepted("cam0", b"after")])
        outbox.rewind()
        found = [entry.body.decode() for entry in outbox.take(10_000)]
        assert spool.count == len(found)
        assert outbox.losses.results == {}
    assert sorted(found) == sorted([*BODIES[:results], "after"])


def test_damage_during_a_rescue_costs_no_result_that_is_in_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file has only the results of the file found when it is overwritten too."""
    real = rows.missing
    damaged = iter([True])

    def missing(*arguments: Any) -> list[Entry]:
        if next(damaged, False):
            for suffix in ("", "-wal"):
                Path(f"{path}{suffix}").write_bytes(b"")
            spool._file._db.execute("PRAGMA shrink_memory")
            raise rows.damage("of the new file")
        return real(*arguments)

    path.parent.mkdir(parents=True)
    with Spool(path, max_results=10_000) as spool:
        outbox = Outbox(spool)
        outbox.add_all([Accepted("cam0", body.encode()) for body in BODIES[:30]])
        spool.sync()
        spool._file._close_connections()
        put_foreign_spool(path, 5)
        monkeypatch.setattr(rows, "missing", missing)
        outbox.add_all([Accepted("cam0", b"after")])
        outbox.rewind()
        found = {entry.body.decode() for entry in outbox.take(10_000)}
        assert next(damaged, False) is False
        assert outbox.losses.results.get("damage", 0) <= 5
    assert {*BODIES[:30], "after"} <= found


def test_acknowledged_results_of_an_overwritten_file_are_neither_lost_nor_sent_again(
    path: Path,
) -> None:
    path.parent.mkdir(parents=True)
    with Spool(path, max_results=10_000) as spool:
        outbox = Outbox(spool)
        outbox.add_all([Accepted("cam0", body.encode()) for body in BODIES[:30]])
        for entry in outbox.take(20):
            outbox.acknowledge(entry.id)
        spool.sync()
        spool._file._close_connections()
        fill_with_zeros(path)
        outbox.delete_acknowledged(everything=True)
        assert outbox.losses.results == {}
        outbox.rewind()
        assert [entry.body.decode() for entry in outbox.take(100)] == BODIES[20:30]
