"""What others can read of the agent's health: Prometheus metrics and the HTTP endpoints.

The counts themselves are in `messages`. May import `messages` and below.
"""

from zsad_agent.monitoring.http_server import HealthServer
from zsad_agent.monitoring.metrics import Metrics

__all__ = [
    "HealthServer",
    "Metrics",
]
