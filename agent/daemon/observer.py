"""The counts of the whole agent at one moment: for metrics, statistics and readiness."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

from zsad_agent.capture import DRIFT, INFERENCE, MODEL
from zsad_agent.config import AgentConfig
from zsad_agent.control import Nonces
from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection import Station
from zsad_agent.messages import AgentSnapshot, BundleStats, CameraStats, RecentResults, Stats
from zsad_agent.model import ModelInUse
from zsad_agent.mqtt import Publisher
from zsad_agent.system import ServiceGroup

if TYPE_CHECKING:  # imported while the model loads
    from zsad_agent.learning import LineLearner
    from zsad_agent.plant import PlantStations


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Reads the counts of the components. Thread-safe."""

    config: AgentConfig
    stations: Sequence[Station]
    models: ModelInUse
    publisher: Publisher
    recent: RecentResults
    evidence: EvidenceStore | None
    learner: "LineLearner | None"
    services: ServiceGroup
    nonces: Nonces
    plant: "PlantStations | None" = None
    agent_version: str = field(default_factory=lambda: version("zsad-agent"))
    started_s: float = field(default_factory=time.monotonic)

    def snapshot(self) -> AgentSnapshot:
        bundle = self.models.current.bundle
        stats = Stats(
            device_id=self.config.device_id,
            instance=self.publisher.published.instance,
            at=datetime.now(UTC),
            uptime_s=round(time.monotonic() - self.started_s, 1),
            version=self.agent_version,
            bundle=BundleStats(
                name=bundle.manifest.name,
                version=bundle.manifest.version,
                sha256=bundle.sha256,
                device=self.config.inference.device,
            ),
            cameras={station.name: self._camera(station) for station in self.stations},
            spool=self.publisher.spool_stats,
            broker=self.publisher.stats,
            evidence=self.evidence.stats if self.evidence is not None else None,
            faults=tuple(self.services.faults),
            command_nonce=self.nonces.current() if self.config.control.enabled else None,
        )
        return AgentSnapshot(
            stats=stats,
            connected=self.publisher.connected,
            broker_fault=self.publisher.broker_fault,
            spool_fault=self.publisher.spool_fault,
            spool_incident=self.publisher.spool_incident,
            model_fault=next(
                filter(None, (one.status.fault_of(part) for part in (MODEL, INFERENCE) for one in self.stations)), None
            ),
            service_faults=self.services.by_name,
            drifting=[
                station.name
                for station in self.stations
                if (drift := station.status.fault_of(DRIFT)) is not None and station.status.reason == drift
            ],
            silent_s={
                station.name: silent_s
                for station in self.stations
                if (silent_s := station.capture.silent_s) is not None
            },
            live_images_dropped=self.publisher.live_images_dropped,
            plc_silent_s=None if self.plant is None else self.plant.silent_s,
        )

    def _camera(self, station: Station) -> CameraStats:
        up, model, inspector = station.status.up, self.models.current, station.inspector
        product = inspector.product
        frames = inspector.own_threshold(model, product, taught=model.predictor.is_taught(product))[1]
        return CameraStats(
            up=up,
            reason=None if up else station.status.reason,
            results=self.recent.counts(station.name),
            dropped=station.dropped,
            latency_ms=self.recent.latency_ms(station.name),
            provisional_frames=frames if inspector.threshold is None else None,
            drift=self.learner.drift(station.name) if self.learner is not None else None,
        )
