"""Adds the output `tokens` to a bundle's own model, whose CNN runs only once then."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from zsad_convert.bundle import serialise
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import import_openvino, openvino_core

_PROJECTION = re.compile(r"\bbackbone\.projections\.(\d+)/")


def with_tokens(ir: tuple[bytes, bytes], grid_hw: tuple[int, int]) -> tuple[bytes, bytes]:
    """(model.xml, model.bin) of a `PyramidBackbone`'s detector, with an output as that of a `TokenNetwork`.

    Raises:
        BundleError: the graph has no projections of levels on this grid.
    """
    model = openvino_core().read_model(model=ir[0], weights=ir[1])
    levels: dict[int, Any] = {}
    for node in model.get_ordered_ops():
        named = _PROJECTION.search(node.get_friendly_name())
        if named and node.get_type_name() == "Convolution" and list(node.input(0).get_shape())[2:] == list(grid_hw):
            levels[int(named[1])] = node.input_value(0)
    if not levels or sorted(levels) != list(range(len(levels))):
        raise BundleError(f"model.xml: has no levels of a CNN on a grid of {grid_hw}: found {sorted(levels)}")
    result = _unit_vectors([levels[index] for index in sorted(levels)])
    result.get_output_tensor(0).set_names({"tokens"})
    model.add_outputs([result.output(0)])
    return serialise(model, "fp32")  # the constants stay as they are, in half precision


def _unit_vectors(levels: Sequence[Any]) -> Any:
    """[1, C, h, w] of each level -> [1, h * w, all C]."""
    ops = import_openvino().opset13
    units = []
    for level in levels:
        flat = ops.reshape(level, np.array([0, 0, -1]), special_zero=True)
        units.append(ops.normalize_l2(ops.transpose(flat, np.array([0, 2, 1])), np.array([2]), 1e-24, "max"))
    return ops.normalize_l2(ops.concat(units, 2), np.array([2]), 1e-24, "max")
