"""The networks that give the tokens of teach-in, from published weights, and their OpenVINO graphs."""

import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.backbones import AnyBackbone, BackboneConfig, PyramidBackbone, build_backbone, plain_attention
from zsad_core.openvino_offline import import_openvino


class TokenNetwork(nn.Module):
    """uint8 BGR [1, H, W, 3] -> unit vectors [1, h * w, C]: the taps side by side, each of unit length before.

    A ViT gives the patch tokens of its taps after the final norm; a CNN the levels of its pyramid, without projections.
    """

    def __init__(
        self, name: str, *, input_hw: tuple[int, int], taps: tuple[int, ...], stride: int, weights: Path
    ) -> None:
        """`stride`: pixels of a cell; those of a ViT are its patches. Errors as of `build_backbone`."""
        super().__init__()
        with plain_attention(True):
            config = BackboneConfig(name=name, input_hw=input_hw, taps=taps)
            self.backbone: AnyBackbone = build_backbone(config, weights=weights, any_size=False)
        self.stride = stride
        self.grid_hw = input_hw[0] // stride, input_hw[1] // stride
        statistics = self.backbone.mean, self.backbone.std  # RGB, of values from 0 to 1
        self.mean, self.std = (torch.tensor(of).view(1, 3, 1, 1) * 255 for of in statistics)
        self.eval()

    def forward(self, image: Tensor) -> Tensor:
        images = (image.flip(3).permute(0, 3, 1, 2).float() - self.mean) / self.std  # RGB [1, 3, H, W]
        if isinstance(self.backbone, PyramidBackbone):
            levels = self.backbone.levels_on_grid(images, self.stride)
            taps = [features.flatten(2).transpose(1, 2) for features in levels]
        else:
            _, taps = self.backbone(images)
        return F.normalize(torch.cat([F.normalize(tokens, dim=2) for tokens in taps], dim=2), dim=2)


def token_graph(network: TokenNetwork) -> Any:
    """The network as a static OpenVINO model: input `image`, output `tokens`."""
    ov = import_openvino()
    from openvino.tools.ovc import convert_model

    height, width = network.backbone.config.input_hw
    image = torch.zeros((1, height, width, 3), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes are meant to be constants here
        model = convert_model(network, example_input=(image,), input=[("image", image.shape, ov.Type.u8)])
    model.output(0).get_tensor().set_names({"tokens"})
    return model
