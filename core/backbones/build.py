"""The one way to a backbone by its timm name: a ViT's tokens, or a CNN's pyramid."""

from pathlib import Path

from zsad_core.backbones.pyramid import PyramidBackbone
from zsad_core.backbones.token_insertion import resize_positions
from zsad_core.backbones.vit import Backbone, BackboneConfig, import_timm

AnyBackbone = Backbone | PyramidBackbone

CNN_FAMILIES = ("resnet", "efficientnet", "mobilenetv3")  # modules of timm


def build_backbone(
    config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False, any_size: bool = True
) -> AnyBackbone:
    """The backbone that `config.name` names, a `PyramidBackbone` for CNNs. Arguments and errors: see `Backbone`."""
    if import_timm().models.is_model_in_modules(config.name.split(".")[0], CNN_FAMILIES):
        return PyramidBackbone(config, weights=weights, pretrained=pretrained)
    return Backbone(config, weights=weights, pretrained=pretrained, any_size=any_size)


def take_size(backbone: AnyBackbone, input_hw: tuple[int, int]) -> None:
    """Resamples a ViT's positions for good to those of another input size, pixels, in the way that its config says."""
    if not isinstance(backbone, Backbone) or backbone.config.input_hw == input_hw:
        return
    if backbone.config.bilinear_positions:
        resize_positions(backbone.vit, input_hw)
    else:
        backbone.vit.set_input_size(img_size=input_hw)
