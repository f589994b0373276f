"""The counts of the agent at one moment, the source of metrics, statistics and readiness."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceStats:
    """Numbers of stored results since the start; `bytes` is the present size."""

    kept: int
    dropped: int  # left out: the disk was too slow, full or broken
    pruned: int  # deleted for a limit
    bytes: int  # on disk now


@dataclass(frozen=True, kw_only=True, slots=True)
class CameraSnapshot:
    up: bool  # it delivers pictures that can be judged
    reason: str | None  # why not
    dropped: int  # frames that a newer one replaced before the model was free


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolSnapshot:
    entries: int  # results that wait for the broker
    bytes: int  # of the file
    oldest_age_s: float | None  # None: nothing waits


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokerSnapshot:
    connected: bool
    reason: str | None  # why not
    connections: int  # these and the following: counts since the start
    acknowledged: int
    replayed: int
    given_up: Mapping[str, int]  # results by cause
    attached_images_given_up: Mapping[str, int]  # pictures that were to follow their results (`spool.pictures`)


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleSnapshot:
    name: str
    version: str
    sha256: str
    device: str  # what it runs on, in OpenVINO's words


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentSnapshot:
    device_id: str
    version: str  # the agent's
    uptime_s: float
    bundle: BundleSnapshot | None  # None: the model is not loaded
    cameras: Mapping[str, CameraSnapshot]
    spool: SpoolSnapshot
    broker: BrokerSnapshot
    evidence: EvidenceStats | None  # None: evidence.enabled is false


def what_is_missing(snapshot: AgentSnapshot) -> list[str]:
    """Why the agent is not ready: every reason in words; none when it is."""
    missing = [] if snapshot.bundle is not None else ["the model is not loaded"]
    missing += [
        f"camera {name}: {camera.reason or 'no pictures'}" for name, camera in snapshot.cameras.items() if not camera.up
    ]
    if not snapshot.broker.connected:
        missing.append(f"broker: {snapshot.broker.reason or 'not connected'}")
    elif snapshot.broker.reason:
        missing.append(f"broker: {snapshot.broker.reason}")
    return missing
