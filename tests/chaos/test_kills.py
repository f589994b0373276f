"""Agent and broker are killed and restarted at random points; every accepted result arrives.

Agent and broker are real processes. A result is accepted when `--print-results` has printed it, which is after it is in
the spool, or when a result with a later number has arrived.
"""

import random
from collections import defaultdict
from pathlib import Path

import pytest
from chaos_record import record
from judge import Judgement
from line import (
    FAST,
    Fault,
    Line,
    kill_agent,
    kill_both,
    kill_broker,
    lose_witness,
    restart_broker,
    run_with_faults,
    write_small_video,
)

RUNS, RESULTS = 50, 10_000
WITH_HEATMAPS = ""

# name -> faults of one run, whether the broker is persistent
KINDS: dict[str, tuple[list[Fault], bool]] = {
    "agent killed (-9)": ([kill_agent] * 4, True),
    "broker killed (-9), with persistence": ([kill_broker] * 2, True),
    "broker killed (-9), without persistence": ([kill_broker] * 2, False),
    "broker restarted, with persistence": ([restart_broker] * 2, True),
    "agent and broker killed (-9) together": ([kill_both, kill_agent, kill_both], False),
}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_video(tmp_path_factory.mktemp("video") / "parts.avi")


def said(found: Judgement) -> str:
    return f"lost {found.lost[:5]}, altered {found.altered[:5]}, out of order {found.disordered[:5]}"


@pytest.mark.parametrize("kind", ["agent killed (-9)", "broker killed (-9), without persistence"])
def test_500_results_arrive_despite_kills(kind: str, tmp_path: Path, tiny_bundle: Path, video: Path) -> None:
    faults, persistent = KINDS[kind]
    with Line(tmp_path, tiny_bundle, video, 500, persistent=persistent, settings=WITH_HEATMAPS) as line:
        found = run_with_faults(line, faults[:2], random.Random(1))
        recoveries_s = line.recoveries_s()
    assert found.clean, said(found)
    assert found.received >= 500
    assert len(recoveries_s) == 2


def test_500_results_arrive_despite_a_disconnected_subscriber(tmp_path: Path, tiny_bundle: Path, video: Path) -> None:
    with Line(tmp_path, tiny_bundle, video, 500) as line:
        found = run_with_faults(line, [lose_witness] * 3, random.Random(2))
    assert found.clean, said(found)


@pytest.mark.chaos
def test_50_runs_of_10000_results_arrive_despite_kills(tmp_path: Path, tiny_bundle: Path, video: Path) -> None:
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    recoveries_s: dict[str, list[float]] = defaultdict(list)
    faulty = []
    for run in range(RUNS):
        kind = list(KINDS)[run % len(KINDS)]
        faults, persistent = KINDS[kind]
        folder = tmp_path / str(run)
        folder.mkdir()
        settings = WITH_HEATMAPS if run // len(KINDS) % 5 == 0 else FAST
        with Line(folder, tiny_bundle, video, RESULTS, persistent=persistent, settings=settings) as line:
            found = run_with_faults(line, faults, random.Random(run))
            recoveries_s[kind] += line.recoveries_s()
        counts = {"runs": 1, "tried": len(faults), "lost": len(found.lost), "doubled": found.doubled}
        for name, count in (counts | {"results": found.received, "disordered": len(found.disordered)}).items():
            sums[kind][name] += count
        if not found.clean:
            faulty.append(f"run {run}, {kind}: {said(found)}")
    for kind, counts in sums.items():
        note = f"{counts['runs']} runs, {counts['results']} results, {counts['disordered']} out of order"
        record(
            kind,
            tried=counts["tried"],
            lost=counts["lost"],
            doubled=counts["doubled"],
            recover_s=recoveries_s[kind],
            note=note,
        )
    assert not faulty, "\n".join(faulty)
