"""The composition root: builds the agent from its config, starts it, watches over it and stops it.

No work on pictures, results or messages belongs here. May import every room but `cli`.
"""

from zsad_agent.daemon.daemon import Surroundings, run_agent
from zsad_agent.daemon.shutdown import StopRequest

__all__ = [
    "StopRequest",
    "Surroundings",
    "run_agent",
]
