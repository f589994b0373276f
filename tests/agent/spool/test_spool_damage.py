"""A damaged spool: what can be read is kept, and the damaged file is set aside."""

import contextlib
import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from spool_tools import bodies, corrupt_files, fill, put

from zsad_agent.spool import Entry, Spool, SpoolFile, State
from zsad_core.errors import SpoolError


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
        assert rescued == [body for body in written if body in rescued]  # in order and unchanged
        put(spool, "after")
        assert bodies(spool) == [*rescued, "after"]
        assert spool.count == len(rescued) + 1
    aside = [file for file in path.parent.iterdir() if ".corrupt-" in file.name and file.name[-1].isdigit()]
    assert [file.read_bytes() for file in aside] == [damaged]
    assert aside[0].name in caplog.text
    assert f"{len(rescued)} results were read from the damaged file {aside[0].name}" in caplog.text


def kill_during_rescue(path: Path, results: int) -> None:
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
        kill_during_rescue(path, results)
    for _ in range(2):
        with Spool(path, max_results=10_000) as spool:
            assert 4900 < len(bodies(spool)) == spool.count < 5000
    assert caplog.text.count("results were read from the damaged file") == 1
    assert not [file for file in corrupt_files(path) if file.name.endswith("-rescue")]


def test_rescue_that_ends_the_process_four_times_is_given_up(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(path, 5000)
    overwrite_middle(path)
    for _ in range(4):
        kill_during_rescue(path, 0)
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
