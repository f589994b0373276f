"""Results come back from the spool's file in order; another file is refused."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from spool_tools import HOUR_S, Clocks, bodies, corrupt_files, fill, pictures, put, put_with_pictures

from zsad_agent.spool import Accepted, AttachedImage, Entry, Outbox, Spool
from zsad_agent.spool.spool import THIS_RUN
from zsad_core.errors import SpoolError


def test_empty_spool_reads_nothing_and_deletes_nothing(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        assert spool.read(0, spool.last_id, 10) == []
        spool.delete([(1, 2)])
        assert (spool.count, spool.picture_count, spool.last_id) == (0, 0, THIS_RUN)


def test_entries_are_read_in_order_after_reopening(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        put(spool, "a", "b")
        put(spool, "c")
    with Spool(path, max_results=10) as spool:
        assert bodies(spool) == ["a", "b", "c"]
        assert spool.count == 3
        assert [entry.id < THIS_RUN for entry in spool.read(0, spool.last_id, 10)] == [True] * 3
        assert put(spool, "d") == [THIS_RUN + 1]  # an id is not used twice while entries wait
        assert bodies(spool) == ["a", "b", "c", "d"]
    with Spool(path, max_results=10) as spool:
        put(spool, "e")
        assert bodies(spool) == ["a", "b", "c", "d", "e"]


def test_deleted_entries_are_not_read_and_reading_starts_after_an_id(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        ids = put(spool, "a", "b", "c", "d")
        spool.delete([(ids[0], ids[0]), (ids[2], ids[2])])
        assert bodies(spool) == ["b", "d"]
        assert spool.count == 2
        assert [entry.id for entry in spool.read(ids[1], ids[3], 10)] == [ids[3]]
        assert spool.read(ids[1], ids[2], 10) == []
        assert len(spool.read(0, spool.last_id, 1)) == 1


def test_appends_of_many_threads_are_all_kept_and_counted(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        outbox = Outbox(spool)
        result = Accepted("cam0", b"x")
        threads = [threading.Thread(target=lambda: [outbox.add_all([result]) for _ in range(50)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert spool.count == len(bodies(spool)) == 200


def test_second_agent_on_the_same_spool_is_refused_with_the_reason(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        put(spool, "a")
        with pytest.raises(SpoolError, match="another agent uses this spool"), Spool(path, max_results=10):
            pass
        assert bodies(spool) == ["a"]
    with Spool(path, max_results=10):
        pass


def test_use_before_opening_or_after_closing_is_a_spool_error(path: Path) -> None:
    spool = Spool(path, max_results=10)
    with pytest.raises(SpoolError, match="closed"):
        put(spool, "a")
    with spool:
        pass
    with pytest.raises(SpoolError, match="closed"):
        spool.read(0, spool.last_id, 1)


def test_folder_that_cannot_be_made_is_a_spool_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Spool(tmp_path / "file" / "spool", max_results=1) as spool:  # the start does not fail
        with pytest.raises(SpoolError, match="cannot be opened"):
            put(spool, "a")
        (tmp_path / "file").unlink()
        put(spool, "b")
        assert bodies(spool) == ["b"]


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    with Spool(path, max_results=1) as spool, pytest.raises(SpoolError, match="not a spool of this agent"):
        put(spool, "a")
    assert [file.name for file in path.parent.iterdir() if ".corrupt" in file.name] == []


def test_spool_of_a_newer_agent_is_refused(path: Path) -> None:
    with Spool(path, max_results=1):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=9")
    with Spool(path, max_results=1) as spool, pytest.raises(SpoolError, match="spool format 9, this agent reads 2"):
        put(spool, "a")


WRITER = """
import sys
from pathlib import Path
from zsad_agent.spool import Entry, Spool
number = int(sys.argv[2])
with Spool(Path(sys.argv[1]), max_results=1_000_000) as spool:
    while True:
        number += 1
        spool.append([Entry(spool.new_id(), "cam0", b"%700d" % number)])
        print(number, flush=True)
"""


def test_nothing_appended_is_lost_when_the_process_is_killed(path: Path) -> None:
    said: set[int] = set()
    for round_number in range(1, 4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(1_000_000 * round_number)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        for _ in range(100 * round_number):
            said.add(int(writer.stdout.readline()))
        writer.send_signal(signal.SIGKILL)
        said.update(int(line) for line in writer.stdout.read().split("\n")[:-1])  # whole lines only
        writer.wait()
        writer.stdout.close()
    with Spool(path, max_results=1_000_000) as spool:
        kept = [int(body) for body in bodies(spool)]
    assert said <= set(kept)
    assert kept == sorted(set(kept))


def test_full_disk_is_an_error_without_loss_until_there_is_room(tiny_disk: Path) -> None:
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"\0" * 500_000)
    with Spool(tiny_disk / "spool.sqlite3", max_results=1_000_000) as spool:
        written = []
        with pytest.raises(SpoolError, match="full"):
            for number in range(5000):
                put(spool, f"{number:1000}")
                written.append(f"{number:1000}")
        assert len(written) > 30
        assert bodies(spool) == written
        assert spool.count == len(written)
        ballast.unlink()
        put(spool, "again")
        assert bodies(spool) == [*written, "again"]


def test_sync_empties_the_log_into_the_file(path: Path) -> None:
    with Spool(path, max_results=1000) as spool:
        put(spool, *("x" * 1000 for _ in range(200)))
        assert path.stat().st_size < 100_000
        spool.sync()
        assert path.stat().st_size > 200_000


def test_pictures_are_read_after_reopening_and_deleted_separately_from_results(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        put_with_pictures(spool, ("a", b"A"), ("b", b"B"))
    with Spool(path, max_results=10) as spool:
        assert (bodies(spool), pictures(spool), spool.picture_count) == (["a", "b"], [b"A", b"B"], 2)
        first = spool.read_picture(0, spool.last_id)
        assert first == AttachedImage(1, "cam0", "line3-a", b"A")
        spool.delete([(1, 2)])
        assert (bodies(spool), pictures(spool)) == ([], [b"A", b"B"])
        spool.delete([], [(1, 1)])
        assert (pictures(spool), spool.picture_count) == ([b"B"], 1)


VERSION_1 = """CREATE TABLE results (
    id INTEGER PRIMARY KEY, camera TEXT NOT NULL, body BLOB NOT NULL, crc32 INTEGER NOT NULL)"""


def test_spool_of_format_1_is_upgraded_in_place_with_all_its_results(path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(VERSION_1)
        db.execute(f"PRAGMA application_id={0x7A736164}")
        db.execute("PRAGMA user_version=1")
        rows = [(number, "cam0", b"body %d" % number, zlib.crc32(b"body %d" % number)) for number in (3, 4, 9)]
        db.executemany("INSERT INTO results VALUES (?, ?, ?, ?)", rows)
    clocks = Clocks()
    with Spool(path, max_results=10, max_age_h=1, clock=clocks.spool_clock()) as spool:
        put_with_pictures(spool, ("new", b"jpeg"))
        spool.upkeep()
        assert bodies(spool) == ["body 3", "body 4", "body 9", "new"]
        assert (spool.count, pictures(spool)) == (4, [b"jpeg"])
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        assert db.execute("SELECT id FROM results").fetchall() == [(3,), (4,), (9,), (10,)]
    assert corrupt_files(path) == []
    with Spool(path, max_results=10, max_age_h=1, clock=clocks.spool_clock()) as spool:
        clocks.advance(2 * HOUR_S)
        spool.upkeep()
        assert (bodies(spool), spool.count) == ([], 0)  # their age counts from the upgrade


def test_large_backlog_is_counted_without_reading_it(path: Path) -> None:
    fill(path, 3000)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE state SET results = 12345")  # this number is used, not a count of the rows
        db.commit()
    with Spool(path, max_results=100_000) as spool:
        spool.upkeep()
        assert spool.count == 12345


def test_locked_database_is_an_error_within_seconds_and_works_afterwards(path: Path) -> None:
    with (
        Spool(path, max_results=10) as spool,
        contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        put(spool, "a")
        other.execute("BEGIN IMMEDIATE")
        started_s = time.monotonic()
        with pytest.raises(SpoolError, match="locked"):
            put(spool, "b")
        assert time.monotonic() - started_s < 20
        other.execute("ROLLBACK")
        put(spool, "c")
        assert bodies(spool) == ["a", "c"]


def test_folder_in_place_of_the_file_is_an_error_at_each_use_but_not_at_the_start(path: Path) -> None:
    path.mkdir(parents=True)
    with Spool(path, max_results=10) as spool:
        for _ in range(2):
            with pytest.raises(SpoolError, match="cannot be opened"):
                put(spool, "a")
        path.rmdir()
        put(spool, "b")
        assert bodies(spool) == ["b"]


@pytest.mark.parametrize(("fsync", "synchronous"), [("each", 2), ("periodic", 1)])
def test_append_is_fsynced_only_with_the_policy_each(path: Path, fsync: Any, synchronous: int) -> None:
    with Spool(path, max_results=10, fsync=fsync) as spool:
        put(spool, "a")
        assert spool._file._db is not None
        assert spool._file._db.execute("PRAGMA synchronous").fetchone() == (synchronous,)  # 2: FULL, 1: NORMAL


def test_append_that_failed_after_its_commit_can_be_repeated(path: Path) -> None:
    """As after an fsync error at the end of a commit: the log is complete when the file is opened again."""
    with Spool(path, max_results=10) as spool:
        entry = Entry(spool.new_id(), "cam0", b"a")
        picture = AttachedImage(entry.id, "cam0", "a", b"jpeg")
        spool.append([entry], [picture])
        later = Entry(spool.new_id(), "cam0", b"b")
        spool.append([entry, later], [picture])
        assert bodies(spool) == ["a", "b"]
        assert (spool.count, spool.picture_count) == (2, 1)
