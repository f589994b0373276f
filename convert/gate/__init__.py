"""What a bundle must pass before it is written: parity with the checkpoint, accuracy, and the checks of `verify`."""

from zsad_convert.gate.checks import add_gate_flags, add_parity_flags, count, measure, passed, refuse, unit
from zsad_convert.gate.gate import Metrics, given_to_graph
from zsad_convert.gate.labelled import Labelled, is_mask, labelled_pictures
from zsad_convert.gate.parity import measure_parity, parity_faults

__all__ = [
    "Labelled",
    "Metrics",
    "add_gate_flags",
    "add_parity_flags",
    "count",
    "given_to_graph",
    "is_mask",
    "labelled_pictures",
    "measure",
    "measure_parity",
    "parity_faults",
    "passed",
    "refuse",
    "unit",
]
