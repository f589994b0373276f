"""The counts of the agent at one moment, the source of metrics, statistics and readiness."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from zsad_agent.messages.result import Latency, Result
from zsad_agent.messages.stats import Percentiles, RecentLatency, Stats, VerdictCounts
from zsad_core.types import Verdict

WINDOW_S = 300.0  # percentiles are over the results of this time,
WINDOW_RESULTS = 2000  # and over the last so many


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSnapshot:
    stats: Stats
    connected: bool  # to the broker
    broker_fault: str | None
    spool_fault: str | None  # why results are not durable
    model_fault: str | None  # why pictures have no score
    service_faults: Mapping[str, str]  # by the service's name
    live_images_dropped: Mapping[str, int]  # by kind: `heatmap`, `image`
    spool_incident: str | None = None  # what happened to the spool's file a moment ago
    drifting: Collection[str] = ()  # cameras whose only fault is that the scores of their parts have changed
    silent_s: Mapping[str, float] = field(default_factory=dict)  # camera -> seconds without a picture, if unusual
    plc_silent_s: float | None = None  # since a PLC asked for something, infinite before; None: plant is off


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
            self._counts.setdefault(result.camera, Counter())[result.verdict.value] += 1
            latencies = self._latencies.setdefault(result.camera, deque(maxlen=WINDOW_RESULTS))
            latencies.append((self._clock_s(), result.latency_ms))

    def counts(self, camera: str) -> VerdictCounts:
        with self._lock:
            counted = self._counts.get(camera, Counter())
            return VerdictCounts(**{verdict.value: counted[verdict.value] for verdict in Verdict})

    def latency_ms(self, camera: str) -> RecentLatency:
        since_s = self._clock_s() - WINDOW_S
        with self._lock:
            recent = [latency for at_s, latency in self._latencies.get(camera, ()) if at_s >= since_s]
        return RecentLatency(
            capture_to_result=_percentiles([latency.capture_to_result for latency in recent]),
            inference=_percentiles([latency.inference for latency in recent]),
        )


def what_is_missing(agent: AgentSnapshot) -> list[str]:
    """Why the agent is not ready: every reason in words; none when it is."""
    missing = [
        f"camera {name}: {camera.reason or 'no pictures'}"
        for name, camera in agent.stats.cameras.items()
        if not camera.up
    ]
    if agent.broker_fault or not agent.connected:
        missing.append(f"broker: {agent.broker_fault or 'not connected'}")
    if agent.spool_fault:
        missing.append(f"disk: {agent.spool_fault}")
    return missing


def _percentiles(values_ms: Sequence[float | None]) -> Percentiles | None:
    known_ms = [value for value in values_ms if value is not None]
    if not known_ms:
        return None
    p50, p95 = np.percentile(known_ms, (50, 95))
    return Percentiles(p50=round(float(p50), 3), p95=round(float(p95), 3))
