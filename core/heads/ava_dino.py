"""AVA-DINO (arXiv 2605.12069): two adapters per tap, weighted by text, and matched with text in the token space."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.bundle import ANOMALOUS, NORMAL
from zsad_core.heads.matching import Adapted, Adapter, MatchingConfig, MatchingHead, Width

ROUTING = 0  # index on axis K of the prompt vectors [B, K, 2, M]


class AvaDinoConfig(MatchingConfig):
    hidden_dim: Width = 768  # of the visual adapters; 768 in the paper
    routing_temperature: Annotated[float, Field(gt=0)] = 0.1


class AvaDino(MatchingHead):
    """Per tap a normal and an anomalous adapter for class and for patch tokens; the class token sets their weights.

    The output of an adapter's second layer is added to its input. Text is projected to the tokens' width D.
    """

    def __init__(self, config: AvaDinoConfig) -> None:
        super().__init__(config)
        self.config = config

        def adapters() -> nn.ModuleList:
            return nn.ModuleList(Adapter(config.embed_dim, config.hidden_dim) for _ in range(config.num_taps))

        self.cls_token_adapter_normal = adapters()
        self.cls_token_adapter_anomaly = adapters()
        self.patch_token_adapter_normal = adapters()
        self.patch_token_adapter_anomaly = adapters()
        self.text_projection = nn.Linear(config.text_dim, config.embed_dim, bias=False)

    def prompt_vectors(self, text: Tensor) -> Tensor:
        """[B, T, 2] -> [B, 2, 2, D]: (routing, matching) x (normal, anomalous).

        Routing vectors are the raw text, projected and normalised. Matching vectors are the adapted text, projected and
        not normalised.
        """
        routing = F.normalize(self.text_projection(text.transpose(1, 2)), dim=-1)  # [B, 2, D]
        return torch.stack([routing, self.text_projection(self.adapted_text(text))], dim=1)

    def adapt(self, tap: int, cls_token: Tensor, patch_tokens: Tensor, prompts: Tensor) -> Adapted:
        """Passes one tap's tokens through its two pairs of adapters; see `MatchingHead.adapt`."""
        cosine = (F.normalize(cls_token, dim=-1).unsqueeze(1) * prompts[:, ROUTING]).sum(dim=-1)  # [B, 2]
        weights = torch.softmax(cosine / self.config.routing_temperature, dim=-1)
        w_n, w_a = weights[:, NORMAL, None], weights[:, ANOMALOUS, None]  # [B, 1]
        _, cls_n = self.cls_token_adapter_normal[tap](cls_token)
        _, cls_a = self.cls_token_adapter_anomaly[tap](cls_token)
        _, patch_n = self.patch_token_adapter_normal[tap](patch_tokens)
        _, patch_a = self.patch_token_adapter_anomaly[tap](patch_tokens)
        return Adapted(
            cls_token=F.normalize(w_n * cls_n + w_a * cls_a + cls_token, dim=-1),
            patch_tokens=F.normalize(w_n[..., None] * patch_n + w_a[..., None] * patch_a + patch_tokens, dim=-1),
            routing=weights,
        )
