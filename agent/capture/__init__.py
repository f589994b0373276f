"""Takes pictures from a source when they are due or triggered, and says when a camera is lost.

Opening and decoding belong in `sources`. May import `sources`, `picture_health`, `config`, `system`.
"""

from zsad_agent.capture.camera_status import INFERENCE, PROCESS, CameraStatus
from zsad_agent.capture.capture import Capture, Captured, Fault
from zsad_agent.capture.output import Outlet
from zsad_agent.capture.reconnect import Presence
from zsad_agent.capture.trigger_queue import MAX_ID_CHARACTERS
from zsad_agent.capture.triggers import TriggerDesk

__all__ = [
    "INFERENCE",
    "MAX_ID_CHARACTERS",
    "PROCESS",
    "CameraStatus",
    "Capture",
    "Captured",
    "Fault",
    "Outlet",
    "Presence",
    "TriggerDesk",
]
