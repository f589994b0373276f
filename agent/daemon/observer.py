"""What the agent counts, gathered from its parts when somebody asks: metrics, statistics, readiness."""

import time
from collections.abc import Sequence
from importlib.metadata import version

from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection import Station
from zsad_agent.messages import AgentSnapshot, BrokerSnapshot, BundleSnapshot, CameraSnapshot, SpoolSnapshot
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
        evidence: EvidenceStore | None,
    ) -> None:
        """Takes the parts; `device` is what the model runs on, in OpenVINO's words."""
        self._device_id = device_id
        self._device = device
        self._stations = stations
        self._models = models
        self._publisher = publisher
        self._evidence = evidence
        self._version = version("zsad-agent")
        self._started_s = time.monotonic()

    def snapshot(self) -> AgentSnapshot:
        bundle, stats = self._models.current.bundle, self._publisher.stats
        return AgentSnapshot(
            device_id=self._device_id,
            version=self._version,
            uptime_s=time.monotonic() - self._started_s,
            bundle=BundleSnapshot(
                name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.sha256, device=self._device
            ),
            cameras={
                station.name: CameraSnapshot(
                    up=station.status.up, reason=station.status.reason, dropped=station.dropped
                )
                for station in self._stations
            },
            spool=SpoolSnapshot(entries=stats.unsent, bytes=stats.spool_bytes, oldest_age_s=stats.oldest_age_s),
            broker=BrokerSnapshot(
                connected=self._publisher.connected,
                reason=self._publisher.fault,
                connections=stats.connections,
                acknowledged=stats.acknowledged,
                replayed=stats.replayed,
                given_up=stats.given_up_by_cause,
                attached_images_given_up=stats.evidence_given_up_by_cause,
            ),
            evidence=self._evidence.stats if self._evidence is not None else None,
        )
