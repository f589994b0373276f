import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from zsad_agent.spool import Accepted, AttachedImage, Entry, Outbox, Spool, SpoolClock, SpoolFile, State
from zsad_agent.spool.spool import THIS_RUN
from zsad_core.errors import SpoolError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool.sqlite3"


def put(spool: Spool, *bodies: str) -> list[int]:
    entries = [Entry(spool.new_id(), "cam0", body.encode()) for body in bodies]
    spool.append(entries)
    return [entry.id for entry in entries]


def bodies(spool: Spool) -> list[str]:
    return [entry.body.decode() for entry in spool.read(0, spool.last_id, 1_000_000)]


def test_empty_spool_reads_nothing_and_deletes_nothing(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        assert spool.read(0, spool.last_id, 10) == []
        spool.delete([(1, 2)])
        assert (spool.count, spool.picture_count, spool.last_id) == (0, 0, THIS_RUN)


def test_entries_come_back_in_order_after_reopening(path: Path) -> None:
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


def test_deleted_entries_are_gone_and_reading_goes_on_behind_an_id(path: Path) -> None:
    with Spool(path, max_results=10) as spool:
        ids = put(spool, "a", "b", "c", "d")
        spool.delete([(ids[0], ids[0]), (ids[2], ids[2])])
        assert bodies(spool) == ["b", "d"]
        assert spool.count == 2
        assert [entry.id for entry in spool.read(ids[1], ids[3], 10)] == [ids[3]]
        assert spool.read(ids[1], ids[2], 10) == []
        assert len(spool.read(0, spool.last_id, 1)) == 1


def test_oldest_results_are_given_up_above_the_limit_and_this_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(path, max_results=20) as spool:
        ids = [put(spool, str(number))[0] for number in range(25)]
        assert bodies(spool) == [str(number) for number in range(5, 25)]
        assert (spool.count, spool.losses.results) == (20, {"count": 5})
        assert caplog.text.count("spool.max_results = 20") == 1
        spool.delete([(ids[0], ids[14])])
        spool.upkeep()
        assert "room again; given up so far (count): 5 results" in caplog.text


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


def corrupt_files(path: Path) -> list[Path]:
    return [file for file in path.parent.iterdir() if file.name.startswith(f"{path.name}.corrupt-")]


def fill(path: Path, results: int) -> list[str]:
    """Appends that many results of 1 KB, each different, and returns their bodies."""
    written = [f"{number:04}" * 250 for number in range(results)]
    with Spool(path, max_results=10_000) as spool:
        put(spool, *written)
    return written


def cut_off_a_third(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def cut_into_the_last_page(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 100)


def overwrite_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not a database at all, nor ever one")


def overwrite_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(20_000))


def flip_one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"0050" * 20)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "least_rescued"),
    [
        (cut_off_a_third, 50),
        (cut_into_the_last_page, 90),
        (overwrite_header, 0),
        (overwrite_middle, 60),
        (flip_one_bit, 99),
    ],
)
def test_damaged_file_is_set_aside_and_what_can_be_read_is_kept(
    path: Path, damage: Callable[[Path], None], least_rescued: int, caplog: pytest.LogCaptureFixture
) -> None:
    written = fill(path, 100)
    damage(path)
    damaged = path.read_bytes()
    with Spool(path, max_results=1000) as spool:
        rescued = bodies(spool)
        assert least_rescued <= len(rescued) < 100
        assert rescued == [body for body in written if body in rescued]  # in order, none of them altered
        put(spool, "after")
        assert bodies(spool) == [*rescued, "after"]
        assert spool.count == len(rescued) + 1
    aside = [file for file in path.parent.iterdir() if ".corrupt-" in file.name and file.name[-1].isdigit()]
    assert [file.read_bytes() for file in aside] == [damaged]
    assert aside[0].name in caplog.text
    assert f"{len(rescued)} results were read from the damaged file {aside[0].name}" in caplog.text


def open_and_die(path: Path, results: int) -> None:
    """Opens the spool in another process, which ends after it has rescued that many results."""

    def killed(self: SpoolFile, entries: Sequence[Entry], db: sqlite3.Connection, state: State) -> int:
        if state.results >= results:
            os._exit(9)
        return insert(self, entries, db, state)

    def run() -> None:
        SpoolFile.insert = killed  # type: ignore[method-assign]
        with Spool(path, max_results=10_000) as spool:
            bodies(spool)

    insert = SpoolFile.insert
    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 9


def test_interrupted_rescue_continues_at_the_next_start(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path, 5000)
    overwrite_middle(path)
    for results in (2000, 3000):
        open_and_die(path, results)
    for _ in range(2):
        with Spool(path, max_results=10_000) as spool:
            assert 4900 < len(bodies(spool)) == spool.count < 5000
    assert caplog.text.count("results were read from the damaged file") == 1
    assert not [file for file in corrupt_files(path) if file.name.endswith("-rescue")]


def test_rescue_that_ends_the_process_four_times_is_given_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path, 5000)
    overwrite_middle(path)
    for _ in range(4):
        open_and_die(path, 0)
    with Spool(path, max_results=10_000) as spool:
        assert bodies(spool) == []
        assert put(spool, "after")
    assert "is not read again after 4 attempts" in caplog.text
    assert len([file for file in corrupt_files(path) if file.name[-1].isdigit()]) == 1


def test_damage_found_while_running_does_not_stop_the_queue(path: Path) -> None:
    fill(path, 5000)  # more than SQLite keeps in memory
    with Spool(path, max_results=10_000) as spool:
        last_id = spool.last_id
        overwrite_middle(path)
        assert 4900 < len(bodies(spool)) < 5000
        assert put(spool, "after") == [last_id + 1]  # so a late acknowledgement deletes no new result
        assert bodies(spool)[-1] == "after"


WRITER = """
import sys
from pathlib import Path
from zsad_agent.spool.spool import THIS_RUN, Spool
from zsad_agent.spool.rows import Entry
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


def test_full_disk_is_an_error_that_loses_nothing_and_ends_when_there_is_room(tiny_disk: Path) -> None:
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


class Clocks:
    """The system's clock, which can jump, and the one since boot, which cannot."""

    def __init__(self) -> None:
        self.wall_s, self.boot_s = 1.8e9, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall_s += seconds
        self.boot_s += seconds

    def spool_clock(self, boot_id: str = "boot 1") -> SpoolClock:
        return SpoolClock(wall_s=lambda: self.wall_s, boot_s=lambda: self.boot_s, boot_id=boot_id)


HOUR_S = 3600.0


def test_results_above_the_age_limit_are_given_up_oldest_first_and_this_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clocks = Clocks()
    with Spool(path, max_results=10, max_age_h=24, clock=clocks.spool_clock()) as spool:
        for body in "abc":
            put_with_pictures(spool, (body, b"jpeg"))
            clocks.pass_(10 * HOUR_S)
        spool.upkeep()
        assert (bodies(spool), spool.losses.results, spool.losses.pictures) == (["b", "c"], {"age": 1}, {"age": 1})
        clocks.pass_(10 * HOUR_S)
        spool.upkeep()
        spool.upkeep()
        assert (bodies(spool), spool.picture_count, spool.losses.results) == (["c"], 1, {"age": 2})
    said = [record.message for record in caplog.records if "results are given up" in record.message]
    assert len(said) == 1
    assert "spool.max_age_h = 24" in said[0]


def test_old_pictures_go_even_when_their_results_have_arrived(path: Path) -> None:
    clocks = Clocks()
    with Spool(path, max_results=10, max_age_h=24, clock=clocks.spool_clock()) as spool:
        (entry_id,) = put_with_pictures(spool, ("a", b"jpeg"))
        spool.delete([(entry_id, entry_id)])
        clocks.pass_(25 * HOUR_S)
        spool.upkeep()
        assert (spool.picture_count, spool.losses.results, spool.losses.pictures) == (0, {}, {"age": 1})


@pytest.mark.parametrize("jump_s", [30 * 365 * 24 * HOUR_S, -1.7e9, 48 * HOUR_S, -48 * HOUR_S])
@pytest.mark.parametrize("restart", ["none", "agent", "machine"])
def test_jump_of_the_system_clock_expires_no_result_and_the_age_limit_still_applies(
    path: Path, jump_s: float, restart: str
) -> None:
    clocks = Clocks()
    with contextlib.ExitStack() as stack:
        spool = stack.enter_context(Spool(path, max_results=10, max_age_h=72, clock=clocks.spool_clock()))
        put(spool, "a")
        clocks.wall_s += jump_s
        if restart != "none":
            stack.close()
            if restart == "machine":
                clocks.boot_s = 5.0
            boot_id = "boot 2" if restart == "machine" else "boot 1"
            spool = stack.enter_context(Spool(path, max_results=10, max_age_h=72, clock=clocks.spool_clock(boot_id)))
        spool.upkeep()
        put(spool, "b")
        clocks.pass_(40 * HOUR_S)
        spool.upkeep()
        assert bodies(spool) == ["a", "b"]
        clocks.pass_(33 * HOUR_S)
        spool.upkeep()
        assert bodies(spool) == []  # the age limit still applies


def put_with_pictures(spool: Spool, *results: tuple[str, bytes]) -> list[int]:
    ids = []
    for body, jpeg in results:
        entry = Entry(spool.new_id(), "cam0", body.encode())
        spool.append([entry], [AttachedImage(entry.id, "cam0", f"line3-{body[-8:]}", jpeg)])
        ids.append(entry.id)
    return ids


def pictures(spool: Spool) -> list[bytes]:
    found, after = [], 0
    while (picture := spool.read_picture(after, spool.last_id)) is not None:
        found.append(picture.jpeg)
        after = picture.id
    return found


def test_pictures_come_back_with_their_results_after_reopening_and_are_deleted_apart(path: Path) -> None:
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


def test_result_above_the_count_is_deleted_with_its_picture(path: Path) -> None:
    with Spool(path, max_results=2) as spool:
        put_with_pictures(spool, ("a", b"A"), ("b", b"B"), ("c", b"C"))
        assert (bodies(spool), pictures(spool)) == (["b", "c"], [b"B", b"C"])
        assert (spool.losses.results, spool.losses.pictures) == ({"count": 1}, {"count": 1})


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, Path(f"{path}-wal")) if file.exists())


@pytest.mark.parametrize(("max_bytes", "least_kept"), [(65_536, 1), (300_000, 100)])
def test_file_and_log_stay_below_the_limit_in_bytes_and_pictures_go_before_results(
    path: Path, max_bytes: int, least_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Spool(path, max_results=1_000_000, max_bytes=max_bytes, fsync="periodic") as spool:
        number, largest = 0, 0
        while not spool.losses.results and number < 5000:
            put_with_pictures(spool, (f"{number:0700}", b"%08d" % number * 1500))
            number += 1
            largest = max(largest, on_disk(path))
            if number % 50 == 0:
                spool.sync()
        assert spool.losses.pictures["bytes"] == number - spool.picture_count
        assert spool.picture_count == 0  # all pictures were deleted before the first result
        first = number - spool.count
        assert bodies(spool) == [f"{each:0700}" for each in range(first, number)]
        for each in range(number, number + 150):
            put(spool, f"{each:0700}")
            largest = max(largest, on_disk(path))
        assert bodies(spool)[-1] == f"{number + 149:0700}"
        assert largest <= max_bytes
        assert spool.count >= least_kept  # and the allowed size is used
    assert caplog.text.count(f"spool.max_bytes = {max_bytes}") == 2  # once for pictures, once for results


def test_picture_is_stored_at_the_cost_of_older_pictures_and_of_no_result(path: Path) -> None:
    with Spool(path, max_results=10_000, max_bytes=400_000, fsync="periodic") as spool:
        results = [f"{number:0700}" for number in range(150)]
        put(spool, *results)
        put_with_pictures(spool, ("a", b"A" * 60_000), ("b", b"B" * 60_000), ("c", b"C" * 60_000))
        assert pictures(spool)[-1:] == [b"C" * 60_000]
        put_with_pictures(spool, ("d", b"D" * 500_000))  # larger than the limit
        assert spool.picture_count == 0
        assert bodies(spool) == [*results, "a", "b", "c", "d"]
        assert spool.losses.pictures == {"bytes": 4}


def test_emptied_spool_returns_disk_space(path: Path) -> None:
    with Spool(path, max_results=100_000, fsync="periodic") as spool:
        ids = put(spool, *("x" * 1000 for _ in range(20_000)))
        spool.sync()
        full = path.stat().st_size
        spool.delete([(ids[0], ids[-2])])
        for _ in range(40):
            spool.upkeep()
            spool.sync()
        assert path.stat().st_size < full / 3
        assert bodies(spool) == ["x" * 1000]


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
        clocks.pass_(2 * HOUR_S)
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
        assert time.monotonic() - started_s < 3
        other.execute("ROLLBACK")
        put(spool, "c")
        assert bodies(spool) == ["a", "c"]


def test_file_that_is_a_folder_is_an_error_with_every_use_and_no_crash_at_the_start(path: Path) -> None:
    path.mkdir(parents=True)
    with Spool(path, max_results=10) as spool:
        for _ in range(2):
            with pytest.raises(SpoolError, match="cannot be opened"):
                put(spool, "a")
        path.rmdir()
        put(spool, "b")
        assert bodies(spool) == ["b"]


@pytest.mark.parametrize("position", [*range(0, 100, 4), 68, 69, 70, 71, 60, 63])
def test_damaged_header_never_gives_an_altered_result(path: Path, position: int) -> None:
    written = fill(path, 40)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xA5
    path.write_bytes(content)
    with Spool(path, max_results=1000) as spool:
        try:
            assert set(bodies(spool)) <= set(written)
            put(spool, "after")
            assert bodies(spool)[-1] == "after"
        except SpoolError:  # and no file was changed or deleted
            assert set(written) == set(all_bodies_of_any(path, written))


def all_bodies_of_any(path: Path, written: list[str]) -> list[str]:
    content = b"".join(file.read_bytes() for file in path.parent.iterdir())
    return [body for body in written if body.encode() in content]


def wal_of_a_killed_writer(path: Path, results: int) -> list[str]:
    """Leaves a write-ahead log as kill -9 does: the open files are copied, and restored after the close."""
    written = [f"{number:04}" * 250 for number in range(results)]
    copies = {}
    with Spool(path, max_results=10_000) as spool:
        for body in written:
            put(spool, body)
        for name in (path, Path(f"{path}-wal")):
            copies[name] = name.read_bytes()
    for name, content in copies.items():
        name.write_bytes(content)
    return written


def test_log_of_a_killed_writer_is_read_without_a_message(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = wal_of_a_killed_writer(path, 30)
    with Spool(path, max_results=1000) as spool:
        assert bodies(spool) == written
    assert caplog.records == []


@pytest.mark.parametrize("where", ["magic", "header", "first frame", "middle", "end"])
def test_damaged_log_is_logged_and_kept_and_its_intact_beginning_is_read(
    path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    written = wal_of_a_killed_writer(path, 30)
    wal = Path(f"{path}-wal")
    content = bytearray(wal.read_bytes())
    at = {"magic": 1, "header": 17, "first frame": 32 + 500, "middle": len(content) // 2, "end": len(content) - 50}
    content[at[where]] ^= 1
    wal.write_bytes(content)
    with Spool(path, max_results=1000) as spool:
        found = bodies(spool)
        assert found == written[: len(found)]
        assert len(found) < 30
        put(spool, "after")
        assert bodies(spool) == [*found, "after"]
    assert caplog.text.count("its write-ahead log is damaged") == 1
    assert [file.read_bytes() for file in corrupt_files(path)] == [bytes(content)]


def test_at_most_five_damaged_files_are_kept(path: Path) -> None:
    for _ in range(12):
        fill(path, 5)
        overwrite_header(path)
        with Spool(path, max_results=10) as spool:
            assert bodies(spool) == []
    assert len({file.name.removesuffix("-wal").removesuffix("-shm") for file in corrupt_files(path)}) <= 5


def test_pictures_make_room_for_results_on_a_disk_that_is_nearly_full(path: Path) -> None:
    free = [10**9]
    with Spool(path, max_results=1_000_000, disk_free=lambda folder: free[0]) as spool:
        put_with_pictures(spool, *((f"{number:0500}", b"x" * 50_000) for number in range(6)))
        spool.sync()
        before = path.stat().st_size
        free[0] = 100_000
        put_with_pictures(spool, ("a", b"A"))  # the picture is not stored
        put(spool, *(f"{number:0500}" for number in range(6, 200)))
        spool.sync()
        assert path.stat().st_size == before  # no more disk space was used
        assert bodies(spool) == [*(f"{number:0500}" for number in range(6)), "a", *bodies(spool)[7:]]
        assert spool.count == 201
        assert spool.losses.results == {}
        assert spool.losses.pictures == {"disk": 7 - spool.picture_count}
        assert 0 < spool.picture_count < 5  # only as many as needed were deleted, the oldest first
        assert spool.read_picture(0, spool.last_id).result_id.endswith(str(6 - spool.picture_count))


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


@pytest.mark.parametrize("table", ["results", "pictures"])
def test_wrong_counts_in_the_file_do_not_stop_the_queue(path: Path, table: str) -> None:
    """SQLite cannot detect a flipped bit in a number."""
    with Spool(path, max_results=10, max_bytes=1_000_000):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute(f"UPDATE state SET {table} = 3")
        db.commit()
    with Spool(path, max_results=10, max_bytes=1_000_000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", bytes(3_000_000))])  # above max_bytes: all rows are deleted
        put(spool, "a")
        assert bodies(spool)[-1] == "a"
