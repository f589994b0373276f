"""What the agent says: results, statistics, topics, counts, and their JSON Schemas.

Sending belongs in `mqtt`. May import `system`.
"""

from zsad_agent.messages.counts import (
    AgentSnapshot,
    BrokerSnapshot,
    BundleSnapshot,
    CameraSnapshot,
    EvidenceStats,
    SpoolSnapshot,
    what_is_missing,
)
from zsad_agent.messages.result import build_result, encode, mark_replayed
from zsad_agent.messages.stats import RecentResults, build_stats
from zsad_agent.messages.topics import OFFLINE, ONLINE, Topics

__all__ = [
    "OFFLINE",
    "ONLINE",
    "AgentSnapshot",
    "BrokerSnapshot",
    "BundleSnapshot",
    "CameraSnapshot",
    "EvidenceStats",
    "RecentResults",
    "SpoolSnapshot",
    "Topics",
    "build_result",
    "build_stats",
    "encode",
    "mark_replayed",
    "what_is_missing",
]
