"""Passes learnable tokens through a timm ViT together with its own tokens, without changes to the model (VisualAD).

timm's `forward_intermediates` accepts no extra tokens. This module repeats its loop over the blocks, with K tokens
before the class token. It supports timm's `VisionTransformer` (AugReg, DINOv2, CLIP) and `Eva` (DINOv3).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zsad_core.errors import WeightsError

KNOWN_CLASSES = ("VisionTransformer", "Eva")  # subclasses have other tokens or positions


def tapped_tokens(vit: Any, images: Tensor, taps: Sequence[int], inserted: Tensor) -> list[Tensor]:
    """All tokens after each tapped block, with the model's final norm applied.

    Gradients reach `inserted` also through frozen blocks. Patch positions are resized bilinearly to the input's grid,
    as published; timm itself resizes them bicubically.

    Args:
        vit: timm `VisionTransformer` or `Eva` with a class token.
        images: [B, 3, H, W], normalised.
        taps: 1-based block numbers, increasing.
        inserted: [K, D], with positions added; K may be 0.

    Returns:
        For each tap [B, K + P + N, D]: inserted tokens, the model's P prefix tokens (class, registers), N patches.

    Raises:
        WeightsError: tokens cannot be inserted into this model.
    """
    check_insertable(vit)
    tokens, grid_hw = _embed(vit, images)  # [B, P + N, D]
    tokens = torch.cat([inserted.unsqueeze(0).expand(tokens.shape[0], -1, -1), tokens], dim=1)
    tokens = vit.norm_pre(vit.pos_drop(tokens))
    rotations = _rotations(vit, grid_hw, len(inserted))
    tapped = []
    for index, block in enumerate(vit.blocks[: taps[-1]]):
        if rotations is not None:
            block = partial(block, rope=rotations[index] if vit.rope_mixed else rotations)
        if vit.grad_checkpointing:
            block = partial(checkpoint, block, use_reentrant=False)
        tokens = block(tokens)
        if index + 1 in taps:
            tapped.append(vit.norm(tokens))
    return tapped


def class_position(vit: Any) -> Tensor:
    """The class token's position embedding [D], the initial one of inserted tokens; zeros if it has none.

    It has none in models with rotary positions (DINOv3), and in models that add positions only to patches (DINOv2 with
    registers, where timm has already added the class position to the class token).
    """
    if vit.pos_embed is None or vit.no_embed_class:
        return torch.zeros(vit.embed_dim)
    return vit.pos_embed[0, 0].detach().clone()


def resize_positions(vit: Any, input_hw: tuple[int, int]) -> None:
    """Permanently resizes the position table, bilinearly, and sets the model's input size.

    An exported graph then needs no resizing. `input_hw`: pixels, multiples of the patch size.
    """
    patch_hw = vit.patch_embed.patch_size
    grid_hw = (input_hw[0] // patch_hw[0], input_hw[1] // patch_hw[1])
    table = _position_table(vit, grid_hw)
    trainable = table is not None and vit.pos_embed.requires_grad
    vit.pos_embed = None  # otherwise set_input_size would resize it bicubically
    vit.set_input_size(img_size=input_hw)
    if table is not None:
        vit.pos_embed = nn.Parameter(table.detach().clone(), requires_grad=trainable)


def check_insertable(vit: Any) -> None:
    """Raises WeightsError if tokens cannot be inserted into the model."""
    name = type(vit).__name__
    if name not in KNOWN_CLASSES or vit.cls_token is None:
        raise WeightsError(
            f"a {name}{'' if getattr(vit, 'cls_token', None) is not None else ' without class token'} takes no "
            f"inserted tokens: choose a timm ViT of class {' or '.join(KNOWN_CLASSES)} with a class token"
        )
    if not isinstance(vit.patch_drop, nn.Identity | None):
        raise WeightsError(f"a {name} with patch dropout takes no inserted tokens: build it with patch_drop_rate=0")


def _embed(vit: Any, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Prefix and patch tokens with positions added [B, P + N, D], and the patch grid (h, w)."""
    patches = vit.patch_embed(images)
    grid_hw = vit.patch_embed.grid_size
    if patches.ndim == 4:  # [B, h, w, D] from a model for any input size
        grid_hw = (patches.shape[1], patches.shape[2])
        patches = patches.flatten(1, 2)
    prefix = [token.expand(patches.shape[0], -1, -1) for token in (vit.cls_token, vit.reg_token) if token is not None]
    tokens = torch.cat([*prefix, patches], dim=1)
    table = _position_table(vit, grid_hw)
    if table is None:
        return tokens, grid_hw
    if vit.no_embed_class:
        table = F.pad(table, (0, 0, vit.num_prefix_tokens, 0))
    return tokens + table, grid_hw


def _position_table(vit: Any, grid_hw: tuple[int, int]) -> Tensor | None:
    """Absolute positions [1, P + N, D], or [1, N, D] if prefix tokens have none; None if patches have none."""
    from timm.layers import resample_abs_pos_embed

    if vit.pos_embed is None:
        return None
    return resample_abs_pos_embed(
        vit.pos_embed,
        new_size=grid_hw,
        old_size=vit.patch_embed.grid_size,
        num_prefix_tokens=0 if vit.no_embed_class else vit.num_prefix_tokens,
        interpolation="bilinear",
        antialias=False,
    )


def _rotations(vit: Any, grid_hw: tuple[int, int], inserted: int) -> Tensor | None:
    """Rotary positions [..., inserted + N, 2 * head] as (sine, cosine); None in models without them.

    The attention rotates all tokens except the first P. With tokens inserted before them, it would also rotate the
    model's own prefix tokens. Zero rotations, one per inserted token, prevent this without a change to the model.
    """
    rope = getattr(vit, "rope", None)
    if rope is None:
        return None
    rotations = rope.get_embed(shape=grid_hw)
    sine = rotations.new_zeros(*rotations.shape[:-2], inserted, rotations.shape[-1] // 2)
    return torch.cat([torch.cat([sine, torch.ones_like(sine)], dim=-1), rotations], dim=-2)
