"""The frozen networks that turn a picture into tokens. Needs torch.

May import `weights` and below.
"""

from zsad_core.backbones.build import AnyBackbone, build_backbone, take_size
from zsad_core.backbones.pyramid import PyramidBackbone
from zsad_core.backbones.token_insertion import class_position, tapped_tokens
from zsad_core.backbones.torchvision_ops import ensure_torchvision_imports
from zsad_core.backbones.vit import (
    Backbone,
    BackboneConfig,
    Side,
    check_input,
    plain_attention,
    standardise_patches,
    usual_input_hw,
)

__all__ = [
    "AnyBackbone",
    "Backbone",
    "BackboneConfig",
    "PyramidBackbone",
    "Side",
    "build_backbone",
    "check_input",
    "class_position",
    "ensure_torchvision_imports",
    "plain_attention",
    "standardise_patches",
    "take_size",
    "tapped_tokens",
    "usual_input_hw",
]
