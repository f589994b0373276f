"""Reports by hour, day and shift, against counts in plain Python; summer time; marks."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path

import pytest
from history_tools import filled
from hypothesis import given, settings
from hypothesis import strategies as st
from result_maker import make_result

from zsad_agent.history import By, HistoryStore, Report, report
from zsad_agent.messages import FoundRegion, Result
from zsad_core.types import Verdict

SHIFTS = [time_of_day(6), time_of_day(14), time_of_day(22)]


@pytest.fixture
def berlin() -> Iterator[None]:
    yield from in_zone("Europe/Berlin")


def in_zone(name: str) -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def at(text: str, seq: int = 1, verdict: Verdict = Verdict.OK, **changes: object) -> Result:
    """A result that was captured at a time in UTC."""
    return make_result(seq, verdict=verdict, captured_at=datetime.fromisoformat(f"{text}+00:00"), **changes)


def ask(history: HistoryStore, by: By, **range_ms: int | str | None) -> Report:
    with history.reading() as db:
        return report(db, by=by, shifts=SHIFTS, **range_ms)  # type: ignore[arg-type]


def starts(found: Report) -> list[tuple[str, float, int]]:
    """Start, length in hours, and number of passes of each row."""
    return [
        (f"{row.start:%m-%d %H:%M}", (row.end - row.start) / timedelta(hours=1), row.counts.ok) for row in found.rows
    ]


def test_report_without_results_is_empty(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "h") as history:
        found = ask(history, By.DAY)
        assert (found.rows, found.regions, found.total.rate, found.total.quantiles(0.5)) == ([], [], None, [None])


def test_day_of_the_change_to_summer_time_has_23_hours(tmp_path: Path, berlin: None) -> None:
    times = ["2026-03-28T22:59:59", "2026-03-28T23:00:00", "2026-03-29T21:59:59.999", "2026-03-29T22:00:00"]
    with filled(tmp_path / "h", [at(text, seq) for seq, text in enumerate(times)]) as history:
        assert starts(ask(history, By.DAY)) == [
            ("03-27 23:00", 24, 1),
            ("03-28 23:00", 23, 2),
            ("03-29 22:00", 24, 1),
        ]


def test_hour_that_autumn_repeats_is_two_hours(tmp_path: Path, berlin: None) -> None:
    times = ["2026-10-25T00:30:00", "2026-10-25T01:30:00", "2026-10-25T02:30:00"]  # 02:30, 02:30 and 03:30
    with filled(tmp_path / "h", [at(text, seq) for seq, text in enumerate(times)]) as history:
        assert starts(ask(history, By.HOUR)) == [("10-25 00:00", 1, 1), ("10-25 01:00", 1, 1), ("10-25 02:00", 1, 1)]
        assert starts(ask(history, By.DAY)) == [("10-24 22:00", 25, 3)]


def test_night_shift_belongs_to_two_dates_and_is_an_hour_longer_in_autumn(tmp_path: Path, berlin: None) -> None:
    times = ["2026-10-24T19:59:00", "2026-10-24T20:00:00", "2026-10-25T04:59:00", "2026-10-25T05:00:00"]
    with filled(tmp_path / "h", [at(text, seq) for seq, text in enumerate(times)]) as history:
        assert starts(ask(history, By.SHIFT)) == [
            ("10-24 12:00", 8, 1),
            ("10-24 20:00", 9, 2),
            ("10-25 05:00", 8, 1),
        ]


@pytest.mark.parametrize(
    ("zone", "hour", "day"),
    [("Asia/Kathmandu", "11-25 10:15", "11-24 18:15"), ("America/St_Johns", "11-25 10:30", "11-25 03:30")],
)
def test_zones_with_parts_of_an_hour(tmp_path: Path, zone: str, hour: str, day: str) -> None:
    for _ in in_zone(zone):
        with filled(tmp_path / "h", [at("2026-11-25T10:46:00")]) as history:
            assert starts(ask(history, By.HOUR)) == [(hour, 1, 1)]
            assert starts(ask(history, By.DAY)) == [(day, 24, 1)]


def test_time_range_is_widened_to_whole_shifts(tmp_path: Path, berlin: None) -> None:
    times = [f"2026-11-{day:02}T{hour:02}:30:00" for day in (24, 25) for hour in range(24)]
    with filled(tmp_path / "h", [at(text, seq) for seq, text in enumerate(times)]) as history:
        at_ten = int(datetime(2026, 11, 25, 10, tzinfo=UTC).timestamp() * 1000)
        assert starts(ask(history, By.SHIFT, from_ms=at_ten, to_ms=at_ten + 1)) == [("11-25 05:00", 8, 8)]
        five = at_ten - 5 * 3_600_000
        assert starts(ask(history, By.SHIFT, from_ms=five, to_ms=five + 8 * 3_600_000)) == [("11-25 05:00", 8, 8)]
        assert starts(ask(history, By.HOUR, from_ms=at_ten, to_ms=at_ten + 7_200_000)) == [
            ("11-25 10:00", 1, 1),
            ("11-25 11:00", 1, 1),
        ]


def test_overrides_follow_the_last_mark(tmp_path: Path) -> None:
    results = [
        at("2026-11-25T10:00:00", 1, Verdict.OK),
        at("2026-11-25T10:00:00", 2, Verdict.ANOMALOUS),
        at("2026-11-25T10:00:00", 3, Verdict.UNKNOWN),
    ]
    with filled(tmp_path / "h", results) as history:
        for seq, good, overrides in [
            (1, True, 0),
            (1, False, 1),
            (2, True, 2),
            (3, True, 3),
            (3, True, 3),
            (2, False, 2),
        ]:
            assert history.mark(f"line3-b1-{seq}", good=good, who="operator")
            assert ask(history, By.DAY).total.overrides == overrides


def test_top_regions_are_cells_of_the_newest_frame(tmp_path: Path) -> None:
    def regions(*boxes: tuple[int, int, int, int]) -> tuple[FoundRegion, ...]:
        return tuple(FoundRegion(bbox_xywh=box, peak=0.9) for box in boxes)

    last_cell, first = (630, 470, 10, 10), (0, 0, 2, 2)
    results = [
        at("2026-11-25T10:00:00", seq, Verdict.ANOMALOUS, frame_wh=(640, 480), regions=regions(last_cell, first))
        for seq in range(3)
    ]
    results += [
        at("2026-11-25T11:00:00", 5, Verdict.ANOMALOUS, frame_wh=(640, 480), regions=regions((635, 400, 5, 80)))
    ]
    results += [at("2026-11-25T11:00:00", 6, Verdict.OK, frame_wh=(640, 480), regions=regions(first, first, first))]
    with filled(tmp_path / "h", results) as history:
        cells = [(cell.bbox_xywh, cell.count) for cell in ask(history, By.DAY).regions]
    assert cells == [((560, 420, 80, 60), 4), ((0, 0, 80, 60), 3)]


@settings(max_examples=30, deadline=None)
@given(
    made=st.lists(
        st.tuples(st.integers(0, 3 * 24 * 60), st.sampled_from(Verdict), st.sampled_from(["a", "b"]), st.floats(0, 1)),
        max_size=60,
    ),
    by=st.sampled_from(By),
    zone=st.sampled_from(["Europe/Berlin", "Asia/Kolkata", "UTC", "America/New_York"]),
)
def test_counts_and_quantiles_are_those_of_plain_python(
    made: list[tuple[int, Verdict, str, float]], by: By, zone: str
) -> None:
    began = datetime(2026, 10, 24, tzinfo=UTC)  # Berlin's summer time ends on the next day
    results = [
        make_result(
            seq,
            verdict=verdict,
            camera=camera,
            captured_at=began + timedelta(minutes=minute),
            anomaly_score=None if verdict is Verdict.UNKNOWN else score,
        )
        for seq, (minute, verdict, camera, score) in enumerate(made)
    ]
    for _ in in_zone(zone):
        with tempfile.TemporaryDirectory() as folder, filled(Path(folder) / "h", results) as history:
            found = ask(history, by)
    assert found.total.ok + found.total.anomalous + found.total.unknown == len(made)
    left = list(results)
    for row in found.rows:
        mine = [one for one in left if one.camera == row.camera and row.start <= one.captured_at < row.end]
        left = [one for one in left if one not in mine]
        counts = Counter(one.verdict for one in mine)
        assert (row.counts.ok, row.counts.anomalous, row.counts.unknown) == tuple(
            counts[verdict] for verdict in Verdict
        )
        assert mine and row.counts.rate == counts[Verdict.OK] / len(mine)
        known = sorted(one.anomaly_score for one in mine if one.anomaly_score is not None)
        for share in (0.5, 0.95):
            quantile = row.counts.quantiles(share)[0]
            if not known:
                assert quantile is None
            else:
                exact = known[max(0, -int(-share * len(known) // 1) - 1)]
                assert quantile is not None and abs(quantile - exact) <= 0.0025 + 1e-9
    assert not left
    assert [row.start for row in found.rows] == sorted(row.start for row in found.rows)
