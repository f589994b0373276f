"""OpenVINO without its telemetry. The one way in which this code imports it."""

import functools
import sys
from types import ModuleType
from typing import Any


def import_openvino() -> ModuleType:
    """The `openvino` module, imported so that it never goes online.

    A plain `import openvino` sends an event to an analytics host, from a thread of its own, and writes an identifier
    into the user's home. It does so through the separate package `openvino_telemetry`, and carries a stub for when
    that is not installed; here it always finds the stub. Has no effect on an OpenVINO imported before.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it now fails
    import openvino

    return openvino


@functools.cache
def openvino_core() -> Any:
    """The one `openvino.Core` of the process, which lives as long as it does.

    On a CPU with wide registers the CPU plugin gives the thread that loads it a stack for signals, and frees that when
    the last Core goes, in whatever thread that is. A signal to the first thread, such as SIGTERM, then ends the process
    with SIGSEGV (seen with OpenVINO 2026.4).
    """
    return import_openvino().Core()
