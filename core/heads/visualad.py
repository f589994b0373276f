"""VisualAD (arXiv 2603.07952): a learned anomaly token and a learned normal token inside a frozen ViT; no text.

The two tokens pass through the backbone (`token_insertion`). At each tap, spatial-aware cross-attention (SCA) adds
evidence from that tap's patches to the tokens, and the self-alignment function (SAF) recalibrates the patches. A patch
is anomalous if it is closer to the anomaly token than to the normal token. Names inside SCA and SAF are those of the
published checkpoints; taps count from 0.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.backbones import Backbone, tapped_tokens
from zsad_core.config import StrictModel
from zsad_core.heads.losses import Target, segmentation_loss
from zsad_core.heads.scoring import ScoreConfig, top_mean

ANOMALY_TOKEN, NORMAL_TOKEN = 0, 1  # order in the sequence, and of every axis over the two tokens
POSITIONS = ("anomaly_position", "normal_position")  # keys of the state dict; published checkpoints lack them
TOP_FRACTION = 0.01  # in training the image's logit is the mean of this share of the map's highest values
MARGIN = 0.5  # the two tokens' cosine is pushed below -0.5
BLUR_REACH = 4.0  # the kernel's radius in sigmas, as in scipy's gaussian_filter

Count = Annotated[int, Field(ge=1)]


class VisualAdOptions(StrictModel):
    """The options that do not depend on the backbone."""

    anchors: Count = 4
    max_positions: Count = 1536  # largest number of patches; 518 px with patches of 14 px has 1369
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    blur_sigma: Annotated[float, Field(ge=0)] = 4.0  # pixels of the map, 0 for none


class VisualAdConfig(VisualAdOptions):
    embed_dim: Count
    num_taps: Count


@dataclass(frozen=True, kw_only=True)
class InsertedTokens:
    """The backbone's tokens for a batch of images and the two inserted tokens."""

    learned: Tensor  # [B, 2, D] (anomaly, normal) after the last block and the final norm
    tapped: list[Tensor]  # L x [B, 2 + P + N, D], all tokens of each tap after the final norm
    grid_hw: tuple[int, int]  # h, w with h * w = N


@dataclass(frozen=True, kw_only=True)
class VisualAdOutput:
    anomaly_features: Tensor  # [B, L, D] the anomaly token after each tap's SCA
    normal_features: Tensor  # [B, L, D]
    maps: Tensor  # [B, L, H, W] difference of cosines, in [-2, 2]
    fused: Tensor  # [B, H, W] their sum over taps
    image_logit: Tensor  # [B] mean of the highest 1 % of `fused`


@dataclass(frozen=True, kw_only=True)
class VisualAdLoss:
    """The parts and their sum; scalars."""

    segmentation: Tensor
    classification: Tensor
    contrastive: Tensor

    @property
    def total(self) -> Tensor:
        return self.segmentation + self.classification + self.contrastive


class SpatialCrossAttention(nn.Module):
    """SCA: anchors gather evidence from a tap's patches; a gate, computed from the token, weights the evidence."""

    def __init__(self, config: VisualAdConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.anchor_queries = nn.Parameter(torch.randn(config.anchors, dim) * 0.02)
        self.pos_encoding = nn.Parameter(torch.randn(1, config.max_positions, dim) * 0.02)
        self.res_scale = nn.Parameter(torch.full((1,), 0.01))
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.q_norm = nn.LayerNorm(dim)
        self.k_norm = nn.LayerNorm(dim)
        self.gate = nn.Sequential(nn.Linear(dim, config.anchors), nn.Sigmoid())
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, learned: Tensor, patch_tokens: Tensor) -> Tensor:
        """[B, 2, D] tokens, [B, N, D] patches -> [B, 2, D] tokens with the patches' evidence added.

        Raises:
            ValueError: more patches than positions.
        """
        count, dim = patch_tokens.shape[1:]
        if count > self.pos_encoding.shape[1]:
            raise ValueError(f"{count} patches, SCA has {self.pos_encoding.shape[1]} positions: take a smaller input")
        queries = self.q_norm(self.q_proj(self.anchor_queries))  # [A, D]
        keys = self.k_norm(self.k_proj(patch_tokens + self.pos_encoding[:, :count]))  # [B, N, D]
        attention = torch.softmax(queries @ keys.transpose(1, 2) * dim**-0.5, dim=-1)  # [B, A, N]
        # dropout is separate for each of the two tokens, as published
        attention = self.dropout(attention.unsqueeze(1).expand(-1, learned.shape[1], -1, -1))
        gathered = attention @ self.v_proj(patch_tokens).unsqueeze(1)  # [B, 2, A, D]
        evidence = (self.gate(learned).unsqueeze(-1) * gathered).sum(dim=2)  # [B, 2, D]
        return learned + self.res_scale * self.dropout(self.out_proj(evidence))


class SelfAlignment(nn.Module):
    """SAF: a two-layer MLP on each token."""

    def __init__(self, config: VisualAdConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(tokens)


class VisualAd(nn.Module):
    """The trainable part, except the backbone's final norm, which VisualAD also trains."""

    needs_text = False
    trains_final_norm = True
    score_from_map = False  # `predict` computes it before the blur

    def __init__(self, config: VisualAdConfig) -> None:
        super().__init__()
        self.config = config
        std = 0.1 * config.embed_dim**-0.5
        self.anomaly_token = nn.Parameter(std * torch.randn(config.embed_dim))
        self.normal_token = nn.Parameter(std * torch.randn(config.embed_dim))
        # Frozen, because the published code does not train them.
        self.anomaly_position = nn.Parameter(torch.zeros(config.embed_dim), requires_grad=False)
        self.normal_position = nn.Parameter(torch.zeros(config.embed_dim), requires_grad=False)
        self.cross_attn = nn.ModuleList(SpatialCrossAttention(config) for _ in range(config.num_taps))
        self.layer_transforms = nn.ModuleList(SelfAlignment(config) for _ in range(config.num_taps))

    def place(self, position: Tensor) -> None:
        """Sets the position [D] of both tokens to that of the class token, from `token_insertion.class_position`."""
        with torch.no_grad():
            self.anomaly_position.copy_(position)
            self.normal_position.copy_(position)

    def inserted(self) -> Tensor:
        """[2, D] (anomaly, normal), the tokens to insert before the class token, with positions added."""
        return torch.stack([self.anomaly_token + self.anomaly_position, self.normal_token + self.normal_position])

    def tokens(self, backbone: Backbone, images: Tensor) -> InsertedTokens:
        """Passes normalised `images` [B, 3, H, W] and the two tokens through the backbone; result in float32."""
        depth = len(backbone.vit.blocks)
        blocks = backbone.taps if backbone.taps[-1] == depth else (*backbone.taps, depth)
        tapped = [tokens.float() for tokens in tapped_tokens(backbone.vit, images, blocks, self.inserted())]
        return InsertedTokens(
            learned=tapped[-1][:, :2],
            tapped=tapped[: len(backbone.taps)],
            grid_hw=backbone.grid_hw((int(images.shape[2]), int(images.shape[3]))),
        )

    def forward(self, tokens: InsertedTokens, text: Tensor | None = None, *, map_hw: tuple[int, int]) -> VisualAdOutput:
        """Maps and image logits.

        Args:
            tokens: from `tokens`.
            text: ignored; other methods need it.
            map_hw: size of the maps, pixels; in the paper the input size.
        """
        grid_hw = tokens.grid_hw
        features, maps = [], []
        for tapped, attend, align in zip(tokens.tapped, self.cross_attn, self.layer_transforms, strict=True):
            patch_tokens = tapped[:, -grid_hw[0] * grid_hw[1] :]  # [B, N, D]
            pair = attend(tokens.learned, patch_tokens)  # [B, 2, D]
            features.append(pair)
            unit = F.normalize(pair, dim=-1)
            difference = unit[:, ANOMALY_TOKEN] - unit[:, NORMAL_TOKEN]  # [B, D]
            # The published code aligns all tokens and then drops the first ones; the result is the same.
            aligned = F.normalize(align(patch_tokens), dim=-1)
            with torch.autocast(aligned.device.type, enabled=False):  # in bf16 the map would have few values
                cosines = aligned.float() @ difference.float().unsqueeze(-1)  # [B, N, 1]
            coarse = cosines.transpose(1, 2).reshape(-1, 1, *grid_hw)  # [B, 1, h, w]
            maps.append(F.interpolate(coarse, size=map_hw, mode="bilinear", align_corners=False).squeeze(1))
        stacked, pairs = torch.stack(maps, dim=1), torch.stack(features, dim=1)
        fused = stacked.sum(dim=1)
        return VisualAdOutput(
            anomaly_features=pairs[:, :, ANOMALY_TOKEN],
            normal_features=pairs[:, :, NORMAL_TOKEN],
            maps=stacked,
            fused=fused,
            image_logit=top_mean(fused, TOP_FRACTION),
        )

    def filtered(self, fused: Tensor) -> Tensor:
        """The map for display and metrics: [B, H, W], blurred by `blur_sigma` pixels."""
        return gaussian_blur(fused, self.config.blur_sigma)

    def loss(self, output: VisualAdOutput, target: Target) -> VisualAdLoss:
        """The method's loss; the maps must have the mask's size."""
        maps, mask = target.with_pixel_truth(output.maps)
        segmentation = maps.new_zeros(())
        if len(mask):  # a mean over no images would be NaN
            for tap_map in torch.sigmoid(maps).unbind(dim=1):  # [B, H, W]
                segmentation = segmentation + segmentation_loss(torch.stack([1 - tap_map, tap_map], dim=1), mask)
        cosine = F.cosine_similarity(output.anomaly_features[:, -1], output.normal_features[:, -1], dim=-1)
        return VisualAdLoss(
            segmentation=segmentation,
            classification=F.binary_cross_entropy_with_logits(
                output.image_logit, target.is_anomalous.to(output.image_logit.dtype)
            ),
            contrastive=(cosine + MARGIN).clamp(min=0).mean(),
        )

    def predict(
        self, tokens: InsertedTokens, prompts: Tensor | None, *, map_hw: tuple[int, int], score: ScoreConfig
    ) -> tuple[Tensor, Tensor]:
        """Anomaly maps [B, H, W] and anomaly scores [B], both in [0, 1]: the sigmoid of the fused cosines.

        The map is blurred. The score is computed before the blur; its sigmoid only brings it to [0, 1], as in the other
        methods. `prompts` is ignored.
        """
        fused = self.forward(tokens, map_hw=map_hw).fused
        anomaly_map = torch.sigmoid(self.filtered(fused) / score.temperature)
        return anomaly_map, torch.sigmoid(top_mean(fused, score.top_fraction, score.pool) / score.temperature)

    def token_parameters(self) -> list[nn.Parameter]:
        """The two tokens, which train at their own learning rate."""
        return [self.anomaly_token, self.normal_token]


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """[B, H, W] -> [B, H, W], as scipy's `gaussian_filter`: mirrored at the borders; the border pixel is repeated."""
    if sigma == 0:
        return maps
    radius = int(BLUR_REACH * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weight = maps.new_tensor(kernel / kernel.sum()).view(1, 1, -1, 1)
    blurred = maps.unsqueeze(1)
    for side in (2, 3):  # down the columns, then along the rows
        mirrored = np.pad(np.arange(int(blurred.shape[side])), radius, mode="symmetric")
        padded = blurred.index_select(side, torch.from_numpy(mirrored).to(maps.device))
        blurred = F.conv2d(padded, weight if side == 2 else weight.transpose(2, 3))
    return blurred.squeeze(1)
