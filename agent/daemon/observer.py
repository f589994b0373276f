"""The counts of the agent's parts at one moment: for metrics, statistics and readiness."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from zsad_agent.config import AgentConfig
from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection import Station
from zsad_agent.messages import AgentSnapshot, BrokerSnapshot, BundleSnapshot, CameraSnapshot, SpoolSnapshot
from zsad_agent.model import ModelInUse
from zsad_agent.mqtt import Publisher


@dataclass(frozen=True, kw_only=True)
class Observer:
    """Reads the counts of the parts. Thread-safe."""

    config: AgentConfig
    stations: Sequence[Station]
    models: ModelInUse
    publisher: Publisher
    evidence: EvidenceStore | None
    agent_version: str = field(default_factory=lambda: version("zsad-agent"))
    started_s: float = field(default_factory=time.monotonic)

    def snapshot(self) -> AgentSnapshot:
        model, stats = self.models.current, self.publisher.stats
        return AgentSnapshot(
            device_id=self.config.device_id,
            version=self.agent_version,
            uptime_s=time.monotonic() - self.started_s,
            bundle=BundleSnapshot(
                name=model.name, version=model.version, sha256=model.sha256, device=self.config.inference.device
            ),
            cameras={
                station.name: CameraSnapshot(
                    up=station.status.up, reason=station.status.reason, dropped=station.dropped
                )
                for station in self.stations
            },
            spool=SpoolSnapshot(entries=stats.unsent, bytes=stats.spool_bytes, oldest_age_s=stats.oldest_age_s),
            broker=BrokerSnapshot(
                connected=self.publisher.connected,
                reason=self.publisher.fault,
                connections=stats.connections,
                acknowledged=stats.acknowledged,
                replayed=stats.replayed,
                given_up=stats.given_up_by_cause,
                attached_images_given_up=stats.evidence_given_up_by_cause,
            ),
            evidence=self.evidence.stats if self.evidence is not None else None,
        )
