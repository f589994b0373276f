"""The objects that the classes of one camera's capture share."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from zsad_agent.capture.camera_status import CameraStatus
from zsad_agent.capture.output import FrameOutput
from zsad_agent.capture.pace import Pace
from zsad_agent.capture.triggers import Triggers
from zsad_agent.config import SourceConfig
from zsad_agent.sources import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    source: Source
    config: SourceConfig
    out: FrameOutput
    triggers: Triggers
    pace: Pace
    status: CameraStatus
    stop: threading.Event
    clock: Callable[[], float]  # monotonic seconds
