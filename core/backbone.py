"""A timm ViT as a source of class and patch tokens from several depths."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from zsad_core.config import StrictModel
from zsad_core.errors import WeightsError, some
from zsad_core.torchvision_ops import ensure_torchvision_imports

Side = Annotated[int, Field(ge=16, le=8192)]


class BackboneConfig(StrictModel):
    name: str = "vit_tiny_patch16_224"  # timm model name
    input_hw: tuple[Side, Side] = (384, 384)  # pixels, multiples of the patch size
    taps: tuple[Annotated[int, Field(ge=1)], ...] | None = None  # 1-based blocks; None: four, evenly spaced


class Backbone(nn.Module):
    """Frozen or trainable ViT; `forward` gives the tokens of each tapped block after the backbone's final norm."""

    def __init__(
        self, config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False, any_size: bool = True
    ) -> None:
        """Builds the timm model, with random weights, a local file's, or (`pretrained`) the hub's.

        With `any_size` it takes pictures of any size, resampling its position embeddings in each pass; without, only
        of `config.input_hw`, which keeps that out of an exported graph. Both have the same state dict.

        Raises:
            WeightsError: timm knows no such ViT, or the weights are missing or do not fit.
            ValueError: taps or input size do not fit the model.
        """
        super().__init__()
        self.config = config
        self.vit = _create(config, weights=weights, pretrained=pretrained, any_size=any_size)
        depth = len(self.vit.blocks)
        self.taps = config.taps or evenly_spaced_taps(depth)
        if list(self.taps) != sorted(set(self.taps)) or not 1 <= self.taps[0] <= self.taps[-1] <= depth:
            raise ValueError(f"taps {self.taps}: expected increasing block numbers from 1 to {depth}")
        self.patch_hw: tuple[int, int] = tuple(self.vit.patch_embed.patch_size)
        for side, patch in zip(config.input_hw, self.patch_hw, strict=True):
            if side % patch:
                raise ValueError(f"input {config.input_hw} is no multiple of the patch size {self.patch_hw}")
        self.embed_dim: int = self.vit.embed_dim
        self.mean: tuple[float, ...] = tuple(self.vit.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.vit.pretrained_cfg["std"])

    def grid_hw(self, input_hw: tuple[int, int]) -> tuple[int, int]:
        """The patch grid (h, w) of an input of `input_hw` pixels."""
        return input_hw[0] // self.patch_hw[0], input_hw[1] // self.patch_hw[1]

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of each tap: L class tokens [B, D] and L lists of patch tokens [B, N, D].

        Args:
            images: [B, 3, H, W], normalised.
        """
        tapped = self.vit.forward_intermediates(
            images,
            indices=[tap - 1 for tap in self.taps],
            return_prefix_tokens=True,
            norm=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        cls_tokens = [prefix_tokens[:, 0] for _, prefix_tokens in tapped]  # [B, D]; registers are left out
        patch_tokens = [patches for patches, _ in tapped]  # [B, N, D]
        return cls_tokens, patch_tokens

    def trainable_blocks(self, count: int) -> list[nn.Parameter]:
        """Freezes all but the last `count` blocks and the final norm, and gives what stays trainable.

        With `count` equal to the depth everything trains, the patch embedding too. 0 freezes all, the norm too.
        """
        depth = len(self.vit.blocks)
        if not 0 <= count <= depth:
            raise ValueError(f"{count} trainable blocks, the backbone has {depth}")
        self.requires_grad_(count == depth)
        if count:
            for module in [*self.vit.blocks[depth - count :], self.vit.norm]:
                module.requires_grad_(True)
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


def evenly_spaced_taps(depth: int, count: int = 4) -> tuple[int, ...]:
    """1-based block numbers: 3, 6, 9, 12 of 12 blocks; 6, 12, 18, 24 of 24."""
    return tuple(depth * (index + 1) // count for index in range(count))


def standardise_patches(patch_tokens: Tensor, eps: float = 1e-6) -> Tensor:
    """[B, N, D] -> [B, N, D]: each channel of each image to zero mean and unit (unbiased) deviation over its patches.

    As both DINOv3 methods do before their adapters.
    """
    mean = patch_tokens.mean(dim=1, keepdim=True)
    return (patch_tokens - mean) / (patch_tokens.std(dim=1, keepdim=True) + eps)


def import_timm() -> Any:
    """The timm package, imported late: it takes seconds, and checking a config needs none of it."""
    ensure_torchvision_imports()
    import timm

    return timm


def _create(config: BackboneConfig, *, weights: Path | None, pretrained: bool, any_size: bool) -> Any:
    timm = import_timm()
    if not timm.is_model(config.name.split(".")[0]):
        raise WeightsError(f"timm {timm.__version__} has no model {config.name!r}. See timm.list_models('vit*').")
    if weights is not None and not weights.is_file():
        raise WeightsError(f"{weights}: no such weights file for {config.name}")
    options: dict[str, Any] = {"img_size": config.input_hw, "dynamic_img_size": any_size, "num_classes": 0}
    try:
        vit = timm.create_model(config.name, pretrained=pretrained and weights is None, **options)
    except TypeError as error:
        raise WeightsError(f"{config.name}: not a plain ViT that takes any input size: {error}") from error
    except Exception as error:  # timm, safetensors, torch and the hub each raise their own kinds
        raise WeightsError(
            f"{config.name}: weights cannot be fetched from the model hub: {type(error).__name__}: {error}. "
            "Where no hub can be reached, fetch the file elsewhere and name it with --weights."
        ) from error
    if not hasattr(vit, "forward_intermediates") or not getattr(vit, "num_prefix_tokens", 0):
        raise WeightsError(f"{config.name}: has no class token or gives no intermediate tokens; choose a ViT that does")
    if weights is not None:
        _load_weights(timm, vit, config.name, weights)
    return vit


def _load_weights(timm: Any, vit: nn.Module, name: str, weights: Path) -> None:
    """timm's own loading is not strict once the classifier is left out, and would leave a foreign file's ViT random."""
    filter_fn = getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", None)
    try:
        keys = timm.models.load_checkpoint(vit, str(weights), strict=False, filter_fn=filter_fn)
    except Exception as error:  # each file format raises its own kinds
        raise WeightsError(f"{weights}: cannot be loaded into {name}: {type(error).__name__}: {error}") from error
    surplus = [key for key in keys.unexpected_keys if not key.startswith(("head", "fc_norm"))]
    if keys.missing_keys or surplus:
        raise WeightsError(
            f"{weights}: not the weights of {name}: missing: {some(keys.missing_keys)}; surplus: {some(surplus)}"
        )


@contextmanager
def plain_attention(enabled: bool) -> Iterator[None]:
    """Within, models are built without fused attention.

    On a CPU torch's fused attention has a slow backward pass (measured with ViT-Ti at 384 px in bf16: 1.0 s against
    0.53 s a batch of 8); while the graph is traced, plain attention gives OpenVINO patterns that it fuses itself.
    """
    timm = import_timm()
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(not enabled)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(bool(before))
