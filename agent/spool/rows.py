"""The tables of the spool's SQLite file, with checksums, and how to read a damaged file."""

import contextlib
import errno
import logging
import math
import os
import sqlite3
import sys
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsad_agent.spool.clock import Stamp
from zsad_agent.system import transaction
from zsad_core.errors import SpoolError

logger = logging.getLogger(__name__)

APPLICATION_ID = 0x7A736164  # "zsad", in the file's header
FORMAT_VERSION = 2
PAGE_BYTES = 4096
SHRINK_PAGES = 256  # pages returned to the disk at a time
MAX_BYTES = 10**13  # a header that states more is damaged
NEWER_VERSIONS = range(FORMAT_VERSION + 1, 100)  # a higher number is damage, not a version

_CREATE_RESULTS = """CREATE TABLE results (
    id INTEGER PRIMARY KEY, camera TEXT NOT NULL, body BLOB NOT NULL, crc32 INTEGER NOT NULL,
    accepted_s REAL NOT NULL)"""
_CREATE_PICTURES = """CREATE TABLE pictures (
    id INTEGER PRIMARY KEY, camera TEXT NOT NULL, result_id TEXT NOT NULL, accepted_s REAL NOT NULL,
    crc32 INTEGER NOT NULL, jpeg BLOB NOT NULL)"""
_CREATE_STATE = """CREATE TABLE state (
    one INTEGER PRIMARY KEY, last_id INTEGER NOT NULL, results INTEGER NOT NULL, pictures INTEGER NOT NULL,
    age_s REAL NOT NULL, wall_s REAL NOT NULL, boot_s REAL NOT NULL, boot_id TEXT NOT NULL)"""
_SELECT_STATE = "SELECT last_id, results, pictures, age_s, wall_s, boot_s, boot_id FROM state"
_UPDATE_STATE = """UPDATE state SET last_id = ?, results = ?, pictures = ?, age_s = ?, wall_s = ?, boot_s = ?,
    boot_id = ?"""
StateRow = tuple[int, int, int, float, float, float, str]  # no two commits of one process write the same
_RESULT = "id, CAST(camera AS BLOB), body, crc32"  # as bytes: text that is not UTF-8 would raise another error
UPGRADE_BYTES = 32_000_000  # a larger file of format 1 reuses its pages and does not shrink
_NO_SPACE = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
)
PASSING_CODES = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)  # the connection stays usable


@dataclass(frozen=True, slots=True)
class Entry:
    """One result that waits. `id` increases over the life of the spool and gives the order."""

    id: int
    camera: str
    body: bytes  # the message, UTF-8 JSON


@dataclass(frozen=True, slots=True)
class AttachedImage:
    """The evidence picture of the result whose entry has the same `id`."""

    id: int
    camera: str
    result_id: str  # the id that the result's message carries
    jpeg: bytes


@dataclass(slots=True)
class State:
    """Counts that would otherwise need a scan of the whole file. Stored in one row, written with every change."""

    last_id: int = 0  # the latest row id
    results: int = 0
    pictures: int = 0
    oldest_accepted_s: float | None = None  # of the results; only in memory, read from the rows


def prepare(db: sqlite3.Connection) -> None:
    """Creates the tables of an empty file, or upgrades those of format 1, in one transaction.

    Format 1 does not store when a result was accepted: its age counts from now.
    """
    with transaction(db):
        if columns(db, "results"):
            db.execute("ALTER TABLE results ADD COLUMN accepted_s REAL NOT NULL DEFAULT 0")
        else:
            db.execute(_CREATE_RESULTS)
        db.execute(_CREATE_PICTURES)
        db.execute(_CREATE_STATE)
        count, last_id = db.execute("SELECT count(*), max(id) FROM results").fetchone()
        db.execute("INSERT INTO state VALUES (1, ?, ?, 0, 0, 0, 0, '')", (last_id or 0, count))
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={FORMAT_VERSION}")


def check_format(db: sqlite3.Connection, path: Path) -> None:
    """Creates the tables of an empty file and upgrades those of format 1.

    Raises:
        SpoolError: the file is not a spool, or a newer agent wrote it.
        sqlite3.DatabaseError: with one of `DAMAGE_CODES`.
    """
    application_id = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    ours = application_id == APPLICATION_ID
    if ours and version == FORMAT_VERSION:
        return
    if ours and version in NEWER_VERSIONS:
        raise SpoolError(
            f"{path}: spool format {version}, this agent reads {FORMAT_VERSION}. Use the agent "
            "that wrote it, or move the file away."
        )
    empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not empty and not (ours and version == 1):
        if {"id", "camera", "body", "crc32"} <= set(columns(db, "results")):  # whatever its header says
            raise damage(f"its header says application {application_id:#x}, format {version}")
        raise SpoolError(f"{path}: a SQLite file, but not a spool of this agent. Set another spool.path.")
    prepare(db)
    if not empty:
        if path.stat().st_size <= UPGRADE_BYTES:
            with contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                db.execute("VACUUM")  # makes the line above effective
        logger.info("spool %s: upgraded from format 1 to %d", path, FORMAT_VERSION)


def read_state(db: sqlite3.Connection) -> tuple[State, Stamp]:
    """Raises sqlite3.DatabaseError with one of `DAMAGE_CODES` when the row is missing."""
    row = state_row(db)
    top = db.execute("SELECT max(id) FROM results").fetchone()[0] or 0
    return State(max(row[0], top), row[1], row[2], oldest(db)[1]), Stamp(*row[3:])


def state_row(db: sqlite3.Connection) -> StateRow:
    """Raises as `read_state` does."""
    row: StateRow | None = db.execute(_SELECT_STATE).fetchone()
    if row is None:
        raise damage("the state row is missing")
    return row


def write_state(db: sqlite3.Connection, state: State, stamp: Stamp) -> StateRow:
    """Writes the state row and returns it. Call it in every transaction that changes rows."""
    times = (stamp.age_s, stamp.wall_s, stamp.boot_s, stamp.boot_id)
    row = (state.last_id, state.results, state.pictures, *times)
    db.execute(_UPDATE_STATE, row)
    return row


def insert(db: sqlite3.Connection, entries: Sequence[Entry], accepted_s: float) -> int:
    """Adds `entries` and returns how many rows are new.

    The same row can exist already: a commit can report an error at its end although the write-ahead log is complete.

    Raises:
        sqlite3.IntegrityError: another row has the id.
    """
    rows = [(each.id, each.camera, each.body, zlib.crc32(each.body), accepted_s) for each in entries]
    new = db.executemany("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?)", rows).rowcount if rows else 0
    if new < len(rows) and not all(holds(db, entry) for entry in entries):
        raise conflict("another result has the id of a new one")
    return new


def holds(db: sqlite3.Connection, entry: Entry) -> bool:
    """Whether the result is stored with this id."""
    return db.execute("SELECT 1 FROM results WHERE id = ? AND body = ?", (entry.id, entry.body)).fetchone() is not None


def is_free(db: sqlite3.Connection, entry_id: int) -> bool:
    """Whether no result has this id."""
    return db.execute("SELECT 1 FROM results WHERE id = ?", (entry_id,)).fetchone() is None


def counts(db: sqlite3.Connection) -> tuple[int, int]:
    """Number of results and pictures. Reads the whole file."""
    row: tuple[int, int] = db.execute(
        "SELECT (SELECT count(*) FROM results), (SELECT count(*) FROM pictures)"
    ).fetchone()
    return row


def insert_attached_images(db: sqlite3.Connection, pictures: Sequence[AttachedImage], accepted_s: float) -> int:
    """As `insert`."""
    rows = [(each.id, each.camera, each.result_id, accepted_s, zlib.crc32(each.jpeg), each.jpeg) for each in pictures]
    new = db.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?, ?, ?, ?)", rows).rowcount if rows else 0
    same = "SELECT 1 FROM pictures WHERE id = ? AND jpeg = ?"
    if new < len(rows) and not all(db.execute(same, (each.id, each.jpeg)).fetchone() for each in pictures):
        raise conflict("another picture has the id of a new one")
    return new


def select(db: sqlite3.Connection, after_id: int, up_to_id: int, limit: int) -> list[Entry]:
    """Raises sqlite3.DatabaseError with one of `DAMAGE_CODES` when a checksum is wrong, which SQLite cannot detect."""
    query = f"SELECT {_RESULT} FROM results WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
    return [_checked(row) for row in db.execute(query, (after_id, up_to_id, limit))]


def newest(db: sqlite3.Connection, limit: int) -> list[Entry]:
    """The latest `limit` results, oldest first. Raises as `select` does."""
    query = f"SELECT {_RESULT} FROM results ORDER BY id DESC LIMIT ?"
    return [_checked(row) for row in db.execute(query, (limit,))][::-1]


def select_attached_image(db: sqlite3.Connection, after_id: int, up_to_id: int) -> AttachedImage | None:
    """The oldest one in the range. Raises as `select` does."""
    query = """SELECT id, CAST(camera AS BLOB), CAST(result_id AS BLOB), jpeg, crc32 FROM pictures
        WHERE id > ? AND id <= ? ORDER BY id LIMIT 1"""
    row = db.execute(query, (after_id, up_to_id)).fetchone()
    if row is None:
        return None
    picture_id, camera, result_id, jpeg, crc32 = row
    if not isinstance(jpeg, bytes) or zlib.crc32(jpeg) != crc32:
        raise damage(f"the checksum of picture {picture_id} is wrong")
    return AttachedImage(picture_id, _text(camera), _text(result_id), jpeg)


def delete(db: sqlite3.Connection, table: str, runs: Collection[tuple[int, int]]) -> int:
    """Deletes the ids in `runs` (first and last of each). Returns how many rows were deleted."""
    return db.executemany(f"DELETE FROM {table} WHERE id BETWEEN ? AND ?", runs).rowcount if runs else 0


def last_of_oldest(db: sqlite3.Connection, table: str, number: int, before_s: float = math.inf) -> int:
    """The highest id among the `number` oldest rows that was accepted before `before_s`; 0 if there is none."""
    query = f"SELECT max(id) FROM (SELECT id, accepted_s FROM {table} ORDER BY id LIMIT ?) WHERE accepted_s < ?"
    return int(db.execute(query, (number, before_s)).fetchone()[0] or 0)


def oldest(db: sqlite3.Connection) -> tuple[int, float | None]:
    """The id of the oldest result and when it was accepted. If there is none: an id above all others, and None."""
    row = db.execute("SELECT id, accepted_s FROM results ORDER BY id LIMIT 1").fetchone()
    return (sys.maxsize, None) if row is None else (row[0], float(row[1]))


def missing(db: sqlite3.Connection, entries: Iterable[Entry]) -> list[Entry]:
    """Those whose message is not stored, whatever the id."""
    left = {entry.body: entry for entry in entries}
    for (body,) in db.execute("SELECT body FROM results") if left else ():
        left.pop(body, None)
    return list(left.values())


def read_what_is_left(path: Path) -> Iterator[Entry]:
    """Results of a damaged file with correct checksums: from the front up to the damage, then from the back.

    The log's index is kept in memory, without locks on the file: as a mapped file, it would end the process (SIGBUS) if
    another program truncated it.

    Raises:
        OSError: a full disk hinders it.
    """
    seen: set[int] = set()
    with (
        _no_damage_raised(),
        _at_full_length(path),
        contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&vfs=unix-none", uri=True)) as db,
    ):
        db.execute("PRAGMA locking_mode=EXCLUSIVE").fetchone()
        for direction in ("ASC", "DESC"):
            with _no_damage_raised():
                for row in db.execute(f"SELECT {_RESULT} FROM results WHERE id > 0 ORDER BY id {direction}"):
                    if row[0] in seen:
                        break
                    seen.add(row[0])
                    with contextlib.suppress(sqlite3.DatabaseError):
                        yield _checked(row)


@contextlib.contextmanager
def _no_damage_raised() -> Iterator[None]:
    """A full disk hinders the reading, for example when the file gets its full length. It can be read later."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) in _NO_SPACE:
            raise OSError(errno.ENOSPC, str(error)) from error


@contextlib.contextmanager
def _at_full_length(path: Path) -> Iterator[None]:
    """Extends the file to the length in its header meanwhile: SQLite does not open a file with missing last pages."""
    length = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(32)
    page_bytes, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    missing = len(header) == 32 and page_bytes == PAGE_BYTES and length < pages * page_bytes
    if missing and pages * page_bytes <= MAX_BYTES:
        os.truncate(path, pages * page_bytes)  # a hole, which needs no disk space
    try:
        yield
    finally:
        os.truncate(path, length)


def release_pages(db: sqlite3.Connection, state: State) -> None:
    """Returns `SHRINK_PAGES` free pages to the disk."""
    for _ in range(SHRINK_PAGES):  # one by one: the sqlite3 module runs only the first step of a pragma without rows
        db.execute("PRAGMA incremental_vacuum(1)")


def page_counts(db: sqlite3.Connection) -> tuple[int, int]:
    """Number of pages of the file, and of free pages."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    return pages, db.execute("PRAGMA freelist_count").fetchone()[0]


def damage(found: str) -> sqlite3.DatabaseError:
    """The error that SQLite would raise for damage that it does not detect itself."""
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def conflict(found: str) -> sqlite3.IntegrityError:
    """The error for content that does not come from this agent's latest commit."""
    error = sqlite3.IntegrityError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT
    return error


def error_code(error: Exception) -> int:
    """SQLite's primary result code; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def columns(db: sqlite3.Connection, table: str) -> list[str]:
    """Names of the table's columns; empty: there is no such table."""
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _checked(row: tuple[int, bytes, bytes, int]) -> Entry:
    entry_id, camera, body, crc32 = row
    if not isinstance(body, bytes) or zlib.crc32(body) != crc32:
        raise damage(f"the checksum of result {entry_id} is wrong")
    return Entry(entry_id, _text(camera), body)


def _text(stored: bytes) -> str:
    try:
        return stored.decode()
    except (UnicodeDecodeError, AttributeError) as error:
        raise damage("a name is not valid text") from error
