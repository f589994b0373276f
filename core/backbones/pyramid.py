"""A timm CNN that gives class and patch tokens, one tap per level of its pyramid: the backbone of a small student."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from zsad_core.backbones.vit import BackboneConfig, check_input, check_taps, import_timm
from zsad_core.errors import WeightsError
from zsad_core.weights import load_weights

GRID_STRIDE = 16  # input pixels per token, as in a ViT with 16 x 16 patches


class PyramidBackbone(nn.Module):
    """Has the attributes of a `Backbone`, and gives tokens of the same shapes.

    Taps are levels of the pyramid, from 1 (stride 2) to 5 (stride 32); by default the last four. All levels are resized
    to one grid: finer levels by averaging the area of a token, coarser levels bilinearly. A 1 x 1 convolution with
    orthonormal initial columns brings them to one width, by default that of the widest tap. A width that is at least
    the tap's keeps lengths and angles, so a frozen network loses no information. The cost of adapters grows with about
    the square of the width; use a small width only for a network that is trained. The class token is the mean over the
    grid.
    """

    def __init__(self, config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False) -> None:
        """Builds the timm model with random weights, those of a local file, or (`pretrained`) those of the hub.

        Raises:
            WeightsError: the weights are missing or do not fit, or timm has no intermediate features for this model.
            ValueError: taps or input size do not fit the model.
        """
        super().__init__()
        self.config = config
        self.cnn = import_timm().create_model(config.name, pretrained=False, num_classes=0)
        if not hasattr(self.cnn, "prune_intermediate_layers"):
            raise WeightsError(f"{config.name}: timm has no intermediate features for it; choose another CNN")
        levels: list[dict[str, Any]] = self.cnn.feature_info
        self.taps = check_taps(config.taps or tuple(range(max(1, len(levels) - 3), len(levels) + 1)), len(levels))
        self.patch_hw = (GRID_STRIDE, GRID_STRIDE)
        check_input(config.input_hw, self.patch_hw)
        self.weights_source = load_weights(self.cnn, config.name, weights=weights, pretrained=pretrained)
        self._levels = [tap - 1 for tap in self.taps]
        self.cnn.prune_intermediate_layers(self._levels, prune_norm=True, prune_head=True)
        widths = [levels[level]["num_chs"] for level in self._levels]
        self.embed_dim: int = config.width or max(widths)
        self.projections = nn.ModuleList(_orthonormal(width, self.embed_dim) for width in widths)
        self.mean: tuple[float, ...] = tuple(self.cnn.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.cnn.pretrained_cfg["std"])

    def grid_hw(self, input_hw: tuple[int, int]) -> tuple[int, int]:
        """The token grid (h, w) for an input of `input_hw` pixels."""
        return input_hw[0] // GRID_STRIDE, input_hw[1] // GRID_STRIDE

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of each tap: L class tokens [B, D] and L tensors of patch tokens [B, N, D].

        Args:
            images: [B, 3, H, W], normalised; H, W multiples of 16.
        """
        patch_tokens = [
            projection(features).flatten(2).transpose(1, 2)  # [B, N, D]
            for projection, features in zip(self.projections, self.levels_on_grid(images), strict=True)
        ]
        return [patches.mean(dim=1) for patches in patch_tokens], patch_tokens

    def levels_on_grid(self, images: Tensor, stride: int = GRID_STRIDE) -> list[Tensor]:
        """The tapped levels before the projections, each [B, C, h, w] with a width of its own.

        Args:
            images: as of `forward`.
            stride: input pixels of a cell.
        """
        grid_hw = int(images.shape[2]) // stride, int(images.shape[3]) // stride
        levels = self.cnn.forward_intermediates(images, indices=self._levels, intermediates_only=True)
        return [_to_grid(features, grid_hw) for features in levels]

    def trainable_blocks(self, count: int) -> list[nn.Parameter]:
        """Freezes all parameters (count 0) or none (count = number of taps); returns the trainable ones."""
        if count not in (0, len(self.taps)):
            raise ValueError(f"{count} trainable blocks: a CNN trains all, {len(self.taps)}, or none, 0")
        self.requires_grad_(count > 0)
        return list(self.parameters()) if count else []

    def train(self, mode: bool = True) -> "PyramidBackbone":
        """A frozen network stays in evaluation mode, so its normalisation statistics do not change."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))


def _orthonormal(channels: int, embed_dim: int) -> nn.Conv2d:
    projection = nn.Conv2d(channels, embed_dim, 1, bias=False)
    nn.init.orthogonal_(projection.weight)
    return projection


def _to_grid(features: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """[B, C, H', W'] -> [B, C, h, w]; H' and W' are multiples of h and w, or not larger than h and w."""
    size_hw = (int(features.shape[2]), int(features.shape[3]))
    if size_hw == grid_hw:
        return features
    if size_hw[0] >= grid_hw[0] and size_hw[1] >= grid_hw[1]:
        return functional.avg_pool2d(features, (size_hw[0] // grid_hw[0], size_hw[1] // grid_hw[1]))
    return functional.interpolate(features, grid_hw, mode="bilinear", align_corners=False)
