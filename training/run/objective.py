"""The loss of a training step: the interface that the trainer uses, and the loss of a method."""

from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.heads import Target, scaled
from zsad_core.model import Detector
from zsad_training.config import OptimisationSpec
from zsad_training.pictures import Batch
from zsad_training.run.devices import autocast
from zsad_training.run.feature_cache import FeatureCache


class Objective(Protocol):
    """The loss of a batch that is computed in parts, by one or several processes."""

    @property
    def identity(self) -> str:
        """Text of all that the result depends on, in addition to the run's settings."""

    @property
    def extra(self) -> nn.Module:
        """A module that is trained but is not part of the detector; it may have no parameters."""

    def counts(self, batch: Any) -> list[int]:
        """Number of images in a part of the batch, for each kind of loss."""

    def terms(self, batch: Any, totals: list[int]) -> dict[str, Tensor]:
        """The losses of a part by name; the optimiser lowers `total`. Their sums over the parts are the batch's losses.

        Args:
            batch: the part.
            totals: sums of `counts` over all parts.
        """


class MethodsLoss:
    """The loss of the method on labelled images."""

    identity = ""

    def __init__(
        self,
        detector: Detector,
        text: dict[str, np.ndarray],
        spec: OptimisationSpec,
        *,
        device: torch.device,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self.extra = nn.Module()
        self._detector = detector
        self._text = text
        self._spec = spec
        self._device = device
        self._cache = feature_cache

    def counts(self, batch: Batch) -> list[int]:
        """Numbers of images: with pixel truth, all."""
        return [int(batch.has_pixel_truth.sum()), len(batch.products)]

    def terms(self, batch: Batch, totals: list[int]) -> dict[str, Tensor]:
        """The terms of the method's loss and their weighted sum; see `Objective.terms`."""
        with_truth, pictures = self.counts(batch)
        target = target_of(batch, self._spec.loss_stride, self._device)
        text = stacked_text(self._text, batch.products, self._device) if self._detector.needs_text else None
        with autocast(self._spec.mixed_precision, self._device):
            output = self._forward(batch, text, (target.mask.shape[1], target.mask.shape[2]))
        loss = scaled(
            self._detector.head.loss(output, target),
            pixel=with_truth / max(1, totals[0]),
            image=pictures / totals[1],
        )
        return {"total": loss.total, **{name: term for name, term in vars(loss).items() if term is not None}}

    def _forward(self, batch: Batch, text: Tensor | None, map_hw: tuple[int, int]) -> Any:
        images = batch.images_bgr.to(self._device, non_blocking=True)
        if self._cache is None:
            return self._detector(images, text, map_hw=map_hw)
        return self._detector.head(self._cache.tokens(images), text, map_hw=map_hw)


def target_of(batch: Batch, loss_stride: int, device: torch.device) -> Target:
    """The batch's targets, with masks at 1/loss_stride of the image size."""
    masks = batch.masks.to(device, non_blocking=True).float()
    if loss_stride > 1:
        masks = F.max_pool2d(masks.unsqueeze(1), loss_stride).squeeze(1)  # keeps thin defects
    return Target(
        mask=masks,
        is_anomalous=batch.is_anomalous.to(device),
        has_pixel_truth=batch.has_pixel_truth.to(device),
    )


def stacked_text(text: dict[str, np.ndarray], products: list[str], device: torch.device) -> Tensor:
    """[B, T, 2] of the products' embeddings."""
    return torch.from_numpy(np.stack([text[product] for product in products])).to(device)
