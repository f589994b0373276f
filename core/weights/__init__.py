"""Weight files: reading, checking, where they come from, their licences. Needs torch but for `licences`.

May import `bundle` and the top of core.
"""

from zsad_core.weights.file import OPENAI_CONSTANTS, check_state, read_state_dict
from zsad_core.weights.hub import fetch
from zsad_core.weights.licences import RANDOM, backbone_licence, text_licence
from zsad_core.weights.load import load_weights

__all__ = [
    "OPENAI_CONSTANTS",
    "RANDOM",
    "backbone_licence",
    "check_state",
    "fetch",
    "load_weights",
    "read_state_dict",
    "text_licence",
]
