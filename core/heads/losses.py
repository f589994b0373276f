"""The losses that the methods share, as in their published code, and the target of a batch."""

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from zsad_core.bundle import ANOMALOUS, NORMAL

_SMOOTHING = 1e-5


def focal_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Focal loss (gamma 2) of two-class probabilities [B, 2, H, W] against a mask [B, H, W] of 0 and 1.

    The target is one-hot, clamped to [1e-5, 1 - 1e-5]. The loss is the mean over pixels.
    """
    anomalous = mask.clamp(_SMOOTHING, 1 - _SMOOTHING)
    normal = (1 - mask).clamp(_SMOOTHING, 1 - _SMOOTHING)
    pt = normal * probabilities[:, NORMAL] + anomalous * probabilities[:, ANOMALOUS] + _SMOOTHING
    return (-((1 - pt) ** 2.0) * torch.log(pt)).mean()


def dice_loss(anomalous_probability: Tensor, mask: Tensor) -> Tensor:
    """1 - mean over images of the soft Dice coefficient, smoothed by 1; both [B, H, W]."""
    p, m = anomalous_probability.flatten(1), mask.flatten(1)
    dice = (2 * (p * m).sum(dim=1) + 1) / (p.sum(dim=1) + m.sum(dim=1) + 1)
    return 1 - dice.mean()


def segmentation_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Focal and Dice loss of a two-class map [B, 2, H, W] against a mask [B, H, W].

    Always computed in float32: in fp16 the Dice sum over 512 x 512 pixels is infinite.
    """
    probabilities = probabilities.float()
    return focal_loss(probabilities, mask) + dice_loss(probabilities[:, ANOMALOUS], mask)


LossT = TypeVar("LossT")
# these parts are means over images with pixel truth; all other parts are means over all images
_PIXEL_PARTS = ("awareness", "segmentation", "decoded")


def scaled(loss: LossT, *, pixel: float, image: float) -> LossT:
    """A method's loss, with pixel parts multiplied by `pixel` and all other parts by `image`.

    If a batch is split, the losses of the pieces add up to the loss of the batch when `pixel` is the piece's share of
    the batch's images with pixel truth, and `image` its share of all images.
    """
    parts = {name: part for name, part in vars(loss).items() if part is not None}
    factors = {name: pixel if name in _PIXEL_PARTS else image for name in parts}
    return replace(loss, **{name: factors[name] * part for name, part in parts.items()})  # type: ignore[type-var]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The ground truth of a batch."""

    mask: Tensor  # float32 [B, H, W] of 0 and 1
    is_anomalous: Tensor  # [B] of 0 and 1
    has_pixel_truth: Tensor | None = None  # bool [B]; images without it count only in image losses. None: all have it

    def with_pixel_truth(self, *maps: Tensor) -> list[Tensor]:
        """Each of `maps` [B, ...], then the mask, only for the images with pixel truth."""
        tensors = [*maps, self.mask]
        if self.has_pixel_truth is None or bool(self.has_pixel_truth.all()):
            return tensors
        return [tensor[self.has_pixel_truth] for tensor in tensors]
