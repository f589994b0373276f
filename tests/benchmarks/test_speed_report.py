from typing import Any

import pytest
from speed_parts.report import as_markdown, check_targets, compare, percentiles, spread, summarise


def turn(loop_ms: list[float], gap_ms: list[float] = [], energy_j: float | None = None) -> dict[str, Any]:  # noqa: B006
    return {
        "loop_ms": loop_ms,
        "gap_ms": gap_ms,
        "cpu_ms": 2.0,
        "energy_j": energy_j,
        "rss_mb": 100.0,
        "peak_rss_mb": 120.0,
    }


def row(name: str, *rounds_ms: float, threads: int = 2, gflop: float | None = 1.0, agent: Any = None) -> dict[str, Any]:
    made = {"name": name, "threads": threads, "error": None, "gflop": gflop}
    made |= summarise([turn([ms]) for ms in rounds_ms], [1.0])
    return made | ({"agent": agent} if agent else {})


def failed(name: str) -> dict[str, Any]:
    return {"name": name, "threads": 2, "error": "no such library"}


def found(targets: list[Any]) -> dict[str, Any]:
    return {target.what: target.met for target in targets}


def test_no_times_have_no_percentiles_and_no_spread() -> None:
    assert percentiles([]) == {} and spread([]) == {}
    assert percentiles(list(range(101))) == {"p50": 50, "p95": 95, "p99": 99}
    assert spread([3, 1, 2, 10]) == {"median": 2.5, "min": 1, "max": 10}


def test_throughput_uses_all_frames_and_energy_only_if_measured() -> None:
    figures = summarise([turn([10, 30]), turn([20, 20], gap_ms=[50], energy_j=0.5)], [3.0, 1.0])
    assert figures["per_second"] == pytest.approx(50)
    assert figures["round_p50_ms"] == [20, 20]
    assert figures["after_gap_ms"]["p50"] == 50
    assert figures["energy_j"]["median"] == 0.5
    assert figures["first_verdict_s"] == {"median": 2, "min": 1, "max": 3}
    assert summarise([turn([1])], [])["energy_j"] is None


def test_times_are_compared_within_each_round() -> None:
    rows = [row("vit-l", 1000, 3000), row("zsad-tiny", 10, 30), row("sgemm", 10, 10, gflop=2), failed("padim-r18")]
    compare(rows)
    assert rows[1]["times_vit_l"] == {"median": 100, "min": 100, "max": 100}
    assert rows[1]["share_of_sgemm"] == pytest.approx((1 / 20) / (2 / 10))
    assert "times_vit_l" not in rows[3]


def test_other_thread_counts_are_not_compared() -> None:
    rows = [row("vit-l", 1000, threads=1), row("zsad-tiny", 10, threads=2)]
    compare(rows)
    assert "times_vit_l" not in rows[1]


def test_targets_use_the_highest_thread_count() -> None:
    rows = [row("vit-l", 1000), row("zsad-tiny", 10), row("vit-l", 1000, threads=1), row("zsad-tiny", 1, threads=1)]
    compare(rows)
    assert found(check_targets(rows))["zsad-tiny at least 250 times as fast as AVA-DINO ViT-L"] is False


@pytest.mark.parametrize(("tiny_ms", "met"), [(4.0, True), (4.01, False)])
def test_tiny_must_be_250_times_as_fast(tiny_ms: float, met: bool) -> None:
    rows = [row("vit-l", 1000), row("zsad-tiny", tiny_ms), row("padim-r18", 4.005)]
    compare(rows)
    targets = found(check_targets(rows))
    assert targets["zsad-tiny at least 250 times as fast as AVA-DINO ViT-L"] is met
    assert targets["zsad-tiny faster than Anomalib's PaDiM r18"] is met
    assert targets["zsad-small at least 50 times as fast as AVA-DINO ViT-L"] is None


@pytest.mark.parametrize(("small_ms", "met"), [(40.0, True), (40.1, False)])
def test_small_may_be_four_times_as_slow_as_tiny(small_ms: float, met: bool) -> None:
    targets = found(check_targets([row("zsad-tiny", 10), row("zsad-small", small_ms)]))
    assert targets["zsad-small within 4 times zsad-tiny's cost"] is met


def test_targets_of_a_model_that_did_not_run_are_open() -> None:
    assert set(found(check_targets([failed("zsad-tiny"), failed("vit-l")])).values()) == {None}
    assert set(found(check_targets([])).values()) == {None}


@pytest.mark.parametrize(("rss_mb", "first_s", "met"), [(249.9, 1.5, True), (250.0, 1.51, False)])
def test_the_agents_memory_and_first_verdict_have_targets(rss_mb: float, first_s: float, met: bool) -> None:
    agent = {"rss_mb": rss_mb, "first_verdict_s": spread([first_s])}
    targets = found(check_targets([row("zsad-tiny", 10, agent=agent)]))
    assert targets["zsad-tiny: agent under 250 MB"] is met
    assert targets["zsad-tiny: first verdict within 1.5 s"] is met


def test_the_table_has_every_model_or_the_reason_why_it_did_not_run() -> None:
    machine = {"cpu": "CPU 9", "cpu_count": 2, "isa": ["avx2"], "isa_limit": None, "openvino": "1", "date": "today"}
    rows = [row("vit-l", 1000), row("zsad-tiny", 10, gflop=None), failed("padim-r18")]
    compare(rows)
    table = as_markdown(
        {"machine": machine | {"load_before": 0.5}, "rounds": 1, "turn_s": 1.0, "gaps": 0, "rows": rows}
    )
    lines = table.splitlines()
    tiny = next(line for line in lines if line.startswith("| zsad-tiny"))
    assert "100.0 (100.0-100.0)" in tiny and "not known" in tiny and "not measured" in tiny
    header = next(line for line in lines if line.startswith("| 2 threads"))
    assert tiny.count("|") == header.count("|") == lines[lines.index(header) + 1].count("|")
    assert any("padim-r18, 2 threads: did not run: no such library" in line for line in lines)
    assert "NOT met: zsad-tiny at least 250 times" in table
