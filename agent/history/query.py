"""Finds results of the past, for the page, the API and the CSV file."""

import heapq
import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from zsad_agent.history import rows
from zsad_core.types import Verdict

BUDGET_S = 0.05  # for one page; a search that needs longer continues with the next page
CHECK_EVERY = 64  # candidates between two checks of the time
JOINED_BLOCKS = 4  # blocks between two matching ones that are read as well
MOST_PARTS = 4  # three-letter parts of a name that are looked up
SAMPLED_NAMES = 300  # that tell which parts are rare
MOST_SCORES = 20_000  # results that a plot reads
EVER = 1 << 62  # milliseconds
_COLUMNS = "r.n, r.kind, r.captured_ms, r.name"
_Candidate = tuple[int, int, int, str]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A filter. An empty one finds everything."""

    from_ms: int | None = None  # capture, in milliseconds since 1970
    to_ms: int | None = None  # exclusive
    camera: str | None = None
    verdicts: frozenset[Verdict] = frozenset()  # empty: every verdict
    product: str | None = None
    name: str = ""  # part of the source's name or the trigger's id; small and capital letters of ASCII are the same
    good: bool | None = None  # what a person said

    def includes_time(self, captured_ms: int) -> bool:
        return (self.from_ms is None or self.from_ms <= captured_ms) and (
            self.to_ms is None or captured_ms < self.to_ms
        )


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A result of the past. The agent that published it may have had another version."""

    n: int
    body: bytes  # the message as published, UTF-8 JSON
    good: bool | None  # what a person said

    @cached_property
    def message(self) -> dict[str, Any]:
        """`zsad.result/1`."""
        return dict(json.loads(self.body))

    @property
    def id(self) -> str:
        return str(self.message["id"])

    @property
    def camera(self) -> str:
        return str(self.message["camera"])

    @property
    def captured_at(self) -> datetime:
        return datetime.fromisoformat(self.message["captured_at"])


@dataclass(frozen=True, kw_only=True)
class Found:
    """One page of results."""

    results: list[Stored]
    next: int | None  # `before` of the next page; None: there is none. A page before it may be short or empty


def find(
    db: sqlite3.Connection, wanted: Wanted, *, before: int | None = None, limit: int, budget_s: float = BUDGET_S
) -> Found:
    """The newest matching results. "Newest" is the order of inspection, which does not depend on the clock.

    Args:
        db: in a transaction, so that all parts are of the same moment.
        before: `next` of the page before this one.
        limit: the most results.
        budget_s: after so long the page ends, even if it has fewer results.
    """
    last = db.execute("SELECT max(n) FROM results").fetchone()[0] or 0
    high = last if before is None else min(last, before - 1)
    numbers: list[int] = []
    end_s = time.monotonic() + budget_s
    for count, (n, is_match) in enumerate(_checked(db, wanted, high)):
        if len(numbers) == limit and is_match:
            return Found(results=_stored(db, numbers), next=numbers[-1])
        if is_match:
            numbers.append(n)
        if count % CHECK_EVERY == CHECK_EVERY - 1 and time.monotonic() > end_s:
            return Found(results=_stored(db, numbers), next=n)
    return Found(results=_stored(db, numbers), next=None)


def find_one(db: sqlite3.Connection, result_id: str) -> Stored | None:
    """The result with this id; None if there is none."""
    row = db.execute("SELECT n FROM results WHERE id = ?", (rows.plain(result_id),)).fetchone()
    return next(iter(_stored(db, [row[0]])), None) if row is not None else None


def scores(
    db: sqlite3.Connection, camera: str, *, from_ms: int, points: int
) -> list[tuple[int, float | None, str, float]]:
    """Capture (ms), score, verdict and threshold of a camera's results, for a plot; in the order of inspection.

    If there are more than `points`, each point is the worst result of several. Above `MOST_SCORES` results, only all
    rejects and unknowns up to that number, and every k-th result, are read.
    """
    wanted = Wanted(from_ms=from_ms, camera=camera)
    verdict_of = {
        kind: str(verdict)
        for kind, verdict in db.execute("SELECT kind, verdict FROM kinds WHERE camera = ?", (camera,))
    }
    ranges = _ranges(db, wanted, db.execute("SELECT max(n) FROM results").fetchone()[0] or 0)
    stride = 1 + sum(high - low + 1 for low, high in ranges) // MOST_SCORES
    rejects = [kind for kind, verdict in verdict_of.items() if verdict != Verdict.OK]
    columns = "SELECT n, captured_ms, score, kind, threshold FROM results"
    found: dict[int, tuple[int, float | None, str, float]] = {}
    for low, high in ranges:
        queries: list[tuple[str, list[tuple[int, ...]]]] = [(f"{columns} WHERE n BETWEEN ? AND ?", [(low, high)])]
        if stride > 1:
            queries = [(f"{columns} WHERE n = ?", [(n,) for n in range(low, high + 1, stride)])]
            of_kind = f"{columns} WHERE kind = ? AND n BETWEEN ? AND ? ORDER BY n DESC LIMIT {MOST_SCORES // 4}"
            queries.append((of_kind, [(kind, low, high) for kind in rejects]))
        for query, places in queries:
            for place in places:
                for n, captured_ms, score, kind, threshold in db.execute(query, place):
                    if kind in verdict_of and captured_ms >= from_ms:
                        found[n] = (captured_ms, score, verdict_of[kind], threshold)
    every = [found[n] for n in sorted(found)]
    size = len(every) / max(1, points)
    if size <= 1:
        return every
    groups = (every[int(i * size) : int((i + 1) * size)] for i in range(points))
    return [max(group, key=lambda row: (row[2] != Verdict.OK, row[1] or 0.0)) for group in groups if group]


def _checked(db: sqlite3.Connection, wanted: Wanted, high: int) -> Iterator[tuple[int, bool]]:
    """Numbers of candidates, newest first, and whether each matches."""
    kinds = _kinds(db, wanted)
    if kinds is not None and not kinds:
        return
    needle = rows.plain(wanted.name).encode().lower()  # bytes: only the letters of ASCII change
    for low, top in _ranges(db, wanted, high):
        for n, kind, captured_ms, name in _candidates(db, wanted, kinds, low, top):
            is_kind = kinds is None or kind in kinds
            yield n, is_kind and wanted.includes_time(captured_ms) and needle in name.encode().lower()
        yield low, False  # also a range without candidates takes time


def _candidates(
    db: sqlite3.Connection, wanted: Wanted, kinds: frozenset[int] | None, low: int, high: int
) -> Iterator[_Candidate]:
    """Results in a range of numbers, newest first: all that match, and others."""
    parts = _parts(db, wanted.name)
    within, newest = (low, high), "ORDER BY r.n DESC"
    if wanted.good is not None:
        marked = f"SELECT {_COLUMNS} FROM marks m CROSS JOIN results r ON r.n = m.n WHERE m.good = ?"
        yield from db.execute(f"{marked} AND m.n BETWEEN ? AND ? ORDER BY m.n DESC", (wanted.good, *within))
    elif parts:
        named = f"SELECT {_COLUMNS} FROM names CROSS JOIN results r ON r.n = names.rowid WHERE names MATCH ?"
        match = " ".join('"{}"'.format(part.replace('"', '""')) for part in parts)
        yield from db.execute(f"{named} AND names.rowid BETWEEN ? AND ? ORDER BY names.rowid DESC", (match, *within))
    elif kinds is not None:
        of_kind = f"SELECT {_COLUMNS} FROM results r INDEXED BY results_kind WHERE r.kind = ? AND r.n BETWEEN ? AND ?"
        streams = [db.execute(f"{of_kind} {newest}", (kind, *within)) for kind in kinds]
        yield from heapq.merge(*streams, key=lambda row: -row[0])
    else:
        yield from db.execute(f"SELECT {_COLUMNS} FROM results r WHERE r.n BETWEEN ? AND ? {newest}", within)


def _kinds(db: sqlite3.Connection, wanted: Wanted) -> frozenset[int] | None:
    """Those that match camera, verdict and product; None: all."""
    if wanted.camera is None and not wanted.verdicts and wanted.product is None:
        return None
    product = None if wanted.product is None else rows.plain(wanted.product)
    return frozenset(
        kind
        for kind, camera, of_product, verdict in db.execute("SELECT kind, camera, product, verdict FROM kinds")
        if (wanted.camera is None or camera == wanted.camera)
        and (product is None or of_product == product)
        and (not wanted.verdicts or verdict in wanted.verdicts)
    )


def _ranges(db: sqlite3.Connection, wanted: Wanted, high: int) -> list[tuple[int, int]]:
    """Ranges of numbers up to `high` that have every result of the wanted time, newest first."""
    if wanted.from_ms is None and wanted.to_ms is None:
        return [(1, high)]
    query = "SELECT block FROM blocks WHERE max_ms >= ? AND min_ms < ? AND block <= ? ORDER BY block DESC"
    times = (-EVER if wanted.from_ms is None else wanted.from_ms, EVER if wanted.to_ms is None else wanted.to_ms)
    ranges: list[tuple[int, int]] = []
    for (block,) in db.execute(query, (*times, high >> rows.BLOCK_BITS)):
        low, top = block << rows.BLOCK_BITS, min(high, ((block + 1) << rows.BLOCK_BITS) - 1)
        if ranges and ranges[-1][0] - top <= JOINED_BLOCKS << rows.BLOCK_BITS:
            ranges[-1] = (low, ranges[-1][1])
        else:
            ranges.append((low, top))
    return ranges


def _parts(db: sqlite3.Connection, name: str) -> list[str]:
    """The three-letter parts to look up: those that few of the newest names have. None for a shorter name."""
    text = rows.plain(name).encode().lower().decode()
    parts = list(dict.fromkeys(text[i : i + 3] for i in range(len(text) - 2)))
    if len(parts) <= MOST_PARTS:
        return parts
    newest = f"SELECT name FROM results ORDER BY n DESC LIMIT {SAMPLED_NAMES}"
    names = "\n".join(found.encode().lower().decode() for (found,) in db.execute(newest))
    return sorted(parts, key=names.count)[:MOST_PARTS]


def _stored(db: sqlite3.Connection, numbers: list[int]) -> list[Stored]:
    query = "SELECT body, good FROM bodies NATURAL LEFT JOIN marks WHERE n = ?"
    found = ((n, db.execute(query, (n,)).fetchone()) for n in numbers)
    return [Stored(n=n, body=row[0], good=None if row[1] is None else bool(row[1])) for n, row in found if row]
