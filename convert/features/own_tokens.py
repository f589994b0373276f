"""Adds the output `tokens` to a bundle's own model, whose CNN runs only once then."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from zsad_convert.bundle import serialise
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import import_openvino, openvino_core

_PROJECTION = re.compile(r"\bbackbone\.projections\.(\d+)/")


def with_tokens(ir: tuple[bytes, bytes], levels: Sequence[int], grid_hw: tuple[int, int]) -> tuple[bytes, bytes]:
    """(model.xml, model.bin) of a `PyramidBackbone`'s detector, with an output as that of a `TokenNetwork`.

    Args:
        ir: the detector's.
        levels: places of the wanted levels among the taps of its backbone.
        grid_hw: of the tokens; no level has more cells than this.

    Raises:
        BundleError: the graph has no projections of these levels.
    """
    model = openvino_core().read_model(model=ir[0], weights=ir[1])
    found: dict[int, Any] = {}
    for node in model.get_ordered_ops():
        named = _PROJECTION.search(node.get_friendly_name())
        if named and node.get_type_name() == "Convolution":
            found[int(named[1])] = _before_resizing(node.input_value(0))
    if not set(levels) <= found.keys():
        raise BundleError(f"model.xml: has no levels {list(levels)} of a CNN: found {sorted(found)}")
    result = _unit_vectors([_on_grid(found[level], grid_hw) for level in levels])
    result.get_output_tensor(0).set_names({"tokens"})
    model.add_outputs([result.output(0)])
    return serialise(model, "fp32")  # the constants stay as they are


def _before_resizing(value: Any) -> Any:
    """The level of the CNN that was brought to the detector's grid."""
    node = value.get_node()
    return node.input_value(0) if node.get_type_name() in ("AvgPool", "Interpolate") else value


def _on_grid(level: Any, grid_hw: tuple[int, int]) -> Any:
    """[1, C, h, w] -> [1, C, *grid_hw], as `PyramidBackbone.levels_on_grid` does with coarser levels."""
    height, width = list(level.get_shape())[2:]
    if (height, width) == grid_hw:
        return level
    if height > grid_hw[0] or width > grid_hw[1]:
        raise BundleError(f"model.xml: a level has {height} x {width} cells, more than {grid_hw}")
    axes = np.array([2, 3])
    return import_openvino().opset13.interpolate(level, np.array(grid_hw), "linear_onnx", "sizes", axes=axes)


def _unit_vectors(levels: Sequence[Any]) -> Any:
    """[1, C, h, w] of each level -> [1, h * w, all C]."""
    ops = import_openvino().opset13
    units = []
    for level in levels:
        flat = ops.reshape(level, np.array([0, 0, -1]), special_zero=True)
        units.append(ops.normalize_l2(ops.transpose(flat, np.array([0, 2, 1])), np.array([2]), 1e-24, "max"))
    return ops.normalize_l2(ops.concat(units, 2), np.array([2]), 1e-24, "max")
