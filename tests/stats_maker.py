"""Statistics of an agent with two cameras, and the snapshot that holds them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from zsad_agent.messages import (
    AgentSnapshot,
    BrokerStats,
    BundleStats,
    CameraStats,
    EvidenceStats,
    RecentResults,
    SpoolStats,
    Stats,
)

AT = datetime(2026, 11, 25, 10, 28, 3, 123_456, tzinfo=UTC)
BROKER = BrokerStats(
    connections=2,
    acknowledged=100,
    replayed=5,
    given_up={"age": 0, "count": 7},
    attached_images_given_up={"disk": 6},
)


def make_stats(
    recent: RecentResults | None = None, reasons: Mapping[str, str | None] | None = None, **changes: Any
) -> Stats:
    """`reasons`: camera -> reason of its fault."""
    recent = recent or RecentResults()
    cameras = {
        name: CameraStats(
            up=reason is None,
            reason=reason,
            results=recent.counts(name),
            dropped=3 if name == "cam0" else 0,
            latency_ms=recent.latency_ms(name),
        )
        for name, reason in (reasons or {"cam0": None, "cam1": "no frame for 5 s"}).items()
    }
    fields: dict[str, Any] = {
        "device_id": "line3",
        "instance": "5a01c2ee",
        "at": AT,
        "uptime_s": 61.5,
        "version": "0.1.0",
        "bundle": BundleStats(name="zsad-tiny", version="1.0.0", sha256="9c" * 32, device="CPU"),
        "cameras": cameras,
        "spool": SpoolStats(entries=4, bytes=8192, oldest_age_s=12.5),
        "broker": BROKER,
        "evidence": EvidenceStats(kept=9, dropped=1, pruned=2, bytes=1000),
        "faults": ("the disk is full",),
        "command_nonce": "5f2c",
    }
    return Stats(**(fields | changes))


AGENT = AgentSnapshot(
    stats=make_stats(),
    connected=True,
    broker_fault=None,
    spool_fault=None,
    model_fault=None,
    service_faults={},
    live_images_dropped={"heatmap": 8, "image": 1},
)
