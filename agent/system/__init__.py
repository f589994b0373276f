"""The process and the operating system: logs, crash reports, systemd, memory, environment, queues, one-line text.

Nothing of inspection belongs here. Imports no other room.
"""

from zsad_agent.system.crash_reports import CrashReports
from zsad_agent.system.logs import configure_logging
from zsad_agent.system.process import give_back_memory, keep_memory_small, let_go_of_mapped, prepare_environment
from zsad_agent.system.queues import Handover, NewestSlot, Slot, SlotClosed, Turns
from zsad_agent.system.systemd import Notifier
from zsad_agent.system.text import printable, utc_text

__all__ = [
    "CrashReports",
    "Handover",
    "NewestSlot",
    "Notifier",
    "Slot",
    "SlotClosed",
    "Turns",
    "configure_logging",
    "give_back_memory",
    "keep_memory_small",
    "let_go_of_mapped",
    "prepare_environment",
    "printable",
    "utc_text",
]
