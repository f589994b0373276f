"""Adds results and marks to the history's tables, with the counts that reports need."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from zsad_agent.messages import Result
from zsad_core.types import Verdict

BLOCK_BITS = 10  # 1024 consecutive results are one block
SLOT_S = 900  # every time zone's offset is a multiple of it
SCORE_BINS = 200  # of [0, 1]
GRID = 8  # cells on each side of a frame
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_COUNT = np.dtype([("key", "u1"), ("count", "<u4")])  # of a score's bin or a cell


@dataclass(kw_only=True)
class Slot:
    """Counts of one camera in a quarter of an hour."""

    verdicts: Counter[Verdict] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)  # by bin
    cells: Counter[int] = field(default_factory=Counter)  # regions of rejects, by the cell of their centre, row by row
    frame_wh: tuple[int, int] | None = None


def insert(db: sqlite3.Connection, results: Sequence[Result]) -> int:
    """Adds results in the given order. Those whose id is known are ignored. Returns how many are new.

    Call it in a transaction.
    """
    slots: dict[tuple[int, str], Slot] = {}
    new = 0
    for result in results:
        captured_ms = milliseconds(result.captured_at)
        name = plain("\n".join(filter(None, (result.source_name, result.trigger_id))))
        row = (result.id, _kind(db, result), captured_ms, result.anomaly_score, result.threshold, name)
        added = db.execute(
            "INSERT OR IGNORE INTO results (id, kind, captured_ms, score, threshold, name) VALUES (?, ?, ?, ?, ?, ?)",
            row,
        )
        if not added.rowcount:
            continue
        new += 1
        n = added.lastrowid or 0
        db.execute("INSERT INTO bodies VALUES (?, ?)", (n, result.encode()))
        if name:
            db.execute("INSERT INTO names (rowid, name) VALUES (?, ?)", (n, name))
        db.execute(
            """INSERT INTO blocks VALUES (?1, ?2, ?2) ON CONFLICT (block) DO UPDATE
            SET min_ms = min(min_ms, ?2), max_ms = max(max_ms, ?2)""",
            (n >> BLOCK_BITS, captured_ms),
        )
        _count(slots.setdefault((slot_of(captured_ms), result.camera), Slot()), result)
    for (slot, camera), counts in slots.items():
        _add_slot(db, slot, camera, counts)
    return new


def delete(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Deletes results; the counts for reports stay. Call it in a transaction."""
    for n in numbers:
        name = db.execute("SELECT name FROM results WHERE n = ?", (n,)).fetchone()
        if name is None:
            continue
        if name[0]:
            db.execute("INSERT INTO names (names, rowid, name) VALUES ('delete', ?, ?)", (n, name[0]))
        for table in ("results", "bodies", "marks"):
            db.execute(f"DELETE FROM {table} WHERE n = ?", (n,))


def mark(db: sqlite3.Connection, result_id: str, *, good: bool, who: str, at_ms: int) -> bool:
    """Stores what a person said about a result, in place of an earlier mark. False if there is no such result.

    Call it in a transaction.
    """
    query = """SELECT n, captured_ms, camera, verdict, good FROM results NATURAL JOIN kinds NATURAL LEFT JOIN marks
        WHERE id = ?"""
    row = db.execute(query, (result_id,)).fetchone()
    if row is None:
        return False
    n, captured_ms, camera, verdict, before = row
    db.execute("INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?)", (n, good, who, at_ms))
    change = is_override(verdict, good=good) - (before is not None and is_override(verdict, good=bool(before)))
    db.execute(
        "UPDATE slots SET overrides = overrides + ? WHERE slot = ? AND camera = ?",
        (change, slot_of(captured_ms), camera),
    )
    return True


def is_override(verdict: str, *, good: bool) -> bool:
    """Whether a person disagrees: a pass that is bad, or a reject or unknown part that is good."""
    return (verdict == Verdict.OK) != good


def milliseconds(moment: datetime) -> int:
    """Since 1970, rounded down as in a result's text."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def slot_of(captured_ms: int) -> int:
    """The quarter of an hour, counted since 1970."""
    return captured_ms // (SLOT_S * 1000)


def plain(text: str) -> str:
    """Text that SQLite can store and search: without NUL, and without half characters of a damaged file name."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode()


def packed(counts: Mapping[int, int]) -> bytes:
    """Counts of bins or cells (0 to 255) without the zeros: 5 bytes each."""
    return np.array(sorted(counts.items()), _COUNT).tobytes() if counts else b""


def unpacked(blob: bytes, size: int) -> np.ndarray:
    """int64 [size]: the sum of one or several packed counts."""
    counts = np.frombuffer(blob, _COUNT)
    return np.bincount(counts["key"], counts["count"], minlength=size).astype(np.int64)


def _count(slot: Slot, result: Result) -> None:
    slot.verdicts[result.verdict] += 1
    if result.anomaly_score is not None:
        slot.scores[min(int(result.anomaly_score * SCORE_BINS), SCORE_BINS - 1)] += 1
    if result.frame_wh is not None:
        slot.frame_wh = result.frame_wh
        if result.verdict is Verdict.ANOMALOUS:
            slot.cells.update(_cell(region.bbox_xywh, result.frame_wh) for region in result.regions)


def _cell(bbox_xywh: tuple[int, int, int, int], frame_wh: tuple[int, int]) -> int:
    x, y, w, h = bbox_xywh
    column, row = (2 * x + w) * GRID // (2 * frame_wh[0]), (2 * y + h) * GRID // (2 * frame_wh[1])
    return min(row, GRID - 1) * GRID + min(column, GRID - 1)


def _kind(db: sqlite3.Connection, result: Result) -> int:
    key = (result.camera, plain(result.product), result.verdict.value)
    where = "SELECT kind FROM kinds WHERE camera = ? AND product = ? AND verdict = ?"
    row = db.execute(where, key).fetchone()
    if row is None:
        db.execute("INSERT INTO kinds (camera, product, verdict) VALUES (?, ?, ?)", key)
        row = db.execute(where, key).fetchone()
    return int(row[0])


def _add_slot(db: sqlite3.Connection, slot: int, camera: str, more: Slot) -> None:
    where = (slot, camera)
    row = db.execute("SELECT scores, cells FROM slots WHERE slot = ? AND camera = ?", where).fetchone()
    if row is None:
        db.execute("INSERT INTO slots VALUES (?, ?, 0, 0, 0, 0, NULL, NULL, x'', x'')", where)
        row = (b"", b"")
    scores, cells = (
        packed(counts + Counter({int(key): int(count) for key, count in np.frombuffer(blob, _COUNT)}))
        for blob, counts in zip(row, (more.scores, more.cells), strict=True)
    )
    width, height = more.frame_wh or (None, None)
    counts = [more.verdicts[verdict] for verdict in (Verdict.OK, Verdict.ANOMALOUS, Verdict.UNKNOWN)]
    db.execute(
        """UPDATE slots SET ok = ok + ?, anomalous = anomalous + ?, unknown = unknown + ?,
        width = ifnull(?, width), height = ifnull(?, height), scores = ?, cells = ? WHERE slot = ? AND camera = ?""",
        (*counts, width, height, scores, cells, *where),
    )
