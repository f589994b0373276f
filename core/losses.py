"""The losses of AVA-DINO and AD-DINOv3, as their published code computes them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.ava_dino import AvaDinoOutput
from zsad_core.prompts import ANOMALOUS, NORMAL


def focal_loss(probabilities: Tensor, mask: Tensor, *, gamma: float = 2.0, smoothing: float = 1e-5) -> Tensor:
    """Focal loss of two-class probabilities [B, 2, H, W] against a mask [B, H, W] of 0 and 1; mean over pixels.

    The target is one-hot, clamped to [smoothing, 1 - smoothing].
    """
    anomalous = mask.clamp(smoothing, 1 - smoothing)
    normal = (1 - mask).clamp(smoothing, 1 - smoothing)
    pt = normal * probabilities[:, NORMAL] + anomalous * probabilities[:, ANOMALOUS] + smoothing
    return (-((1 - pt) ** gamma) * torch.log(pt)).mean()


def dice_loss(anomalous_probability: Tensor, mask: Tensor) -> Tensor:
    """1 - mean over images of the soft Dice coefficient, smoothed by 1; both [B, H, W]."""
    p, m = anomalous_probability.flatten(1), mask.flatten(1)
    dice = (2 * (p * m).sum(dim=1) + 1) / (p.sum(dim=1) + m.sum(dim=1) + 1)
    return 1 - dice.mean()


def segmentation_loss(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Focal and Dice of a two-class map [B, 2, H, W] against a mask [B, H, W]."""
    return focal_loss(probabilities, mask) + dice_loss(probabilities[:, ANOMALOUS], mask)


@dataclass(frozen=True, kw_only=True)
class AvaDinoLoss:
    """The parts and their weighted sum; scalars."""

    awareness: Tensor
    segmentation: Tensor
    global_: Tensor
    routing: Tensor

    @property
    def total(self) -> Tensor:
        return 0.25 * self.awareness + 0.5 * self.segmentation + 0.25 * self.global_ + 0.1 * self.routing


def ava_dino_loss(
    output: AvaDinoOutput, mask: Tensor, is_anomalous: Tensor, has_pixel_truth: Tensor | None = None
) -> AvaDinoLoss:
    """The loss of AVA-DINO.

    Args:
        output: of `AvaDino.forward`, maps at the mask's size.
        mask: [B, H, W] of 0 and 1.
        is_anomalous: [B] of 0 and 1.
        has_pixel_truth: [B]; pictures without count in the image losses alone. None: all have.
    """
    y = is_anomalous.to(output.routing.dtype)
    awareness, cross_modal = output.awareness, output.cross_modal
    if has_pixel_truth is not None and not has_pixel_truth.all():
        awareness, cross_modal, mask = awareness[has_pixel_truth], cross_modal[has_pixel_truth], mask[has_pixel_truth]
    none = len(mask) == 0  # the mean of nothing is no number
    return AvaDinoLoss(
        awareness=y.new_zeros(()) if none else segmentation_loss(awareness, mask),
        segmentation=y.new_zeros(()) if none else segmentation_loss(cross_modal, mask),
        global_=F.cross_entropy(output.global_score, is_anomalous.long()),
        routing=F.mse_loss(output.routing[:, NORMAL], 1 - y) + F.mse_loss(output.routing[:, ANOMALOUS], y),
    )
