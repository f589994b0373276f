"""Pages of results, against a filter in plain Python."""

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from history_tools import filled, ids, pages
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from result_maker import START, make_result

from zsad_agent.history import Wanted, rows, scores
from zsad_agent.messages import Result
from zsad_core.types import Verdict

START_MS = int(START.timestamp() * 1000)
NAMES = st.none() | st.text(alphabet='aAbBß%_"*é\n.1', min_size=1, max_size=6)
RESULT = st.tuples(
    st.integers(-5, 5),  # seconds, in no order: the clock jumps
    st.sampled_from(["cam0", "cam1"]),
    st.sampled_from(Verdict),
    st.sampled_from(["object", "böttle"]),
    NAMES,  # source
    NAMES,  # trigger
    st.none() | st.booleans(),  # mark
)
WANTED = st.builds(
    Wanted,
    from_ms=st.none() | st.integers(-6, 6).map(lambda s: START_MS + s * 1000),
    to_ms=st.none() | st.integers(-6, 6).map(lambda s: START_MS + s * 1000),
    camera=st.none() | st.sampled_from(["cam0", "cam1", "cam2"]),
    verdicts=st.frozensets(st.sampled_from(Verdict)),
    product=st.none() | st.sampled_from(["object", "böttle", "none"]),
    name=st.just("") | st.text(alphabet='aAbBß%_"*é.1', max_size=5),
    good=st.none() | st.booleans(),
)


def lower(text: str | None) -> bytes:
    return (text or "").encode().lower()


def matches(result: Result, mark: bool | None, wanted: Wanted) -> bool:
    """The filter, written once more."""
    captured_ms = round(result.captured_at.timestamp() * 1000)
    return (
        (wanted.from_ms is None or captured_ms >= wanted.from_ms)
        and (wanted.to_ms is None or captured_ms < wanted.to_ms)
        and wanted.camera in (None, result.camera)
        and (not wanted.verdicts or result.verdict in wanted.verdicts)
        and wanted.product in (None, result.product)
        and any(lower(wanted.name) in lower(text) for text in (result.source_name, result.trigger_id))
        and wanted.good in (None, mark)
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=st.lists(RESULT, max_size=40), asked=st.lists(WANTED, min_size=1, max_size=20), limit=st.integers(1, 9))
def test_pages_have_exactly_the_matching_results_newest_first(
    made: Sequence[tuple[int, str, Verdict, str, str | None, str | None, bool | None]],
    asked: Sequence[Wanted],
    limit: int,
) -> None:
    results = [
        make_result(
            seq,
            verdict=verdict,
            camera=camera,
            product=product,
            captured_at=START + timedelta(seconds=seconds),
            source_name=source,
            trigger_id=trigger,
        )
        for seq, (seconds, camera, verdict, product, source, trigger, _) in enumerate(made)
    ]
    marks = [row[-1] for row in made]
    block_bits, rows.BLOCK_BITS = rows.BLOCK_BITS, 2  # so that there are many blocks
    try:
        with tempfile.TemporaryDirectory() as folder, filled(Path(folder) / "h", results) as history:
            for result, mark in zip(results, marks, strict=True):
                if mark is not None:
                    assert history.mark(result.id, good=mark, who="operator")
            for wanted in asked:
                expected = [
                    (result.encode(), mark)
                    for result, mark in zip(results, marks, strict=True)
                    if matches(result, mark, wanted)
                ][::-1]
                for budget_s in (10.0, -1.0):  # also with pages that end early
                    found = list(pages(history, wanted, limit=limit, budget_s=budget_s))
                    assert [(stored.body, stored.good) for page in found for stored in page] == expected
                    assert max(map(len, found)) <= limit
    finally:
        rows.BLOCK_BITS = block_bits


def test_results_after_a_clock_that_jumped_back_are_on_the_first_page(tmp_path: Path) -> None:
    future = [make_result(seq, captured_at=datetime(2035, 1, 1, 0, 0, seq, tzinfo=UTC)) for seq in range(5)]
    now = [make_result(10 + seq) for seq in range(5)]
    with filled(tmp_path / "h", [*future, *now]) as history:
        assert ids(history, limit=5)[:5] == [result.id for result in now[::-1]]
        year_2035 = Wanted(from_ms=int(datetime(2035, 1, 1, tzinfo=UTC).timestamp() * 1000))
        assert ids(history, year_2035) == [result.id for result in future[::-1]]


def test_search_that_exceeds_its_time_continues_with_the_next_page(tmp_path: Path) -> None:
    results = [make_result(seq, source_name=f"part_{seq}.png") for seq in range(1000)]
    with filled(tmp_path / "h", results) as history:
        found = list(pages(history, Wanted(name="0", camera="cam0"), limit=50, budget_s=-1))
    assert len(found) > 10
    assert len([stored for page in found for stored in page]) == sum("0" in str(seq) for seq in range(1000))


def test_page_of_another_cursor_does_not_repeat_results_that_came_meanwhile(tmp_path: Path) -> None:
    with filled(tmp_path / "h", [make_result(seq) for seq in range(10)]) as history:
        walk = pages(history, limit=4)
        first = [stored.message["seq"] for stored in next(walk)]
        history.accept(make_result(100))
        assert first == [9, 8, 7, 6]
        assert [stored.message["seq"] for page in walk for stored in page] == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("count", [1, 50, 500])
def test_plot_has_the_worst_of_each_group(tmp_path: Path, count: int) -> None:
    results = [
        make_result(
            seq,
            verdict=Verdict.ANOMALOUS if seq == 77 else Verdict.OK,
            camera=f"cam{seq % 2}",
            captured_at=START + timedelta(seconds=seq),
        )
        for seq in range(200)
    ]
    with filled(tmp_path / "h", results) as history, history.reading() as db:
        found = scores(db, "cam1", from_ms=START_MS + 100, points=count)
        assert len(found) == min(count, 100)
        assert (START_MS + 77_000, 0.9, "anomalous", 0.5) in found
        assert [row[0] for row in found] == sorted(row[0] for row in found)


def test_plot_of_many_results_reads_every_reject_and_some_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.history.query.MOST_SCORES", 100)
    results = [make_result(seq, verdict=Verdict.ANOMALOUS if seq == 501 else Verdict.OK) for seq in range(1000)]
    with filled(tmp_path / "h", results) as history, history.reading() as db:
        found = scores(db, "cam0", from_ms=START_MS, points=600)
        assert 90 <= len(found) <= 110
        assert [row for row in found if row[2] == "anomalous"] == [(START_MS + 501, 0.9, "anomalous", 0.5)]
