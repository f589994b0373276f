"""Camera processes and streams for several test files."""

import psutil
from mjpeg_server import MjpegServer

from zsad_agent.sources import GrabberSource, StreamSource

PATIENT_S = 60.0  # long enough for a busy machine


def stream(server: MjpegServer, stale_after_s: float = PATIENT_S) -> GrabberSource:
    return GrabberSource(StreamSource(server.url, timeout_s=stale_after_s), stale_after_s=stale_after_s)


def children(recursive: bool = False) -> list[psutil.Process]:
    """Camera processes of this one, and with `recursive` of an agent that it started."""
    found = psutil.Process().children(recursive)
    return [child for child in found if "zsad_agent.sources.camera_worker" in child.cmdline()]
