"""Imports OpenVINO without telemetry and model converter. All code here imports OpenVINO through this module."""

import functools
import sys
from types import ModuleType
from typing import Any


def import_openvino() -> ModuleType:
    """The `openvino` module, imported without network access, and without `convert_model`.

    A plain `import openvino` starts a thread that sends an event to an analytics host, and writes an identifier into
    the user's home folder. The separate package `openvino_telemetry` does this. OpenVINO has a stub for the case that
    the package is not installed. This function makes OpenVINO use the stub. It has no effect if OpenVINO was imported
    before.

    The model converter, which only `zsad-convert` uses, takes 9 MB and half of the import's time. OpenVINO does without
    it if its import fails. A later `from openvino.tools.ovc import convert_model` succeeds.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it now fails
        sys.modules["openvino.tools"] = None  # type: ignore[assignment]
        import openvino

        del sys.modules["openvino.tools"]
    import openvino

    return openvino


@functools.cache
def openvino_core() -> Any:
    """The only `openvino.Core` of the process. It is kept until the process ends.

    On a CPU with wide registers the CPU plugin gives the thread that loads it a signal stack. It frees this stack when
    the last Core is deleted, in any thread. After that, a signal to the first thread, such as SIGTERM, ends the process
    with SIGSEGV (seen with OpenVINO 2026.4).
    """
    return import_openvino().Core()
