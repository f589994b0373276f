"""The limits of days and bytes, and that writing goes on meanwhile."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from history_tools import filled, ids, put
from mqtt_listener import wait_until
from result_maker import make_result

from zsad_agent.history import By, HistoryStore, Wanted, report
from zsad_agent.history import pruning as pruning_module
from zsad_agent.history.file import open_for_writing
from zsad_agent.history.pruning import DAY_MS, Pruner
from zsad_agent.history.rows import insert
from zsad_agent.messages import Result
from zsad_agent.system import transaction

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class Clock:
    """A wall clock and a monotonic clock that only move when told."""

    def __init__(self) -> None:
        self.wall_s, self.monotonic_s = NOW.timestamp(), 0.0

    def go(self, hours: float) -> None:
        self.wall_s += hours * 3600
        self.monotonic_s += hours * 3600


def days_ago(*days: float) -> list[Result]:
    return [make_result(seq, captured_at=NOW - timedelta(days=age)) for seq, age in enumerate(days)]


def pruned(path: Path, results: list[Result], clock: Clock, *, hours: int, max_days: float = 10) -> list[int]:
    """Inserts results, lets hours pass, and returns the ages in days of those that are left."""
    db = open_for_writing(path)
    with transaction(db):
        insert(db, results)
    pruner = Pruner(
        path,
        max_days=max_days,
        max_bytes=10**9,
        wall_s=lambda: clock.wall_s,
        monotonic_s=lambda: clock.monotonic_s,
        disk_free=lambda folder: 10**12,
    )
    for _ in range(hours):
        clock.go(1)
        for _ in range(20):
            pruner.step(db, 0)
    left = [ms for (ms,) in db.execute("SELECT captured_ms FROM results ORDER BY n")]
    assert [row for (row,) in db.execute("SELECT count(*) FROM bodies")] == [len(left)]
    blocks = db.execute("SELECT min(min_ms), max(max_ms) FROM blocks").fetchone()
    assert blocks == ((min(left), max(left)) if left else (None, None))
    oldest_slot = db.execute("SELECT min(slot) FROM slots").fetchone()[0]
    assert oldest_slot is None or not left or oldest_slot <= min(left) // 900_000
    db.close()
    return [round((NOW.timestamp() * 1000 - ms) / DAY_MS) for ms in left]


def test_results_older_than_the_limit_are_deleted_day_by_day(tmp_path: Path) -> None:
    ages = [20, 15, 12, 9, 1]
    assert pruned(tmp_path / "a", days_ago(*ages), Clock(), hours=1) == [15, 12, 9, 1]  # the clock is an hour old
    assert pruned(tmp_path / "b", days_ago(*ages), Clock(), hours=5) == [9, 1]


def test_old_results_behind_those_of_a_wrong_clock_are_deleted_too(tmp_path: Path) -> None:
    future_first = [-3000, 15, 9]
    assert pruned(tmp_path / "h", days_ago(*future_first), Clock(), hours=3) == [-3000, 9]


def test_wrong_clock_deletes_one_day_per_hour(tmp_path: Path) -> None:
    clock = Clock()
    clock.wall_s += 3650 * 86_400
    left = pruned(tmp_path / "h", days_ago(5, 4, 3, 2, 1), clock, hours=3)
    assert left == [2, 1]


def test_step_of_the_clock_deletes_nothing_for_an_hour(tmp_path: Path) -> None:
    path, clock = tmp_path / "h", Clock()
    db = open_for_writing(path)
    with transaction(db):
        insert(db, days_ago(5))
    pruner = Pruner(
        path, max_days=10, max_bytes=10**9, wall_s=lambda: clock.wall_s, monotonic_s=lambda: clock.monotonic_s
    )
    clock.go(2)
    assert not pruner.step(db, 0)
    clock.wall_s += 365 * 86_400
    for _ in range(5):
        clock.go(0.1)
        pruner.step(db, 0)
    assert db.execute("SELECT count(*) FROM results").fetchone() == (1,)
    db.close()


def test_file_stays_within_its_bytes_while_results_come(tmp_path: Path) -> None:
    path, most = tmp_path / "history.sqlite3", 3_000_000
    with HistoryStore(path, max_bytes=most) as history:
        for seq in range(12_000):
            history.accept(make_result(seq, source_name=f"part_{seq:06}.png"))
            if seq % 500 == 0:
                wait_until(lambda: not history.waiting)
        wait_until(lambda: not history.waiting)
        wait_until(lambda: path.stat().st_size <= most * 1.1)
        left = ids(history)
        assert history.left_out == 0
        assert 1000 < len(left) < 6000
        assert left == [f"line3-b1-{seq}" for seq in range(11_999, 11_999 - len(left), -1)]
        assert ids(history, Wanted(name="part_000001")) == []  # its entry in the index of names is gone
        assert ids(history, Wanted(name="part_011998")) == ["line3-b1-11998"]
        with history.reading() as db:
            found = report(db, by=By.DAY, shifts=[])
        assert found.total.anomalous == 12_000  # the counts outlive the results


def test_smaller_limit_shrinks_the_file_and_results_are_stored_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning_module, "SLACK_PAGES", 64)
    path = tmp_path / "h"
    with filled(path, [make_result(seq) for seq in range(5000)]):
        pass
    before = path.stat().st_size
    with HistoryStore(path, max_bytes=before // 4) as history:
        put(history, [make_result(9000)])
        wait_until(lambda: path.stat().st_size < before * 0.5)
        assert ids(history)[0] == "line3-b1-9000"


def test_nearly_full_disk_keeps_the_newest_results_and_is_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning_module, "SLACK_PAGES", 64)
    path = tmp_path / "h"
    free = 10**12
    with HistoryStore(path, disk_free=lambda folder: free) as history:
        put(history, [make_result(seq) for seq in range(2000)])
        free = 10_000_000
        for start in range(2000, 6000, 200):
            put(history, [make_result(seq) for seq in range(start, start + 200)])
        assert history.fault is not None and "new results replace the oldest" in history.fault
        assert history.left_out == 0
        size = path.stat().st_size
        put(history, [make_result(seq) for seq in range(6000, 7000)])
        assert path.stat().st_size <= size * 1.2
        assert ids(history)[0] == "line3-b1-6999"
        free = 10**12
        wait_until(lambda: history.fault is None)


def test_nearly_full_disk_leaves_a_small_history_alone(tmp_path: Path) -> None:
    with HistoryStore(tmp_path / "h", disk_free=lambda folder: 10_000_000) as history:
        for seq in range(0, 300, 30):
            put(history, [make_result(seq + place) for place in range(30)])
        assert len(ids(history)) == 300


def test_one_step_is_short(tmp_path: Path) -> None:
    path = tmp_path / "h"
    with filled(path, [make_result(seq) for seq in range(5000)]):
        pass
    db = open_for_writing(path)
    pruner = Pruner(path, max_days=1, max_bytes=1_000_000)
    took_s = []
    while len(took_s) < 20:
        started_s = time.thread_time()
        pruner.step(db, 0)
        took_s.append(time.thread_time() - started_s)
    db.close()
    assert sorted(took_s)[10] < 0.1
