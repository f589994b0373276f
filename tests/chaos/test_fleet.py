"""Many agents on one broker that restarts once: no result is lost, and the delay of results is measured."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chaos_record import record
from judge import Judgement, Received, judge, read_results
from line import WITNESSED
from mosquitto_broker import MosquittoBroker
from witness import Arrival, Witness

FLEET = Path(__file__).with_name("fleet.py")
PROCESSES = 4
RESTART_S = 0.5  # the broker is stopped


@dataclass(kw_only=True)
class FleetRun:
    accepted: set[str]
    unsent: int
    results: dict[str, list[Received]]  # device -> its results
    found: list[Judgement]
    latencies_ms: np.ndarray  # from capture to subscriber, of live results
    recovery_s: float  # from the broker's restart until every agent has sent a result over a new connection

    @property
    def lost(self) -> set[str]:
        return self.accepted - {result.id for results in self.results.values() for result in results}


def run_fleet(folder: Path, *, agents: int, seconds: int) -> FleetRun:
    broker = MosquittoBroker(folder, persistent=True, extra=WITNESSED)
    with broker, Witness(broker.port) as witness:
        broker.save()
        share = agents // PROCESSES
        workers = [
            subprocess.Popen(
                [sys.executable, str(FLEET), *map(str, (broker.port, number * share, share, seconds, folder))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # it imports from tests/
            )
            for number in range(PROCESSES)
        ]
        try:
            for worker in workers:
                assert worker.stdout is not None and worker.stdin is not None
                assert worker.stdout.readline() == "ready\n"
            for worker in workers:
                worker.stdin.write("go\n")  # type: ignore[union-attr]
                worker.stdin.flush()  # type: ignore[union-attr]
            time.sleep(seconds / 2)
            broker.stop()
            time.sleep(RESTART_S)
            back_s = time.time()
            broker.start()
            reports = [json.loads(worker.communicate(timeout=seconds + 120)[0]) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
                worker.wait(10)
        accepted = {result_id for report in reports for result_id in report["accepted"]}
        witness.wait_for(lambda: sum(a.topic.endswith("/result") for a in witness.arrivals) >= len(accepted), 10)
    devices: dict[str, list[Arrival]] = {}
    for arrival in witness.arrivals:
        devices.setdefault(arrival.topic.split("/")[1], []).append(arrival)
    results = {device: read_results(arrivals) for device, arrivals in devices.items()}
    live = [result for of_one in results.values() for result in of_one if not result.replayed]
    returns_s = [
        next((result.at_s for result in of_one if result.connected_at_s >= back_s), float("inf"))
        for of_one in results.values()
    ]
    return FleetRun(
        accepted=accepted,
        unsent=sum(report["unsent"] for report in reports),
        results=results,
        found=[judge([], of_one) for of_one in results.values()],
        latencies_ms=np.array([1000 * (result.at_s - result.captured_s) for result in live]),
        recovery_s=max(returns_s) - back_s,
    )


def check(run: FleetRun, *, agents: int, seconds: int) -> None:
    assert len(run.accepted) == agents * seconds
    assert not run.lost and run.unsent == 0
    assert len(run.found) == agents and all(found.clean for found in run.found)


def test_20_agents_lose_no_result_when_their_broker_restarts(tmp_path: Path) -> None:
    run = run_fleet(tmp_path, agents=20, seconds=6)
    check(run, agents=20, seconds=6)
    assert np.percentile(run.latencies_ms, 50) < 500


@pytest.mark.chaos
def test_200_agents_lose_no_result_in_5_minutes_when_their_broker_restarts(tmp_path: Path) -> None:
    run = run_fleet(tmp_path, agents=200, seconds=300)
    p50, p95, p99 = np.percentile(run.latencies_ms, (50, 95, 99))
    record(
        "200 agents at 1 result a second each for 5 minutes on one broker, which restarts once",
        tried=1,
        lost=len(run.lost),
        doubled=sum(found.doubled for found in run.found),
        recover_s=[run.recovery_s],
        note=f"{len(run.accepted)} results, live from capture to subscriber p50 {p50:.1f}, p95 {p95:.1f}, "
        f"p99 {p99:.1f} ms",
    )
    check(run, agents=200, seconds=300)
