"""What the agent counts, gathered from its parts when somebody asks: metrics, statistics, readiness."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection import Station
from zsad_agent.messages import AgentSnapshot, BundleStats, CameraStats, RecentResults, Stats
from zsad_agent.model import ModelInUse
from zsad_agent.mqtt import Publisher


class Observer:
    """Reads, and changes nothing. Any thread may ask."""

    def __init__(
        self,
        *,
        device_id: str,
        device: str,
        stations: Sequence[Station],
        models: ModelInUse,
        publisher: Publisher,
        recent: RecentResults,
        evidence: EvidenceStore | None,
    ) -> None:
        """Takes the parts; `device` is what the model runs on, in OpenVINO's words."""
        self._device_id = device_id
        self._device = device
        self._stations = stations
        self._models = models
        self._publisher = publisher
        self._recent = recent
        self._evidence = evidence
        self._version = version("zsad-agent")
        self._started_s = time.monotonic()

    def snapshot(self) -> AgentSnapshot:
        model, publisher = self._models.current, self._publisher
        stats = Stats(
            device_id=self._device_id,
            at=datetime.now(UTC),
            uptime_s=round(time.monotonic() - self._started_s, 1),
            version=self._version,
            bundle=BundleStats(name=model.name, version=model.version, sha256=model.sha256, device=self._device),
            cameras={station.name: self._camera(station) for station in self._stations},
            spool=publisher.spool_stats,
            broker=publisher.stats,
            evidence=self._evidence.stats if self._evidence is not None else None,
        )
        return AgentSnapshot(
            stats=stats,
            connected=publisher.connected,
            broker_fault=publisher.fault,
            live_images_dropped=publisher.live_images_dropped,
        )

    def _camera(self, station: Station) -> CameraStats:
        up = station.status.up
        return CameraStats(
            up=up,
            reason=None if up else station.status.reason,
            results=self._recent.counts(station.name),
            dropped=station.dropped,
            latency_ms=self._recent.latency_ms(station.name),
        )
