"""A small convolutional decoder: makes a finer anomaly map from the patches of several taps and their text matches.

It is ours; the papers have no decoder. Their maps have one value per patch of 16 x 16 pixels, computed without its
neighbours. They cannot resolve a defect of a few pixels, and do not suppress an isolated false alarm.

The most useful input needs no training: the distance of a patch to the other patches of the same image
(`SelfDistances`). A good part repeats itself, a defect does not. With a frozen backbone this holds for any product.
"""

from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from zsad_core.bundle import ANOMALOUS, NORMAL
from zsad_core.config import StrictModel
from zsad_core.heads.losses import Target, segmentation_loss
from zsad_core.heads.scoring import top_mean

SCORE_FRACTION = 0.05  # in training the score is the mean of this share of the map's highest values
_GROUPS = 8
_SOFTNESS = 0.2  # highest temperature t of `SelfDistances`; the others are 1/2, 1/4 and 1/8 of it
_HALVINGS = 4
_USUAL = 0.6  # typical value of the distances in `with_weights` for a good part
_NEAR = 1  # neighbours up to this distance, in patches, are left out: the patches of a larger defect are similar


class DecoderConfig(StrictModel):
    width: Annotated[int, Field(ge=8, multiple_of=8)] = 48  # each tap is projected to this number of channels
    detail: Annotated[int, Field(ge=0, multiple_of=8)] = 32  # channels computed from the image, at stride 4; 0: none
    self_distance: bool = True  # use `SelfDistances`
    # After training, the distances and the text matches are also added directly to the logits, with these weights:
    # the trained decoder uses them as its training products need, but other products need more of them.
    distance_weight: Annotated[float, Field(ge=0)] = 0.0
    text_weight: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _has_what_it_weighs(self) -> Self:
        if self.distance_weight and not self.self_distance:
            raise ValueError(
                f"distance_weight {self.distance_weight} with self_distance false: there are no distances to add. Set "
                "distance_weight to 0 or self_distance to true"
            )
        return self


class Decoder(nn.Module):
    """Computes logits of an anomaly map at stride 4 from patches, their text matches and the image."""

    def __init__(self, config: DecoderConfig, embed_dim: int, num_taps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(num_taps))
        self.projections = nn.ModuleList(nn.Linear(embed_dim, config.width) for _ in range(num_taps))
        distances = num_taps * _HALVINGS if config.self_distance else 0
        self.coarse = _block(num_taps * (config.width + 1) + distances, 64)
        self.middle = _block(64, 48)
        self.detail = (
            nn.Sequential(_block(3, 16, stride=2), _block(16, config.detail, stride=2)) if config.detail else None
        )
        self.fine = nn.Sequential(_block(48 + config.detail, 32), nn.Conv2d(32, 1, 1))
        self.self_distances = SelfDistances() if distances else None
        self.distance_norm = nn.BatchNorm2d(distances, affine=False) if distances else None
        self.distance_share = nn.Conv2d(distances, 1, 1, bias=False) if distances else None
        if self.distance_share is not None:
            nn.init.constant_(self.distance_share.weight, 1 / distances)
        self.distance_weight = config.distance_weight
        self.text_weight = config.text_weight
        self.text_share = nn.Parameter(torch.tensor(0.1))
        self.score_scale = nn.Parameter(torch.tensor(1.0))
        self.score_bias = nn.Parameter(torch.tensor(0.0))
        nn.init.zeros_(self.fine[1].weight)  # type: ignore[arg-type]
        nn.init.constant_(self.fine[1].bias, -2.0)  # type: ignore[arg-type]

    def forward(
        self,
        images: Tensor,
        patch_tokens: list[Tensor],
        matches: list[Tensor],
        distances: Tensor | None,
        grid_hw: tuple[int, int],
    ) -> Tensor:
        """[B, 1, h * 4, w * 4] logits.

        Args:
            images: [B, 3, H, W], normalised.
            patch_tokens: L x [B, N, D], standardised.
            matches: L x [B, 2, h, w], logits (normal, anomalous) of each patch, as in the method's own map.
            distances: [B, L * 4, h, w] of `SelfDistances`; ignored if `self_distance` is false.
            grid_hw: h, w with h * w = N.
        """
        towards_anomaly = _towards_anomaly(matches)
        seen = [
            projection(norm(patches)).transpose(1, 2).reshape(patches.shape[0], -1, *grid_hw)
            for projection, norm, patches in zip(self.projections, self.norms, patch_tokens, strict=True)
        ]
        skipped = self.text_share * torch.stack(towards_anomaly).mean(dim=0)
        known = [*seen, *(torch.tanh(one / 20) for one in towards_anomaly)]
        if self.distance_norm is not None and self.distance_share is not None:
            if distances is None:
                raise ValueError("this decoder needs the patches' distances to each other")
            apart = self.distance_norm(distances)
            skipped = skipped + self.distance_share(apart)
            known.append(apart)
        x = self.coarse(torch.cat(known, dim=1))
        x = self.middle(_twice(x))
        x = _twice(x)
        if self.detail is not None:
            detail = self.detail(images)
            if detail.shape[-2:] != x.shape[-2:]:  # the patch size is not 16
                detail = F.interpolate(detail, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, detail], dim=1)
        x = self.fine[0](x)
        with torch.autocast(x.device.type, enabled=False):  # the map's logits are float32, as those of `match`
            x = self.fine[1](x.float())
        return x + enlarge(skipped, (int(x.shape[2]), int(x.shape[3])))

    def distances(self, patch_tokens: list[Tensor], grid_hw: tuple[int, int]) -> Tensor | None:
        """Distances [B, L * 4, h, w] of the backbone's tokens L x [B, N, D]; None if `self_distance` is false."""
        if self.self_distances is None:
            return None
        return torch.cat([self.self_distances(tap, grid_hw) for tap in patch_tokens], dim=1)

    def with_weights(self, logits: Tensor, matches: list[Tensor], distances: Tensor | None) -> Tensor:
        """The logits of `forward` plus the weighted text matches and distances of the config.

        Two distances are added: that of the first tap at the lowest temperature, for fine detail, and the mean over
        taps at the next higher temperature, for the material of the part. The text matches are the mean over taps.
        """
        added = []
        if self.distance_weight and distances is not None:
            first, all_taps = distances[:, _HALVINGS - 1 : _HALVINGS], distances[:, _HALVINGS - 2 :: _HALVINGS]
            added.append(self.distance_weight * (first + all_taps.mean(dim=1, keepdim=True) - _USUAL))
        if self.text_weight:
            added.append(self.text_weight * torch.stack(_towards_anomaly(matches)).mean(dim=0))
        if not added:
            return logits
        return logits + enlarge(torch.stack(added).sum(dim=0), (int(logits.shape[2]), int(logits.shape[3])))

    def map_loss(self, logits: Tensor, target: Target) -> Tensor:
        """Focal and Dice loss of the decoded map, over images with pixel truth."""
        logits, mask = target.with_pixel_truth(logits.float())
        if len(mask) == 0:
            return logits.new_zeros(())
        if mask.shape[-2:] != logits.shape[-2:]:
            logits = enlarge(logits, (int(mask.shape[1]), int(mask.shape[2])))
        probability = torch.sigmoid(logits)
        return segmentation_loss(torch.cat([1 - probability, probability], dim=1), mask)

    def score_loss(self, logits: Tensor, target: Target) -> Tensor:
        """Cross entropy of the score, with learned scale and bias: a small defect may fill only a part of the share."""
        score = top_mean(torch.sigmoid(logits[:, 0].float()), SCORE_FRACTION).clamp(1e-4, 1 - 1e-4)
        told = self.score_scale * torch.logit(score) + self.score_bias
        return F.binary_cross_entropy_with_logits(told, target.is_anomalous.to(told.dtype))


class SelfDistances(nn.Module):
    """The distance of each patch to the other patches of its image.

    It is a module only for its name: an INT8 graph keeps this module in float.
    """

    def forward(self, patch_tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """[B, N, D], the backbone's tokens -> [B, 4, h, w].

        c_ij is the cosine of two patches. d_i = -t log mean_j exp((c_ij - 1) / t), where neighbours of i count as 0 in
        the mean; so d_i is in [0, 2], plus a small term for the share of neighbours. It is a soft nearest-neighbour
        distance: a small t compares with the few most similar patches, a large t with most patches. Each t is half of
        the one before, so the next exponential is the square of the last. Always computed in float32.
        """
        with torch.autocast(patch_tokens.device.type, enabled=False):
            patches = F.normalize(patch_tokens.float(), dim=-1)
            likeness = torch.exp((patches @ patches.transpose(1, 2) - 1) / _SOFTNESS) * _apart(grid_hw).to(patches)
            found = []
            for halving in range(_HALVINGS):
                mean = likeness.mean(dim=2).clamp_min(1e-36)
                found.append(-_SOFTNESS / 2**halving * torch.log(mean))
                likeness = likeness * likeness
            return torch.stack(found, dim=1).reshape(patches.shape[0], _HALVINGS, *grid_hw)


class _GroupNorm(nn.GroupNorm):
    """torch's group norm; in evaluation mode written so that a graph on a CPU does not change the maps' layout.

    In float32 both differ only by rounding. Training uses torch's code: in bf16 this variance would cancel.
    """

    def forward(self, maps: Tensor) -> Tensor:
        if self.training:
            return super().forward(maps)
        count, channels = int(maps.shape[0]), int(maps.shape[1])
        grouped = (count, self.num_groups, channels // self.num_groups)
        mean = maps.mean(dim=(2, 3)).reshape(grouped).mean(dim=2, keepdim=True)
        square = (maps * maps).mean(dim=(2, 3)).reshape(grouped).mean(dim=2, keepdim=True)
        scale = self.weight.reshape(1, *grouped[1:]) * torch.rsqrt((square - mean * mean).clamp_min(0) + self.eps)
        shift = self.bias.reshape(1, *grouped[1:]) - mean * scale
        return maps * scale.reshape(count, channels, 1, 1) + shift.reshape(count, channels, 1, 1)


def _apart(grid_hw: tuple[int, int]) -> Tensor:
    """[N, N]: 0 if two patches of the grid are neighbours or the same, else 1."""
    rows, columns = (index.flatten() for index in torch.meshgrid(*map(torch.arange, grid_hw), indexing="ij"))
    near = (rows[:, None] - rows).abs().maximum((columns[:, None] - columns).abs()) <= _NEAR
    return (~near).float()


def _towards_anomaly(matches: list[Tensor]) -> list[Tensor]:
    """L x [B, 2, h, w] logits (normal, anomalous) -> L x [B, 1, h, w], anomalous minus normal."""
    return [match[:, ANOMALOUS:] - match[:, NORMAL:ANOMALOUS] for match in matches]


def enlarge(maps: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """[B, K, h, w] -> [B, K, H, W], bilinear, corners not aligned: a value belongs to the pixels that it covers."""
    return F.interpolate(maps, size=map_hw, mode="bilinear", align_corners=False)


def _block(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return nn.Sequential(conv, _GroupNorm(_GROUPS, channels_out), nn.GELU())


def _twice(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
