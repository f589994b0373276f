"""The SQLite file of the history: its tables, and how it is opened."""

import contextlib
import sqlite3
from pathlib import Path

from zsad_agent.system import DAMAGE_CODES, open_sqlite, transaction
from zsad_core.errors import HistoryError

APPLICATION_ID = 0x7A736168  # "zsah", in the file's header
FORMAT_VERSION = 1
CACHE_KB = 4000  # of one connection
LOG_BYTES = 8_000_000  # size of the write-ahead log after a burst

# `kinds`: every camera, product and verdict that occurred. A filter chooses some of them.
# `results`: what can be searched, in the order of inspection (n). `bodies`: the results as published.
# `blocks`: the earliest and latest capture of 1024 consecutive results. A filter of time reads only some blocks, also
#   when the clock has jumped.
# `names`: three-letter parts of the names. `slots`: counts of a quarter of an hour, which outlive the results.
_CREATE = """
CREATE TABLE kinds (kind INTEGER PRIMARY KEY, camera TEXT NOT NULL, product TEXT NOT NULL, verdict TEXT NOT NULL,
    UNIQUE (camera, product, verdict));
CREATE TABLE results (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL,
    captured_ms INTEGER NOT NULL, score REAL, threshold REAL NOT NULL, name TEXT NOT NULL);
CREATE INDEX results_kind ON results (kind);
CREATE TABLE bodies (n INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE blocks (block INTEGER PRIMARY KEY, min_ms INTEGER NOT NULL, max_ms INTEGER NOT NULL);
CREATE VIRTUAL TABLE names USING fts5(name, content='', columnsize=0, detail=none, tokenize='trigram');
CREATE TABLE slots (slot INTEGER NOT NULL, camera TEXT NOT NULL, ok INTEGER NOT NULL, anomalous INTEGER NOT NULL,
    unknown INTEGER NOT NULL, overrides INTEGER NOT NULL, width INTEGER, height INTEGER, scores BLOB NOT NULL,
    cells BLOB NOT NULL, PRIMARY KEY (slot, camera)) WITHOUT ROWID;
CREATE TABLE marks (n INTEGER PRIMARY KEY, good INTEGER NOT NULL, who TEXT NOT NULL, at_ms INTEGER NOT NULL);
CREATE INDEX marks_good ON marks (good);
"""


def open_again(path: Path) -> sqlite3.Connection:
    """A connection to a file that exists."""
    db = open_sqlite(path)
    db.execute(f"PRAGMA cache_size=-{CACHE_KB}")
    return db


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Opens the file, or creates it.

    Raises:
        HistoryError: it belongs to another program, or a newer agent wrote it. It is unchanged.
        sqlite3.Error: one of `DAMAGE_CODES`: it is damaged.
        OSError: its folder cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = open_again(path)
    try:
        application_id = db.execute("PRAGMA application_id").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        empty = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not empty and application_id != APPLICATION_ID:
            raise HistoryError(f"{path}: a SQLite file, but not a history of this agent. Set another history.path.")
        if not empty and version > FORMAT_VERSION:
            raise HistoryError(
                f"{path}: history format {version}, this agent reads {FORMAT_VERSION}. Use the agent that wrote it, or "
                "move the file away."
            )
        if empty:
            db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # effective only in a file without tables
        db.execute("PRAGMA journal_mode=WAL").fetchone()
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute(f"PRAGMA journal_size_limit={LOG_BYTES}").fetchone()
        if empty:
            with transaction(db):
                for statement in _CREATE.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                db.execute(f"PRAGMA user_version={FORMAT_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def set_aside(path: Path) -> Path:
    """Renames the file and its log; an earlier file that was set aside is replaced.

    Raises:
        OSError: it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.damaged")
    for suffix in ("-wal", ""):  # the log first: without it the file would lose its newest results
        with contextlib.suppress(FileNotFoundError):
            Path(f"{aside}{suffix}").unlink()
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def is_damage(error: Exception) -> bool:
    """Whether the file itself is damaged, so that no retry can help."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF in DAMAGE_CODES
