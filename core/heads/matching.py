"""The shared part of AVA-DINO and AD-DINOv3: matches adapted tokens with a normal and an anomalous text vector.

AVA-DINO (arXiv 2605.12069) and AD-DINOv3 (arXiv 2509.14084) differ in how they adapt text and tokens; maps, awareness
and global score are the same. Parameters have the names of the published checkpoints. These checkpoints need
`MatchingConfig.interleave_text`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.backbones import AnyBackbone, standardise_patches
from zsad_core.bundle import ANOMALOUS, NORMAL
from zsad_core.config import StrictModel
from zsad_core.heads.decoder import Decoder, DecoderConfig, enlarge
from zsad_core.heads.losses import Target, segmentation_loss
from zsad_core.heads.scoring import ScoreConfig, anomaly_score

MATCHING = -1  # index on axis K of the prompt vectors [B, K, 2, M]; patches are matched with the last pair

Width = Annotated[int, Field(ge=1)]


class MatchingConfig(StrictModel):
    embed_dim: Width
    text_dim: Width
    num_taps: Width
    # The published code concatenates the two adapted text vectors and views the 2T numbers as [T, 2], which mixes
    # them. True does the same, for published checkpoints; ours are trained with stacked vectors.
    interleave_text: bool = False
    decoder: DecoderConfig | None = None  # None: as published; the decoder is ours


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A backbone's tokens for both methods, and the inputs of a decoder."""

    cls_tokens: list[Tensor]  # L x [B, D]
    patch_tokens: list[Tensor]  # L x [B, N, D], standardised per image and channel
    grid_hw: tuple[int, int]  # h, w with h * w = N
    images: Tensor | None = None  # [B, 3, H, W], normalised; a decoder needs them
    distances: Tensor | None = None  # [B, L * 4, h, w] of `SelfDistances`, for a decoder with `self_distance`


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """One tap's tokens after the adapters, with norm 1; M is the width of the matched text vectors."""

    cls_token: Tensor  # [B, M]
    patch_tokens: Tensor  # [B, N, M]
    routing: Tensor | None  # [B, 2] weights (normal, anomalous); None for a method without routing


@dataclass(frozen=True, kw_only=True)
class MatchingOutput:
    routing: Tensor | None  # [B, 2], mean over taps
    awareness: Tensor  # [B, 2, H, W] probabilities; used in training only
    cross_modal: Tensor  # [B, 2, H, W] probabilities; the anomalous channel is the anomaly map
    global_score: Tensor  # [B, 2] logits
    decoded: Tensor | None = None  # [B, 1, h * 4, w * 4] logits of the decoder; None without a decoder


@dataclass(frozen=True, kw_only=True)
class MatchingLoss:
    """The parts and their weighted sum; scalars."""

    awareness: Tensor
    segmentation: Tensor
    global_: Tensor
    routing: Tensor | None  # only AVA-DINO
    decoded: Tensor | None = None  # of the decoder's map; None without a decoder
    score: Tensor | None = None  # of the score from the decoder's map; None without a decoder

    @property
    def total(self) -> Tensor:
        total = 0.25 * self.awareness + 0.5 * self.segmentation + 0.25 * self.global_
        if self.decoded is not None and self.score is not None:
            total = total + self.decoded + 0.5 * self.score
        return total if self.routing is None else total + 0.1 * self.routing


class Adapter(nn.Module):
    """Two layers without bias; returns both outputs (u [..., hidden], v [..., in])."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(in_dim, hidden_dim, bias=False), nn.LeakyReLU())
        self.fc2 = nn.Sequential(nn.Linear(hidden_dim, in_dim, bias=False), nn.LeakyReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.hidden(x)
        return u, self.fc2(u)

    def hidden(self, x: Tensor) -> Tensor:
        """Only u [..., hidden]."""
        return self.fc1(x)


class MatchingHead(nn.Module, ABC):
    """The trainable part: tokens and text in, maps and scores out."""

    needs_text = True
    trains_final_norm = False
    score_from_map = True

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        self.prompt_adapter = nn.ModuleList(Adapter(config.text_dim, config.text_dim) for _ in range(2))
        tapped_at_u(self.prompt_adapter)
        self._interleave_text = config.interleave_text
        self.decoder = Decoder(config.decoder, config.embed_dim, config.num_taps) if config.decoder else None

    @abstractmethod
    def prompt_vectors(self, text: Tensor) -> Tensor:
        """[B, T, 2] text embeddings -> [B, K, 2, M], all that the visual side needs from the text.

        The third axis is (normal, anomalous). Patches are matched with the last of the K pairs. The device gets these
        vectors precomputed.
        """

    @abstractmethod
    def adapt(self, tap: int, cls_token: Tensor, patch_tokens: Tensor, prompts: Tensor) -> Adapted:
        """Passes one tap's tokens through its adapters.

        Args:
            tap: index of the tap, from 0.
            cls_token: [B, D].
            patch_tokens: [B, N, D], standardised.
            prompts: [B, K, 2, M] of `prompt_vectors`.
        """

    def adapted_text(self, text: Tensor) -> Tensor:
        """[B, T, 2] -> [B, 2, T]: the first layer's output of each text vector's adapter."""
        adapted_n = self.prompt_adapter[NORMAL].hidden(text[..., NORMAL])  # type: ignore[operator]
        adapted_a = self.prompt_adapter[ANOMALOUS].hidden(text[..., ANOMALOUS])  # type: ignore[operator]
        if self._interleave_text:
            flat = torch.cat([adapted_n, adapted_a], dim=-1)  # [B, 2T]
            return flat.view(flat.shape[0], -1, 2).transpose(1, 2)
        return torch.stack([adapted_n, adapted_a], dim=1)

    def tokens(self, backbone: AnyBackbone, images: Tensor) -> Tokens:
        """The tokens of normalised `images` [B, 3, H, W], in float32."""
        cls_tokens, patch_tokens = backbone(images)
        grid_hw = backbone.grid_hw((int(images.shape[2]), int(images.shape[3])))
        return Tokens(
            images=images,
            distances=None if self.decoder is None else self.decoder.distances(patch_tokens, grid_hw),
            cls_tokens=[token.float() for token in cls_tokens],
            patch_tokens=[standardise_patches(patches.float()) for patches in patch_tokens],
            grid_hw=grid_hw,
        )

    def forward(self, tokens: Tokens, text: Tensor, *, map_hw: tuple[int, int]) -> MatchingOutput:
        """The outputs for training.

        Args:
            tokens: from `tokens`.
            text: [B, T, 2], unit norm over T, (normal, anomalous).
            map_hw: size of the maps, pixels; in the papers the input size.
        """
        prompts = self.prompt_vectors(text)
        matching = prompts[:, MATCHING]  # [B, 2, M]
        routing, awareness, cross_modal, global_score, matches = [], [], [], [], []
        for tap, (cls_token, patches) in enumerate(zip(tokens.cls_tokens, tokens.patch_tokens, strict=True)):
            adapted = self.adapt(tap, cls_token, patches, prompts)
            if adapted.routing is not None:
                routing.append(adapted.routing)
            matches.append(match(adapted.patch_tokens, matching, tokens.grid_hw))
            cross_modal.append(torch.softmax(to_map_size(matches[-1], map_hw), dim=1))
            with torch.autocast(patches.device.type, enabled=False):  # map logits in float32, as in `match`
                aware = 10.0 * adapted.patch_tokens.float() @ adapted.cls_token.float().unsqueeze(-1)  # [B, N, 1]
            awareness.append(torch.sigmoid(to_map_size(to_grid(aware, tokens.grid_hw), map_hw)))
            global_score.append(100.0 * (adapted.cls_token.unsqueeze(1) * matching).sum(dim=-1))
        aware_map = torch.stack(awareness).mean(dim=0)
        return MatchingOutput(
            routing=torch.stack(routing).mean(dim=0) if routing else None,
            awareness=torch.cat([1 - aware_map, aware_map], dim=1),
            cross_modal=torch.stack(cross_modal).mean(dim=0),
            global_score=torch.stack(global_score).mean(dim=0),
            decoded=None if self.decoder is None else self.decode(tokens, matches),
        )

    def loss(self, output: MatchingOutput, target: Target) -> MatchingLoss:
        """The loss of both methods; the maps must have the mask's size."""
        y = target.is_anomalous.to(output.global_score.dtype)
        awareness, cross_modal, mask = target.with_pixel_truth(output.awareness, output.cross_modal)
        none = len(mask) == 0  # a mean over no images would be NaN
        routing, decoded = output.routing, output.decoded
        return MatchingLoss(
            awareness=y.new_zeros(()) if none else segmentation_loss(awareness, mask),
            segmentation=y.new_zeros(()) if none else segmentation_loss(cross_modal, mask),
            global_=F.cross_entropy(output.global_score, target.is_anomalous.long()),
            routing=None
            if routing is None
            else F.mse_loss(routing[:, NORMAL], 1 - y) + F.mse_loss(routing[:, ANOMALOUS], y),
            decoded=None if self.decoder is None or decoded is None else self.decoder.map_loss(decoded, target),
            score=None if self.decoder is None or decoded is None else self.decoder.score_loss(decoded, target),
        )

    def predict(
        self, tokens: Tokens, prompts: Tensor | None, *, map_hw: tuple[int, int], score: ScoreConfig
    ) -> tuple[Tensor, Tensor]:
        """Anomaly maps [B, H, W] and anomaly scores [B], both in [0, 1]; `prompts` come from `prompt_vectors`."""
        if prompts is None:
            raise ValueError("this method matches images with text: it needs prompt vectors")
        matches = []
        for tap, (cls_token, patches) in enumerate(zip(tokens.cls_tokens, tokens.patch_tokens, strict=True)):
            adapted = self.adapt(tap, cls_token, patches, prompts)
            matches.append(match(adapted.patch_tokens, prompts[:, MATCHING], tokens.grid_hw))
        if self.decoder is not None:
            logits = self.decoder.with_weights(self.decode(tokens, matches), matches, tokens.distances)
            anomaly_map = enlarge(torch.sigmoid(logits / score.temperature), map_hw)[:, 0]
        else:
            # The softmax of two logits is the sigmoid of their difference. Resizing one map instead of two saves 8 % of
            # the time of a ViT-Ti at 384 px.
            towards = torch.cat([one[:, ANOMALOUS:] - one[:, NORMAL:ANOMALOUS] for one in matches], dim=1)
            anomaly_map = torch.sigmoid(to_map_size(towards, map_hw) / score.temperature).mean(dim=1)
        return anomaly_map, anomaly_score(anomaly_map, score)

    def decode(self, tokens: Tokens, matches: list[Tensor]) -> Tensor:
        """Logits [B, 1, h * 4, w * 4] of the decoder's map; `matches` has the output of `match` for each tap.

        Raises:
            ValueError: there is no decoder, or `tokens` has no images.
        """
        if self.decoder is None or tokens.images is None:
            raise ValueError("decode needs a head with a decoder, and tokens with images")
        logits: Tensor = self.decoder(tokens.images, tokens.patch_tokens, matches, tokens.distances, tokens.grid_hw)
        return logits

    def token_parameters(self) -> list[nn.Parameter]:
        """Learnable tokens, which some methods train at another rate; these methods have none."""
        return []


def match(patch_tokens: Tensor, matching: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """[B, 2, h, w]: 100 times the product of every patch [B, N, M] with the normal and anomalous vector [B, 2, M].

    Always computed in float32: bf16 would round these logits to steps of 0.5.
    """
    with torch.autocast(patch_tokens.device.type, enabled=False):
        return to_grid(100.0 * patch_tokens.float() @ matching.float().transpose(1, 2), grid_hw)


def to_grid(tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """[B, N, K] -> [B, K, h, w]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid_hw)


def to_map_size(maps: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """[B, K, h, w] -> [B, K, H, W], bilinear, corners aligned, as published."""
    return F.interpolate(maps, size=map_hw, mode="bilinear", align_corners=True)


def tapped_at_u(adapters: nn.ModuleList) -> None:
    """Freezes the second layers, which are unused and exist only because published checkpoints have them."""
    for adapter in adapters:
        adapter.fc2.requires_grad_(False)
