"""A timm ViT that gives class and patch tokens from several depths."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from zsad_core.backbones.token_insertion import resize_positions
from zsad_core.backbones.torchvision_ops import ensure_torchvision_imports
from zsad_core.config import StrictModel
from zsad_core.errors import WeightsError
from zsad_core.weights import load_weights

Side = Annotated[int, Field(ge=16, le=8192)]


def usual_input_hw(name: str) -> tuple[int, int]:
    """The published methods' input size for this backbone: DINOv3 512 px, patches of 14 px 518 px; others 384 px."""
    side = 512 if "dinov3" in name else 518 if "patch14" in name else 384
    return side, side


class BackboneConfig(StrictModel):
    name: str = "vit_tiny_patch16_224"  # timm model name
    # Pixels, multiples of the patch size.
    input_hw: tuple[Side, Side] = Field(default_factory=lambda known: usual_input_hw(known["name"]))
    taps: tuple[Annotated[int, Field(ge=1)], ...] | None = None  # 1-based blocks; None: four, evenly spaced
    width: Annotated[int, Field(ge=8)] | None = None  # D of a CNN's tokens; None: width of its widest tap. Not for ViTs
    bilinear_positions: bool = False  # resize absolute positions bilinearly, as in VisualAD; timm uses bicubic


class Backbone(nn.Module):
    """Frozen or trainable ViT. `forward` gives the tokens of each tapped block after the backbone's final norm."""

    def __init__(
        self, config: BackboneConfig, *, weights: Path | None = None, pretrained: bool = False, any_size: bool = True
    ) -> None:
        """Builds the timm model with random weights, those of a local file, or (`pretrained`) those of the hub.

        With `any_size` it accepts images of any size and resamples its position embeddings in each pass. Without, it
        accepts only `config.input_hw`, so an exported graph has no resampling. Both have the same state dict.

        Raises:
            WeightsError: timm has no such ViT, or the weights are missing or do not fit.
            ValueError: taps or input size do not fit the model.
        """
        super().__init__()
        if config.width is not None:
            raise ValueError(f"width {config.width}: the width of {config.name}'s tokens is fixed; leave width out")
        self.config = config
        resizes = config.bilinear_positions and any_size  # with a fixed size, the loaded state is already resized
        self.vit = _create(config, any_size=any_size, native_size=resizes)
        depth = len(self.vit.blocks)
        self.taps = check_taps(config.taps or evenly_spaced_taps(depth), depth)
        self.patch_hw: tuple[int, int] = tuple(self.vit.patch_embed.patch_size)
        check_input(config.input_hw, self.patch_hw)
        # file name, hub repository, or `random`
        self.weights_source = load_weights(self.vit, config.name, weights=weights, pretrained=pretrained)
        if resizes:
            resize_positions(self.vit, config.input_hw)
        self.embed_dim: int = self.vit.embed_dim
        self.mean: tuple[float, ...] = tuple(self.vit.pretrained_cfg["mean"])
        self.std: tuple[float, ...] = tuple(self.vit.pretrained_cfg["std"])

    def grid_hw(self, input_hw: tuple[int, int]) -> tuple[int, int]:
        """The patch grid (h, w) for an input of `input_hw` pixels."""
        return input_hw[0] // self.patch_hw[0], input_hw[1] // self.patch_hw[1]

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Tokens of each tap: L class tokens [B, D] and L tensors of patch tokens [B, N, D].

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
        """Freezes all parameters except the last `count` blocks and the final norm; returns the trainable ones.

        If `count` is the depth, all parameters train, also the patch embedding. 0 freezes all, also the norm.
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


def check_taps(taps: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """The taps; ValueError if they do not increase or a block does not exist."""
    if list(taps) != sorted(set(taps)) or not 1 <= taps[0] <= taps[-1] <= depth:
        raise ValueError(f"taps {taps}: expected increasing block numbers from 1 to {depth}")
    return taps


def check_input(input_hw: tuple[int, int], patch_hw: tuple[int, int]) -> None:
    """Raises ValueError if a side is not a multiple of the patch size; the text names the nearest valid sizes."""
    if any(side % patch for side, patch in zip(input_hw, patch_hw, strict=True)):
        below = tuple(max(1, side // patch) * patch for side, patch in zip(input_hw, patch_hw, strict=True))
        above = tuple(-(-side // patch) * patch for side, patch in zip(input_hw, patch_hw, strict=True))
        raise ValueError(f"input {input_hw}: not a multiple of the patch size {patch_hw}; nearest: {below} and {above}")


def standardise_patches(patch_tokens: Tensor, eps: float = 1e-6) -> Tensor:
    """[B, N, D] -> [B, N, D]: each channel of each image has zero mean and unit (unbiased) deviation over its patches.

    Both DINOv3 methods do this before their adapters.
    """
    mean = patch_tokens.mean(dim=1, keepdim=True)
    return (patch_tokens - mean) / (patch_tokens.std(dim=1, keepdim=True) + eps)


def import_timm() -> Any:
    """The timm package, imported late: the import takes seconds, and a check of a config does not need it."""
    ensure_torchvision_imports()
    import timm

    return timm


def _create(config: BackboneConfig, *, any_size: bool, native_size: bool) -> Any:
    timm = import_timm()
    if not timm.is_model(config.name.split(".")[0]):
        raise WeightsError(f"timm {timm.__version__} has no model {config.name!r}. See timm.list_models('vit*').")
    options: dict[str, Any] = {"dynamic_img_size": any_size, "num_classes": 0}
    if not native_size:
        options["img_size"] = config.input_hw
    try:
        vit = timm.create_model(config.name, pretrained=False, **options)
    except TypeError as error:
        raise WeightsError(f"{config.name}: not a plain ViT that accepts any input size: {error}") from error
    except RuntimeError as error:  # the model has no weights of this tag
        raise WeightsError(f"{config.name}: {error}. See timm.list_pretrained('vit*').") from error
    if not hasattr(vit, "forward_intermediates") or not getattr(vit, "num_prefix_tokens", 0):
        raise WeightsError(f"{config.name}: has no class token or no intermediate tokens; choose another ViT")
    return vit


@contextmanager
def plain_attention(enabled: bool) -> Iterator[None]:
    """A context in which models are built without fused attention.

    On a CPU torch's fused attention has a slow backward pass (measured with ViT-Ti at 384 px in bf16: 1.0 s per batch
    of 8, plain attention 0.53 s). In a traced graph, OpenVINO recognises plain attention and fuses it itself.
    """
    timm = import_timm()
    before = timm.layers.use_fused_attn()
    timm.layers.set_fused_attn(not enabled)
    try:
        yield
    finally:
        timm.layers.set_fused_attn(bool(before))
