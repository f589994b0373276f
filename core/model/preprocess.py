"""Normalises uint8 BGR images. Training, evaluation and the exported graph all use this module."""

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """uint8 BGR [B, H, W, 3] -> float RGB [B, 3, H, W]: (value / 255 - mean) / std, with mean and std in RGB order."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images_bgr: Tensor) -> Tensor:
        # BGR to RGB comes last, on floats: OpenVINO has no fast kernel that reorders bytes.
        rgb = images_bgr.permute(0, 3, 1, 2).to(self.mean.dtype)[:, [2, 1, 0]]  # [B, 3, H, W]
        return (rgb / 255.0 - self.mean) / self.std
