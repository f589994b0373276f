"""Reports by hour, day and shift of local time, from the counts of quarters of an hour."""

import sqlite3
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from enum import StrEnum

import numpy as np

from zsad_agent.history.query import EVER
from zsad_agent.history.rows import GRID, SCORE_BINS, SLOT_S, slot_of, unpacked

MOST_ROWS = 10_000
MOST_REGIONS = 10
EARLIEST_MS, LATEST_MS = -60_000_000_000_000, 250_000_000_000_000  # in the years 68 and 9892: Python's dates end soon
DAY = timedelta(days=1)
Shifts = Sequence[time_of_day]  # when each begins, in whole quarters of an hour


class By(StrEnum):
    HOUR = "hour"
    DAY = "day"
    SHIFT = "shift"


@dataclass(kw_only=True)
class Counts:
    """Sums of one row of a report."""

    ok: int = 0
    anomalous: int = 0
    unknown: int = 0
    overrides: int = 0  # results that a person disagreed with
    scores: list[bytes] = field(default_factory=list)  # packed counts

    @property
    def rate(self) -> float | None:
        """The yield: the share of passes. An unknown part is no pass. None: there are no results."""
        total = self.ok + self.anomalous + self.unknown
        return self.ok / total if total else None

    def quantiles(self, *shares: float) -> list[float | None]:
        """Scores below which so many results are, to within half a bin (0.0025). None: no result has a score."""
        sums = unpacked(b"".join(self.scores), SCORE_BINS).cumsum()
        if not sums[-1]:
            return [None] * len(shares)
        bins = [int(np.searchsorted(sums, max(1.0, share * sums[-1]))) for share in shares]
        return [(found + 0.5) / SCORE_BINS for found in bins]


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One camera in one hour, day or shift."""

    start: datetime  # UTC
    end: datetime
    camera: str
    counts: Counts


@dataclass(frozen=True, kw_only=True)
class RegionCell:
    """How many regions of rejects have their centre in one of 8 x 8 cells of the frame."""

    camera: str
    bbox_xywh: tuple[int, int, int, int]  # pixels of the newest frame
    count: int


@dataclass(frozen=True, kw_only=True)
class Report:
    rows: list[ReportRow]  # only those with results; by start, then camera
    total: Counts
    regions: list[RegionCell]  # the most frequent ones first


def report(
    db: sqlite3.Connection,
    *,
    by: By,
    shifts: Shifts,
    from_ms: int | None = None,
    to_ms: int | None = None,
    camera: str | None = None,
) -> Report:
    """Counts of whole hours, days or shifts: those in which `from_ms` and the millisecond before `to_ms` lie are whole.

    Results that were deleted because of the file's limit of bytes are counted too.

    Raises:
        ValueError: there are more than `MOST_ROWS` rows.
    """
    low, high = -EVER, EVER
    if from_ms is not None:
        low = _period_with(from_ms, by, shifts)[0] // SLOT_S
    if to_ms is not None:
        high = -(-_period_with(to_ms - 1, by, shifts)[1] // SLOT_S)
    query = """SELECT slot, camera, ok, anomalous, unknown, overrides, width, height, scores, cells FROM slots
        WHERE slot >= ?1 AND slot < ?2 AND (?3 IS NULL OR camera = ?3) ORDER BY slot"""
    slots = db.execute(query, (low, high, camera)).fetchall()
    period_of = _periods(by, shifts, {row[0] for row in slots})
    rows: dict[tuple[tuple[int, int], str], Counts] = {}
    total = Counts()
    cells: defaultdict[str, list[bytes]] = defaultdict(list)
    frames: dict[str, tuple[int, int]] = {}
    for slot, name, ok, anomalous, unknown, overrides, width, height, scores, packed_cells in slots:
        row = rows.setdefault((period_of(slot), name), Counts())
        if len(rows) > MOST_ROWS:
            raise ValueError(f"the report has more than {MOST_ROWS} rows. Ask for a shorter time, or by day")
        for counts in (row, total):
            counts.ok += ok
            counts.anomalous += anomalous
            counts.unknown += unknown
            counts.overrides += overrides
            counts.scores.append(scores)
        cells[name].append(packed_cells)
        if width is not None:
            frames[name] = (width, height)
    ordered = [
        ReportRow(start=_utc(start_s), end=_utc(end_s), camera=name, counts=counts)
        for ((start_s, end_s), name), counts in sorted(rows.items(), key=lambda item: item[0])
    ]
    return Report(rows=ordered, total=total, regions=_top_regions(cells, frames))


def _top_regions(cells: dict[str, list[bytes]], frames: dict[str, tuple[int, int]]) -> list[RegionCell]:
    found = []
    for camera, packed in cells.items():
        for cell, count in enumerate(unpacked(b"".join(packed), GRID * GRID)):
            if count:
                (left, right), (top, bottom) = (
                    (place * side // GRID, (place + 1) * side // GRID)
                    for place, side in zip((cell % GRID, cell // GRID), frames[camera], strict=True)
                )
                bbox = (left, top, right - left, bottom - top)
                found.append(RegionCell(camera=camera, bbox_xywh=bbox, count=int(count)))
    return sorted(found, key=lambda cell: -cell.count)[:MOST_REGIONS]


def _period_with(moment_ms: int, by: By, shifts: Shifts) -> tuple[int, int]:
    slot = slot_of(min(max(moment_ms, EARLIEST_MS), LATEST_MS))
    return _periods(by, shifts, [slot])(slot)


def _periods(by: By, shifts: Shifts, slots: Iterable[int]) -> Callable[[int], tuple[int, int]]:
    """A function from a slot to the start and end of its hour, day or shift, in seconds since 1970."""
    if by is By.HOUR:
        return _hour_of
    starts = [time_of_day(0)] if by is By.DAY else sorted(shifts)
    dates = {datetime.fromtimestamp(slot * SLOT_S).date() for slot in slots}
    dates = {date + shift * DAY for date in dates for shift in (-1, 0, 1)}
    # A time that a change of summer time skips begins when the clock is changed; one that it repeats, the first time.
    borders = sorted({int(datetime.combine(date, start).timestamp()) for date in dates for start in starts})

    def period_of(slot: int) -> tuple[int, int]:
        after = bisect_right(borders, slot * SLOT_S)
        return borders[after - 1], borders[after]

    return period_of


def _hour_of(slot: int) -> tuple[int, int]:
    """The hour of local time. The hour that is repeated in autumn is two hours."""
    start_s = slot * SLOT_S - datetime.fromtimestamp(slot * SLOT_S).minute * 60
    return start_s, start_s + 3600


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
