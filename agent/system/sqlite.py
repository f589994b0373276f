"""Connections to SQLite files that one process uses at a time."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

BUSY_S = 0.25  # longest wait for the lock of another connection
DAMAGE_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_sqlite(path: Path) -> sqlite3.Connection:
    """A connection in which no transaction begins by itself. Any thread may use it, one at a time.

    The log's index is kept in memory: as a mapped file that is truncated it would end the process (SIGBUS). Therefore
    only one process at a time can open the file.
    """
    uri = f"{path.absolute().as_uri()}?vfs=unix-excl"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, how: str = "IMMEDIATE") -> Iterator[None]:
    """Commits at the end. An exception rolls back."""
    db.execute(f"BEGIN {how}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):  # SQLite has rolled back itself
            db.execute("ROLLBACK")
        raise
