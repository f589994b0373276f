"""An OpenVINO model as the files of a bundle."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsad_core.openvino_offline import import_openvino

SMALL = 6000  # numbers; half precision saves little in such a constant, and first layers need its digits
_MOST_HALF = float(np.finfo(np.float16).max)


def serialise(model: Any, precision: Literal["fp32", "fp16"]) -> tuple[bytes, bytes]:
    """(model.xml, model.bin). The device chooses its own arithmetic.

    `fp16` stores weights in half precision, except for small constants and those with a value beyond its range. In
    zsad-tiny the small ones cause most of the error: its map differs by 0.0008 instead of 0.0078, for 150 kB.
    """
    ov = import_openvino()
    if precision == "fp16":
        model = model.clone()
        for constant in model.get_ordered_ops():
            _halve(constant)
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "model.xml"
        ov.save_model(model, xml, compress_to_fp16=False)
        return xml.read_bytes(), xml.with_suffix(".bin").read_bytes()


def _halve(constant: Any) -> None:
    """Replaces a large float32 constant by one of half precision that is converted."""
    from openvino import opset13

    if constant.get_type_name() != "Constant" or constant.get_element_type().get_type_name() != "f32":
        return
    values = constant.data
    if values.size <= SMALL or float(np.abs(values).max()) > _MOST_HALF:
        return
    half = opset13.constant(values.astype(np.float16), name=f"{constant.get_friendly_name()}_half")
    converted = opset13.convert(half, "f32", name=constant.get_friendly_name())
    for user in constant.output(0).get_target_inputs():
        user.replace_source_output(converted.output(0))
