"""The evidence folder on disk: pictures and overlays of rejects, and the limits that prune them.

Pictures that travel with a result in the spool belong in `spool`. May import `messages`, `config`.
"""

from zsad_agent.evidence.files import EvidenceSet, Place
from zsad_agent.evidence.pruning import Ledger, Pruner
from zsad_agent.evidence.store import EvidenceStore

__all__ = [
    "EvidenceSet",
    "EvidenceStore",
    "Ledger",
    "Place",
    "Pruner",
]
