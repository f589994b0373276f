"""The one way to a backbone by its timm name: a ViT's tokens, or a CNN's pyramid."""

from pathlib import Path

from zsad_core.backbone import Backbone, BackboneConfig, import_timm
from zsad_core.pyramid_backbone import PyramidBackbone

AnyBackbone = Backbone | PyramidBackbone

CNN_FAMILIES = ("resnet", "efficientnet", "mobilenetv3")  # modules of timm


def build_backbone(
    config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False, any_size: bool = True
) -> AnyBackbone:
    """The backbone that `config.name` names, a `PyramidBackbone` for CNNs. Arguments and errors: see `Backbone`."""
    if import_timm().models.is_model_in_modules(config.name.split(".")[0], CNN_FAMILIES):
        return PyramidBackbone(config, weights=weights, pretrained=pretrained)
    return Backbone(config, weights=weights, pretrained=pretrained, any_size=any_size)
