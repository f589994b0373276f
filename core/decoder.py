"""A small convolutional decoder: from patches of several taps, and what the text said of them, to a finer anomaly map.

Ours, in the papers nothing like it: their maps have a value for each patch, 16 x 16 pixels, and each of its own; a
defect of a few pixels, or a false alarm beside a hundred calm neighbours, looks the same to them.
"""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.config import StrictModel
from zsad_core.losses import Target, segmentation_loss
from zsad_core.prompts import ANOMALOUS, NORMAL
from zsad_core.scoring import top_mean

STRIDE = 4  # pixels of the picture for each value of the decoded map
SCORE_FRACTION = 0.01  # of the map, whose mean the score is while it is trained
_GROUPS = 8


class DecoderConfig(StrictModel):
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 48  # channels that each tap is brought down to
    detail: Annotated[int, Field(ge=0, multiple_of=8)] = 32  # channels seen of the picture itself, at stride 4; 0: none


class Decoder(nn.Module):
    """Patches, matches with the text and the picture's own detail in; logits of an anomaly map at stride 4 out."""

    def __init__(self, config: DecoderConfig, embed_dim: int, num_taps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_taps))
        self.projections = nn.ModuleList(nn.Linear(embed_dim, config.width) for _ in range(num_taps))
        self.coarse = _block(num_taps * (config.width + 1), 64)
        self.middle = _block(64, 48)
        self.detail = (
            nn.Sequential(_block(3, 16, stride=2), _block(16, config.detail, stride=2)) if config.detail else None
        )
        self.fine = nn.Sequential(_block(48 + config.detail, 32), nn.Conv2d(32, 1, 1))
        self.text_share = nn.Parameter(torch.tensor(0.1))
        self.score_scale = nn.Parameter(torch.tensor(1.0))
        self.score_bias = nn.Parameter(torch.tensor(0.0))
        nn.init.zeros_(self.fine[1].weight)  # type: ignore[arg-type]
        nn.init.constant_(self.fine[1].bias, -2.0)  # type: ignore[arg-type]

    def forward(
        self, images: Tensor, patch_tokens: list[Tensor], matches: list[Tensor], grid_hw: tuple[int, int]
    ) -> Tensor:
        """[B, 1, h * 4, w * 4] logits.

        Args:
            images: [B, 3, H, W], normalised.
            patch_tokens: L x [B, N, D], standardised.
            matches: L x [B, 2, h, w], logits of (normal, anomalous) of each patch, as the method's own map has them.
            grid_hw: h, w with h * w = N.
        """
        towards_anomaly = [match[:, ANOMALOUS:] - match[:, NORMAL:ANOMALOUS] for match in matches]
        told = torch.stack(towards_anomaly).mean(dim=0)
        seen = [
            projection(norm(patches)).transpose(1, 2).reshape(patches.shape[0], -1, *grid_hw)
            for projection, norm, patches in zip(self.projections, self.norms, patch_tokens, strict=True)
        ]
        x = self.coarse(torch.cat([*seen, *(torch.tanh(one / 20) for one in towards_anomaly)], dim=1))
        x = self.middle(_twice(x))
        x = _twice(x)
        if self.detail is not None:
            detail = self.detail(images)
            if detail.shape[-2:] != x.shape[-2:]:  # patches of another size than 16
                detail = F.interpolate(detail, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, detail], dim=1)
        x = self.fine(x)
        return x + self.text_share * F.interpolate(told, size=x.shape[-2:], mode="bilinear", align_corners=False)

    def map_loss(self, logits: Tensor, target: Target) -> Tensor:
        """Focal and Dice of the decoded map, of the pictures whose defects are known."""
        logits, mask = target.with_pixel_truth(logits.float())
        if len(mask) == 0:
            return logits.new_zeros(())
        if mask.shape[-2:] != logits.shape[-2:]:
            logits = enlarge(logits, (int(mask.shape[1]), int(mask.shape[2])))
        probability = torch.sigmoid(logits)
        return segmentation_loss(torch.cat([1 - probability, probability], dim=1), mask)

    def score_loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross entropy of the score, on a learnt scale: a small defect need not fill the share that is averaged."""
        score = top_mean(torch.sigmoid(logits[:, 0].float()), SCORE_FRACTION).clamp(1e-4, 1 - 1e-4)
        told = self.score_scale * torch.logit(score) + self.score_bias
        return F.binary_cross_entropy_with_logits(told, target.is_anomalous.to(told.dtype))


def enlarge(maps: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """[B, K, h, w] -> [B, K, H, W], bilinear, corners not aligned: a value stands for the pixels that it covers."""
    return F.interpolate(maps, size=map_hw, mode="bilinear", align_corners=False)


def _block(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return nn.Sequential(conv, nn.GroupNorm(_GROUPS, channels_out), nn.GELU())


def _twice(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
