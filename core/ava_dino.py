"""AVA-DINO (arXiv 2605.12069): dual adapters per tap, routed by text, matched with text.

Names of parameters are those of the published checkpoints. Quirks of the published code that its checkpoints depend
on are behind `AvaDinoConfig.interleave_text`.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.config import StrictModel
from zsad_core.prompts import ANOMALOUS, NORMAL

ROUTING, MATCHING = 0, 1  # first class axis of prompt vectors

Width = Annotated[int, Field(ge=1)]


class AvaDinoConfig(StrictModel):
    embed_dim: Width
    text_dim: Width
    num_taps: Width
    hidden_dim: Width = 768  # of the visual adapters; the paper's is 768
    routing_temperature: Annotated[float, Field(gt=0)] = 0.1
    # The published code concatenates the two adapted text vectors and views the 2T numbers as [T, 2], which mixes
    # them. True reproduces it for published checkpoints; ours are trained stacked.
    interleave_text: bool = False


@dataclass(frozen=True, kw_only=True)
class AvaDinoOutput:
    routing: Tensor  # [B, 2] weights of (normal, anomalous), mean over taps
    awareness: Tensor  # [B, 2, H, W] probabilities; trained, not scored
    cross_modal: Tensor  # [B, 2, H, W] probabilities; the anomalous channel is the anomaly map
    global_score: Tensor  # [B, 2] logits


class Adapter(nn.Module):
    """Two bias-free layers; gives both outputs (u [..., hidden], v [..., in])."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Sequential(nn.Linear(in_dim, hidden_dim, bias=False), nn.LeakyReLU())
        self.fc2 = nn.Sequential(nn.Linear(hidden_dim, in_dim, bias=False), nn.LeakyReLU())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = self.fc1(x)
        return u, self.fc2(u)


class AvaDino(nn.Module):
    """The trainable part: tokens and text in, maps and scores out."""

    def __init__(self, config: AvaDinoConfig) -> None:
        super().__init__()
        self.config = config

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(Adapter(config.embed_dim, config.hidden_dim) for _ in range(config.num_taps))

        self.cls_token_adapter_normal = adapters()
        self.cls_token_adapter_anomaly = adapters()
        self.patch_token_adapter_normal = adapters()
        self.patch_token_adapter_anomaly = adapters()
        self.prompt_adapter = nn.ModuleList(Adapter(config.text_dim, config.text_dim) for _ in range(2))
        self.text_projection = nn.Linear(config.text_dim, config.embed_dim, bias=False)
        for adapter in self.prompt_adapter:  # tapped at u: the published layout has fc2, nothing uses it
            adapter.fc2.requires_grad_(False)

    def prompt_vectors(self, text: Tensor) -> Tensor:
        """[B, T, 2] text embeddings -> [B, 2, 2, D]: (routing, matching) x (normal, anomalous).

        Routing anchors are the raw text projected and normalised; matching vectors the adapted text projected, not
        normalised. This is all that the visual side needs of the text, so the device gets it precomputed.
        """
        normal, anomalous = text[..., NORMAL], text[..., ANOMALOUS]  # [B, T]
        routing = F.normalize(self.text_projection(text.transpose(1, 2)), dim=-1)  # [B, 2, D]
        adapted_n, _ = self.prompt_adapter[NORMAL](normal)
        adapted_a, _ = self.prompt_adapter[ANOMALOUS](anomalous)
        if self.config.interleave_text:
            flat = torch.cat([adapted_n, adapted_a], dim=-1)  # [B, 2T]
            adapted = flat.view(flat.shape[0], -1, 2).transpose(1, 2)  # [B, 2, T]
        else:
            adapted = torch.stack([adapted_n, adapted_a], dim=1)  # [B, 2, T]
        return torch.stack([routing, self.text_projection(adapted)], dim=1)

    def adapt(
        self, tap: int, cls_token: Tensor, patch_tokens: Tensor, prompts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Routes one tap's tokens through its adapters.

        Args:
            tap: index of the tap, from 0.
            cls_token: [B, D].
            patch_tokens: [B, N, D], standardised.
            prompts: [B, 2, 2, D] of `prompt_vectors`.

        Returns:
            routing weights [B, 2], adapted class token [B, D], adapted patch tokens [B, N, D]; tokens of norm 1.
        """
        cosine = (F.normalize(cls_token, dim=-1).unsqueeze(1) * prompts[:, ROUTING]).sum(dim=-1)  # [B, 2]
        weights = torch.softmax(cosine / self.config.routing_temperature, dim=-1)
        w_n, w_a = weights[:, NORMAL, None], weights[:, ANOMALOUS, None]  # [B, 1]
        _, cls_n = self.cls_token_adapter_normal[tap](cls_token)
        _, cls_a = self.cls_token_adapter_anomaly[tap](cls_token)
        _, patch_n = self.patch_token_adapter_normal[tap](patch_tokens)
        _, patch_a = self.patch_token_adapter_anomaly[tap](patch_tokens)
        adapted_cls = F.normalize(w_n * cls_n + w_a * cls_a + cls_token, dim=-1)
        adapted_patches = F.normalize(w_n[..., None] * patch_n + w_a[..., None] * patch_a + patch_tokens, dim=-1)
        return weights, adapted_cls, adapted_patches

    def cross_modal_logits(self, adapted_patches: Tensor, prompts: Tensor, grid_hw: tuple[int, int]) -> Tensor:
        """[B, 2, h, w]: 100 times the match of every patch with the normal and the anomalous vector."""
        logits = 100.0 * adapted_patches @ prompts[:, MATCHING].transpose(1, 2)  # [B, N, 2]
        return to_grid(logits, grid_hw)

    def forward(
        self,
        cls_tokens: list[Tensor],
        patch_tokens: list[Tensor],
        text: Tensor,
        *,
        grid_hw: tuple[int, int],
        map_hw: tuple[int, int],
    ) -> AvaDinoOutput:
        """The four outputs of the paper.

        Args:
            cls_tokens: L tensors [B, D].
            patch_tokens: L tensors [B, N, D], standardised per image and channel.
            text: [B, T, 2], unit norm over T, (normal, anomalous).
            grid_hw: patch grid, h * w = N.
            map_hw: size of the maps, pixels; the paper's is the input size.
        """
        prompts = self.prompt_vectors(text)
        routing, awareness, cross_modal, global_score = [], [], [], []
        for tap, (cls_token, patches) in enumerate(zip(cls_tokens, patch_tokens, strict=True)):
            weights, adapted_cls, adapted_patches = self.adapt(tap, cls_token, patches, prompts)
            routing.append(weights)
            logits = self.cross_modal_logits(adapted_patches, prompts, grid_hw)
            cross_modal.append(torch.softmax(enlarge(logits, map_hw), dim=1))
            aware = to_grid(10.0 * adapted_patches @ adapted_cls.unsqueeze(-1), grid_hw)  # [B, 1, h, w]
            awareness.append(torch.sigmoid(enlarge(aware, map_hw)))
            global_score.append(100.0 * (adapted_cls.unsqueeze(1) * prompts[:, MATCHING]).sum(dim=-1))
        aware_map = torch.stack(awareness).mean(dim=0)
        return AvaDinoOutput(
            routing=torch.stack(routing).mean(dim=0),
            awareness=torch.cat([1 - aware_map, aware_map], dim=1),
            cross_modal=torch.stack(cross_modal).mean(dim=0),
            global_score=torch.stack(global_score).mean(dim=0),
        )


def to_grid(tokens: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """[B, N, K] -> [B, K, h, w]."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], *grid_hw)


def enlarge(maps: Tensor, map_hw: tuple[int, int]) -> Tensor:
    """[B, K, h, w] -> [B, K, H, W], bilinear, corners aligned as published."""
    return F.interpolate(maps, size=map_hw, mode="bilinear", align_corners=True)
