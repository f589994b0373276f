"""Results on disk until the broker has them: one SQLite file, its repair, and the limits of what waits.

Sending belongs in `mqtt`. May import `system`.
"""

from zsad_agent.spool.clock import SpoolClock, Stamp
from zsad_agent.spool.database import SpoolFile
from zsad_agent.spool.given_up import Cause
from zsad_agent.spool.outbox import Accepted, Outbox
from zsad_agent.spool.rows import Entry, Picture, State
from zsad_agent.spool.spool import Spool

__all__ = [
    "Accepted",
    "Cause",
    "Entry",
    "Outbox",
    "Picture",
    "Spool",
    "SpoolClock",
    "SpoolFile",
    "Stamp",
    "State",
]
