"""OpenVINO without its telemetry. The one way in which this code imports it."""

import sys
from types import ModuleType


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
