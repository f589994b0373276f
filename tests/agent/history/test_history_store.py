"""What the history keeps, and what it does when its file cannot be used."""

import json
import logging
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from history_tools import filled, ids, put, rows_in
from mqtt_listener import wait_until
from result_maker import make_result

from zsad_agent.history import HistoryStore, Wanted, file, find_one, store
from zsad_core.errors import HistoryError
from zsad_core.types import Verdict


def test_result_is_given_back_as_it_was_published(tmp_path: Path) -> None:
    result = make_result(7, source_name="übung 1.png", trigger_id="t-1")
    with filled(tmp_path / "new" / "history.sqlite3", [result]) as history, history.reading() as db:
        found = find_one(db, result.id)
        assert found is not None and (found.body, found.captured_at, found.good) == (
            result.encode(),
            result.captured_at,
            None,
        )
        assert find_one(db, "line3-b1-8") is None


def test_results_are_there_after_a_restart_and_a_second_time_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with filled(path, [make_result(1), make_result(2)]):
        pass
    with HistoryStore(path) as history:
        history.refill([make_result(2).encode(), b"no result", make_result(3).encode()])
        put(history, [make_result(4), make_result(3)])
        assert ids(history) == [f"line3-b1-{seq}" for seq in (4, 3, 2, 1)]


def test_text_that_sqlite_cannot_store_is_replaced(tmp_path: Path) -> None:
    odd = make_result(1, product="a\0b", source_name="name\0.png")
    with filled(tmp_path / "h", [odd, make_result(2)]) as history:
        assert ids(history, Wanted(name="me\0.p")) == [odd.id]
        assert ids(history, Wanted(product="a\0b")) == [odd.id]


def test_one_result_that_cannot_be_stored_costs_no_other(tmp_path: Path) -> None:
    odd = make_result(2).model_copy(update={"source_name": "half \ud800"})  # no UTF-8 has it
    with filled(tmp_path / "h", [make_result(1), odd, make_result(3)]) as history:
        assert ids(history) == ["line3-b1-3", "line3-b1-1"]
        assert (history.left_out, history.fault) == (1, None)


def test_mark_is_stored_with_who_and_when_and_replaces_the_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "h"
    with filled(path, [make_result(1)]) as history:
        before_ms = time.time() * 1000
        assert history.mark("line3-b1-1", good=False, who="operator")
        assert history.mark("line3-b1-1", good=True, who="admin")
        assert not history.mark("line3-b1-2", good=True, who="admin")
        with history.reading() as db:
            found = find_one(db, "line3-b1-1")
            assert found is not None and found.good is True
            (row,) = db.execute("SELECT good, who, at_ms FROM marks").fetchall()
            assert row[:2] == (1, "admin") and before_ms - 1 <= row[2] <= time.time() * 1000


def test_queue_that_is_full_is_counted_and_stated_and_does_not_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = HistoryStore(tmp_path / "h")  # not started: nothing is written
    result = make_result(1)
    started_s = time.monotonic()
    with caplog.at_level(logging.WARNING):
        for _ in range(store.MOST_WAITING + 3):
            history.accept(result)
    assert time.monotonic() - started_s < 20
    assert history.left_out == 3
    assert history.fault is not None and "come faster" in history.fault and "3 results were left out" in history.fault
    assert len(caplog.records) == 1
    with history:
        wait_until(history.is_copied)
        assert history.fault is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("CREATE TABLE theirs (x)", "not a history of this agent"),
        (f"CREATE TABLE t (x); PRAGMA application_id={file.APPLICATION_ID}; PRAGMA user_version=2", "history format 2"),
    ],
)
def test_file_of_others_is_not_touched_and_the_history_fills_when_it_is_gone(
    tmp_path: Path, make: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_S", 0.05)
    monkeypatch.setattr(store, "HOLD_S", 1.0)
    path = tmp_path / "h"
    db = sqlite3.connect(path)
    db.executescript(make)
    db.close()
    content = path.read_bytes()
    with HistoryStore(path) as history:
        history.accept(make_result(1))
        wait_until(lambda: history.fault is not None)
        assert history.fault is not None and words in history.fault
        with pytest.raises(HistoryError, match=words), history.reading():
            pass
        assert not history.is_copied()
        wait_until(history.is_copied)  # after HOLD_S: the spool must not grow
        assert path.read_bytes() == content
        path.unlink()
        wait_until(lambda: history.fault is None)
        put(history, [make_result(2)])
        assert ids(history) == ["line3-b1-2", "line3-b1-1"]  # the queue kept the first


@pytest.mark.parametrize("content", [b"no database" * 1000, b"\0" * 8192])
def test_damaged_file_is_set_aside_and_stated(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "history.sqlite3"
    path.write_bytes(content)
    with HistoryStore(path) as history:
        put(history, [make_result(1)])
        assert ids(history) == ["line3-b1-1"]
        assert history.fault is not None and "set aside as history.sqlite3.damaged" in history.fault
    assert (tmp_path / "history.sqlite3.damaged").read_bytes() == content
    assert "set aside" in caplog.text


def test_damage_that_only_a_query_meets_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite3"
    with filled(path, [make_result(seq) for seq in range(3000)]):
        pass
    with path.open("r+b") as opened:
        opened.seek(40 * 4096)  # not at the start, and not what the next result needs
        opened.write(b"\xff" * (path.stat().st_size // 2 - 40 * 4096))
    with HistoryStore(path) as history:
        with pytest.raises(HistoryError, match=r"malformed|damaged"):
            ids(history)
        wait_until(lambda: (tmp_path / "history.sqlite3.damaged").exists())
        put(history, [make_result(5000)])
        wait_until(lambda: ids(history)[:1] == ["line3-b1-5000"])


@pytest.mark.parametrize("replace", [False, True])
def test_file_that_is_removed_or_replaced_is_started_anew(tmp_path: Path, replace: bool) -> None:
    path = tmp_path / "h"
    with filled(path, [make_result(1)]) as history:
        path.unlink()
        if replace:
            path.write_bytes(b"something")
        put(history, [make_result(2)])
        wait_until(lambda: history.fault is not None and path.exists())
        put(history, [make_result(3)])
        wait_until(lambda: ids(history)[:1] == ["line3-b1-3"])
    assert rows_in(path) >= 1


def test_full_disk_keeps_results_in_memory_and_stores_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "RETRY_S", 0.05)
    path = tmp_path / "h"
    with filled(path, [make_result(1)]) as history:
        pages = history._call(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
        history._call(lambda db: db.execute("SELECT 1").fetchone())
        assert history._db is not None
        history._db.execute(f"PRAGMA max_page_count={pages}").fetchone()
        for seq in range(2, 300):
            history.accept(make_result(seq))
        wait_until(lambda: history.fault is not None and "full" in history.fault)
        assert ids(history) == ["line3-b1-1"]  # what is there can be read
        assert not history.is_copied()
        history._db.execute("PRAGMA max_page_count=1000000").fetchone()
        wait_until(history.is_copied)
        assert history.fault is None
        assert len(ids(history)) == 299


def test_query_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ANSWER_S", 0.5)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    with filled(tmp_path / "h", [make_result(1)]) as history:
        with pytest.raises(HistoryError, match="took longer than"), history.reading() as db:
            db.execute(endless).fetchone()
        assert ids(history) == ["line3-b1-1"]


def test_reader_cannot_write(tmp_path: Path) -> None:
    with (
        filled(tmp_path / "h", [make_result(1)]) as history,
        pytest.raises(HistoryError, match="readonly"),
        history.reading() as db,
    ):
        db.execute("DELETE FROM results")


def test_inspection_does_not_wait_while_a_reader_and_a_slow_writer_are_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "HUNG_S", 0.1)
    with filled(tmp_path / "h", [make_result(1)]) as history, history.reading():
        slow = history._call

        disk_answers = threading.Event()
        history._jobs.append(lambda db: disk_answers.wait(60))
        with history._condition:
            history._condition.notify_all()
        wait_until(lambda: history.fault is not None)
        assert history.fault is not None and "has not answered" in history.fault
        started_s = time.monotonic()
        for seq in range(2, 500):
            history.accept(make_result(seq, verdict=Verdict.OK))
        assert time.monotonic() - started_s < 20
        disk_answers.set()
        wait_until(history.is_copied)
        assert slow(lambda db: db.execute("SELECT count(*) FROM results").fetchone()[0]) == 499


def test_stop_writes_what_waits(tmp_path: Path) -> None:
    path = tmp_path / "h"
    with HistoryStore(path) as history:
        for seq in range(1000):
            history.accept(make_result(seq))
        history.stop(time.monotonic() + 60)
    assert rows_in(path) == 1000
    history.accept(make_result(1001))
    assert history.left_out == 1


def test_body_is_json_that_other_programs_can_read(tmp_path: Path) -> None:
    path = tmp_path / "h"
    with filled(path, [make_result(1)]):
        pass
    db = sqlite3.connect(path)
    assert json.loads(db.execute("SELECT body FROM bodies").fetchone()[0])["schema"] == "zsad.result/1"
    db.close()
