"""The settings of a run: their models, and loading from recipes and flags.

Imports no other room of training.
"""

from zsad_training.config.load import (
    FLAG_KEYS,
    add_setting_flags,
    parser,
    preset_file,
    presets,
    read_config,
    read_configs,
    read_settings,
)
from zsad_training.config.specs import (
    Count,
    DatasetSpec,
    Fraction,
    ModelSpec,
    OptimisationSpec,
    Positive,
    SamplingSpec,
    TextureSpec,
    TrainConfig,
    ValidationSpec,
)

__all__ = [
    "FLAG_KEYS",
    "Count",
    "DatasetSpec",
    "Fraction",
    "ModelSpec",
    "OptimisationSpec",
    "Positive",
    "SamplingSpec",
    "TextureSpec",
    "TrainConfig",
    "ValidationSpec",
    "add_setting_flags",
    "parser",
    "preset_file",
    "presets",
    "read_config",
    "read_configs",
    "read_settings",
]
