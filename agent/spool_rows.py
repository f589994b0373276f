"""How the spool's entries lie in their SQLite table, each with a checksum, and how to read a damaged file."""

import contextlib
import sqlite3
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

APPLICATION_ID = 0x7A736164  # "zsad", in the file's header
FORMAT_VERSION = 1
CREATE = """CREATE TABLE results (
    id INTEGER PRIMARY KEY, camera TEXT NOT NULL, body BLOB NOT NULL, crc32 INTEGER NOT NULL)"""
_INSERT = "INSERT INTO results (id, camera, body, crc32) VALUES (?, ?, ?, ?)"
_SELECT = "SELECT id, camera, body, crc32 FROM results WHERE id > ? ORDER BY id LIMIT ?"
_SELECT_BACKWARDS = "SELECT id, camera, body, crc32 FROM results WHERE id > ? ORDER BY id DESC LIMIT ?"
_DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_LIMIT = -1


@dataclass(frozen=True, slots=True)
class Entry:
    """One result that waits. `id` counts up over the life of the spool and gives the order."""

    id: int
    camera: str
    body: bytes  # the message, UTF-8 JSON


def insert(db: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Adds `entries`; their ids must be new."""
    db.executemany(_INSERT, [(entry.id, entry.camera, entry.body, zlib.crc32(entry.body)) for entry in entries])


def select(db: sqlite3.Connection, after_id: int, limit: int) -> list[Entry]:
    """Raises sqlite3.DatabaseError with `is_damage` when a checksum does not hold, which SQLite itself cannot see."""
    return [_checked(row) for row in db.execute(_SELECT, (after_id, limit))]


def delete(db: sqlite3.Connection, ids: Collection[int]) -> int:
    """How many of `ids` were there to delete."""
    return db.executemany("DELETE FROM results WHERE id = ?", [(entry_id,) for entry_id in ids]).rowcount


def delete_oldest(db: sqlite3.Connection, number: int) -> int:
    """How many were there to delete."""
    query = "DELETE FROM results WHERE id IN (SELECT id FROM results ORDER BY id LIMIT ?)"
    return db.execute(query, (number,)).rowcount


def read_what_is_left(path: Path) -> Iterator[Entry]:
    """Entries of a damaged file whose checksums hold: from the front up to the damage, then from the back."""
    seen: set[int] = set()
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect_read_only(path)) as db:
        for query in (_SELECT, _SELECT_BACKWARDS):
            with contextlib.suppress(sqlite3.Error):
                for row in db.execute(query, (0, _NO_LIMIT)):
                    if row[0] in seen:
                        break
                    seen.add(row[0])
                    with contextlib.suppress(sqlite3.DatabaseError):
                        yield _checked(row)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken, as opposed to a full disk or a lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE_CODES


def damage(found: str) -> sqlite3.DatabaseError:
    """The error that SQLite would raise had it seen `found`."""
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _connect_read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _checked(row: tuple[int, str, bytes, int]) -> Entry:
    entry_id, camera, body, crc32 = row
    if not isinstance(body, bytes) or not isinstance(camera, str) or zlib.crc32(body) != crc32:
        raise damage(f"the checksum of result {entry_id} does not hold")
    return Entry(entry_id, camera, body)
