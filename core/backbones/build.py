"""Builds a backbone from its timm name: a ViT, or the pyramid of a CNN."""

from pathlib import Path

from zsad_core.backbones.pyramid import PyramidBackbone
from zsad_core.backbones.token_insertion import resize_positions
from zsad_core.backbones.vit import Backbone, BackboneConfig, import_timm

AnyBackbone = Backbone | PyramidBackbone

CNN_FAMILIES = ("resnet", "efficientnet", "mobilenetv3")  # modules of timm


def build_backbone(
    config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False, any_size: bool = True
) -> AnyBackbone:
    """The backbone `config.name`; for CNNs a `PyramidBackbone`. Arguments and errors: see `Backbone`."""
    if import_timm().models.is_model_in_modules(config.name.split(".")[0], CNN_FAMILIES):
        return PyramidBackbone(config, weights=weights, pretrained=pretrained)
    return Backbone(config, weights=weights, pretrained=pretrained, any_size=any_size)


def take_size(backbone: AnyBackbone, input_hw: tuple[int, int]) -> None:
    """Permanently resamples a ViT's positions to another input size, pixels, as its config says. No effect on CNNs."""
    if not isinstance(backbone, Backbone) or backbone.config.input_hw == input_hw:
        return
    if backbone.config.bilinear_positions:
        resize_positions(backbone.vit, input_hw)
    else:
        backbone.vit.set_input_size(img_size=input_hw)
