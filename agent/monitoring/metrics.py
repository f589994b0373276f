"""The Prometheus metrics at /metrics. All except the counts of results are read at each scrape."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from zsad_agent.messages import AgentSnapshot, Result
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SCORE_BUCKETS = tuple(step / 20 for step in range(1, 21))
BUCKETS_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Kind = Literal["counter", "gauge"]


class Metrics:
    """Has its own registry. A sink of the pipeline: each result costs a few microseconds."""

    def __init__(self, cameras: Sequence[str], read: Callable[[], AgentSnapshot]) -> None:
        """Starts every count of results at 0, so that Prometheus sees the first result as an increase.

        `read` is called at each scrape, in the thread of the server.
        """
        prometheus_client.disable_created_metrics()  # they double the number of series, and nothing here uses them
        self._registry = CollectorRegistry(auto_describe=False)
        self._results = Counter("zsad_results", "Results by verdict.", ["camera", "verdict"], registry=self._registry)
        histogram = partial(Histogram, labelnames=["camera"], buckets=BUCKETS_S, registry=self._registry)
        self._score = histogram("zsad_anomaly_score", "Scores of judged pictures, 0 to 1.", buckets=SCORE_BUCKETS)
        self._latency_s = histogram(
            "zsad_capture_to_result_seconds", "Time from the capture of a picture to its result."
        )
        self._inference_s = histogram("zsad_inference_seconds", "The model's time for a picture.")
        for camera in cameras:
            self._score.labels(camera)
            self._latency_s.labels(camera)
            self._inference_s.labels(camera)
            for verdict in Verdict:
                self._results.labels(camera, verdict.value)
        self._registry.register(_Reading(lambda: _agent_metrics(read())))
        self._registry.register(_Reading(_process_metrics))

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Counts the result."""
        latency_ms = result.latency_ms
        self._results.labels(result.camera, result.verdict.value).inc()
        if result.anomaly_score is not None:
            self._score.labels(result.camera).observe(result.anomaly_score)
        if latency_ms.capture_to_result is not None:
            self._latency_s.labels(result.camera).observe(latency_ms.capture_to_result / 1000)
        if latency_ms.inference is not None:
            self._inference_s.labels(result.camera).observe(latency_ms.inference / 1000)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format, `CONTENT_TYPE`."""
        return prometheus_client.generate_latest(self._registry)


class _Reading(Collector):
    """Metrics that are read at each scrape. A metric that cannot be read is left out."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        self._read = read
        self._failing = False

    def collect(self) -> Iterator[Metric]:
        try:
            families = list(self._read())
        except Exception as error:  # one failed metric must not fail the scrape
            if not self._failing:
                logger.warning("a metric cannot be read: %s: %s", type(error).__name__, error)
            self._failing = True
            return
        self._failing = False
        yield from families


def _family(kind: Kind, name: str, text: str, value: float | Mapping[str, float], label: str | None = None) -> Metric:
    """A metric with one value, or with one value per value of `label`."""
    family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(
        name, text, labels=[label] if label else []
    )
    for label_value, number in value.items() if isinstance(value, Mapping) else [(None, value)]:
        family.add_metric([label_value] if label_value is not None else [], float(number))
    return family


def _agent_metrics(agent: AgentSnapshot) -> Iterator[Metric]:
    stats = agent.stats
    spool, broker, evidence, bundle = stats.spool, stats.broker, stats.evidence, stats.bundle
    dropped = {name: camera.dropped for name, camera in stats.cameras.items()}
    up = {name: camera.up for name, camera in stats.cameras.items()}
    lost = broker.attached_images_given_up
    yield _family("counter", "zsad_frames_dropped_total", "Frames that a newer one replaced.", dropped, "camera")
    yield _family("gauge", "zsad_camera_up", "1 while it delivers pictures that can be judged.", up, "camera")
    yield _family("gauge", "zsad_spool_entries", "Results that wait for the broker.", spool.entries)
    yield _family("gauge", "zsad_spool_bytes", "Size of the spool's file.", spool.bytes)
    yield _family(
        "gauge", "zsad_spool_oldest_age_seconds", "Age of the oldest waiting result.", spool.oldest_age_s or 0
    )
    yield _family("gauge", "zsad_broker_connected", "1 while there is a connection.", agent.connected)
    yield _family("counter", "zsad_broker_connections_total", "Connections made.", broker.connections)
    yield _family("counter", "zsad_results_acknowledged_total", "Results that the broker has.", broker.acknowledged)
    yield _family("counter", "zsad_results_replayed_total", "Results sent as replayed.", broker.replayed)
    yield _family("counter", "zsad_results_given_up_total", "Results lost, by cause.", broker.given_up, "cause")
    yield _family("counter", "zsad_attached_images_given_up_total", "Attached pictures lost, by cause.", lost, "cause")
    text = "Heatmaps and pictures not sent: no connection, a slow network, or too large for the broker."
    yield _family("counter", "zsad_live_images_dropped_total", text, agent.live_images_dropped, "kind")
    if evidence is not None:
        yield _family("counter", "zsad_evidence_kept_total", "Results whose evidence was written.", evidence.kept)
        yield _family("counter", "zsad_evidence_dropped_total", "Results whose evidence is lost.", evidence.dropped)
        yield _family(
            "counter", "zsad_evidence_pruned_total", "Results whose evidence was deleted for a limit.", evidence.pruned
        )
        yield _family("gauge", "zsad_evidence_bytes", "Evidence on disk.", evidence.bytes)
    yield _family("gauge", "zsad_uptime_seconds", "Since the start of the agent.", stats.uptime_s)
    info = GaugeMetricFamily(
        "zsad_build_info",
        "Always 1; the labels say what runs here.",
        labels=["version", "bundle", "bundle_version", "bundle_sha256", "device"],
    )
    info.add_metric([stats.version, bundle.name, bundle.version, bundle.sha256, bundle.device], 1.0)
    yield info


def _process_metrics() -> Iterator[Metric]:
    """Reads only /proc/self: the library's own collector needs /proc/stat, which a hardened service cannot read."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    yield _family("gauge", "process_resident_memory_bytes", "Memory of the process.", memory)
    threads, files = (sum(1 for _ in Path("/proc/self", folder).iterdir()) for folder in ("task", "fd"))
    yield _family("gauge", "process_threads", "Threads of the process.", threads)
    yield _family("gauge", "process_open_fds", "Open file descriptors.", files)
