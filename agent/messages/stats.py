"""The statistics on `<prefix>/<device_id>/stats`, schema `zsad.stats/1`."""

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import numpy as np

from zsad_agent.messages.counts import AgentSnapshot
from zsad_agent.messages.result import Latency, Result
from zsad_agent.system import utc_text
from zsad_core.types import Verdict

STATS_SCHEMA = "zsad.stats/1"
WINDOW_S = 300.0  # percentiles are over the results of this time,
WINDOW_RESULTS = 2000  # and over the last so many


class RecentResults:
    """Counts by camera since the start, and latencies of the last five minutes. A sink of the pipeline."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}
        self._latencies: dict[str, deque[tuple[float, Latency]]] = {}

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Counts the result."""
        with self._lock:
            self._counts.setdefault(result.camera, Counter())[result.verdict] += 1
            latencies = self._latencies.setdefault(result.camera, deque(maxlen=WINDOW_RESULTS))
            latencies.append((self._clock_s(), result.latency_ms))

    def counts(self, camera: str) -> dict[str, int]:
        """Results by verdict."""
        with self._lock:
            counted = self._counts.get(camera, Counter())
            return {verdict.value: counted[verdict.value] for verdict in Verdict}

    def latency_ms(self, camera: str) -> dict[str, dict[str, float] | None]:
        """p50 and p95 in milliseconds of `capture_to_result` and `inference`; None where there was none lately."""
        since_s = self._clock_s() - WINDOW_S
        with self._lock:
            recent = [latency for at_s, latency in self._latencies.get(camera, ()) if at_s >= since_s]
        return {
            name: _percentiles([value for latency in recent if (value := getattr(latency, name)) is not None])
            for name in ("capture_to_result", "inference")
        }


def build_stats(agent: AgentSnapshot, recent: RecentResults, at: datetime | None = None) -> dict[str, Any]:
    """The message, valid under `stats.schema.json`, ready for `encode`.

    Args:
        agent: the counts at this moment.
        recent: was given every result.
        at: with a time zone; None: now.
    """
    return {
        "schema": STATS_SCHEMA,
        "device_id": agent.device_id,
        "at": utc_text(at or datetime.now(UTC)),
        "uptime_s": round(agent.uptime_s, 1),
        "version": agent.version,
        "bundle": asdict(agent.bundle) if agent.bundle is not None else None,
        "cameras": {
            name: {
                "up": camera.up,
                "reason": None if camera.up else camera.reason,
                "results": recent.counts(name),
                "dropped": camera.dropped,
                "latency_ms": recent.latency_ms(name),
            }
            for name, camera in agent.cameras.items()
        },
        "spool": asdict(agent.spool),
        "broker": {
            "connections": agent.broker.connections,
            "acknowledged": agent.broker.acknowledged,
            "replayed": agent.broker.replayed,
            "given_up": dict(agent.broker.given_up),
            "attached_images_given_up": dict(agent.broker.attached_images_given_up),
        },
        "evidence": asdict(agent.evidence) if agent.evidence is not None else None,
    }


def stats_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the message."""
    text = resources.files(__package__).joinpath("stats.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}
