"""An OpenVINO model as the files of a bundle."""

import tempfile
from pathlib import Path
from typing import Any, Literal

from zsad_core.openvino_offline import import_openvino


def serialise(model: Any, precision: Literal["fp32", "fp16"]) -> tuple[bytes, bytes]:
    """(model.xml, model.bin). `fp16` stores weights in half precision; the device chooses its own arithmetic."""
    ov = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "model.xml"
        ov.save_model(model, xml, compress_to_fp16=precision == "fp16")
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()
