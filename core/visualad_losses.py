"""The loss of VisualAD, as its published code computes it."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.losses import segmentation_loss
from zsad_core.visualad import VisualAdOutput

MARGIN = 0.5  # the two tokens' cosine is pushed below -0.5


@dataclass(frozen=True, kw_only=True)
class VisualAdLoss:
    """The parts; scalars."""

    segmentation: Tensor
    classification: Tensor
    contrastive: Tensor

    @property
    def total(self) -> Tensor:
        return self.segmentation + self.classification + self.contrastive


def visualad_loss(
    output: VisualAdOutput, mask: Tensor, is_anomalous: Tensor, has_pixel_truth: Tensor | None = None
) -> VisualAdLoss:
    """The loss of VisualAD.

    Args:
        output: of `VisualAd.forward`, maps at the mask's size.
        mask: [B, H, W] of 0 and 1.
        is_anomalous: [B] of 0 and 1.
        has_pixel_truth: [B]; pictures without count in the image losses alone. None: all have.
    """
    maps = output.maps
    if has_pixel_truth is not None and not has_pixel_truth.all():
        maps, mask = maps[has_pixel_truth], mask[has_pixel_truth]
    segmentation = maps.new_zeros(())
    if len(mask):  # the mean of nothing is no number
        for tap_map in torch.sigmoid(maps).unbind(dim=1):  # [B, H, W]
            segmentation = segmentation + segmentation_loss(torch.stack([1 - tap_map, tap_map], dim=1), mask)
    cosine = F.cosine_similarity(output.anomaly_features[:, -1], output.normal_features[:, -1], dim=-1)
    return VisualAdLoss(
        segmentation=segmentation,
        classification=F.binary_cross_entropy_with_logits(
            output.image_logit, is_anomalous.to(output.image_logit.dtype)
        ),
        contrastive=(cosine + MARGIN).clamp(min=0).mean(),
    )
