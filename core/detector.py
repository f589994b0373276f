"""Backbone, AVA-DINO head and scoring as one model; and its view as the graph that a device runs."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from zsad_core.ava_dino import AvaDino, AvaDinoConfig, AvaDinoOutput, enlarge
from zsad_core.backbone import Backbone, BackboneConfig, standardise_patches
from zsad_core.config import StrictModel
from zsad_core.preprocess import Normalise
from zsad_core.prompts import ANOMALOUS
from zsad_core.scoring import ScoreConfig, anomaly_score


class DetectorConfig(StrictModel):
    """All that is needed to build the model again; saved in every checkpoint."""

    backbone: BackboneConfig = BackboneConfig()
    backbone_weights: str = "random"  # what the backbone started from, for the record
    text_encoder: str = "minilm"
    text_dim: Annotated[int, Field(ge=1)] = 384
    hidden_dim: Annotated[int, Field(ge=1)] = 768
    interleave_text: bool = False
    score: ScoreConfig = ScoreConfig()


class Detector(nn.Module):
    """uint8 BGR pictures and text embeddings in; AVA-DINO's outputs, maps and scores out."""

    def __init__(self, config: DetectorConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.normalise = Normalise(backbone.mean, backbone.std)
        self.backbone = backbone
        self.head = AvaDino(
            AvaDinoConfig(
                embed_dim=backbone.embed_dim,
                text_dim=config.text_dim,
                num_taps=len(backbone.taps),
                hidden_dim=config.hidden_dim,
                interleave_text=config.interleave_text,
            )
        )

    def tokens(self, images_bgr: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """uint8 [B, H, W, 3] -> class tokens L x [B, D] and standardised patch tokens L x [B, N, D], float32."""
        cls_tokens, patch_tokens = self.backbone(self.normalise(images_bgr))
        return [token.float() for token in cls_tokens], [
            standardise_patches(patches.float()) for patches in patch_tokens
        ]

    def forward(self, images_bgr: Tensor, text: Tensor, *, map_hw: tuple[int, int] | None = None) -> AvaDinoOutput:
        """AVA-DINO's outputs.

        Args:
            images_bgr: uint8 [B, H, W, 3]; H, W multiples of the patch size.
            text: [B, T, 2].
            map_hw: size of the maps; None is the picture's.
        """
        input_hw = (images_bgr.shape[1], images_bgr.shape[2])
        cls_tokens, patch_tokens = self.tokens(images_bgr)
        return self.head(
            cls_tokens, patch_tokens, text, grid_hw=self.backbone.grid_hw(input_hw), map_hw=map_hw or input_hw
        )

    def anomaly_map(self, images_bgr: Tensor, prompts: Tensor) -> Tensor:
        """The cross-modal map's anomalous channel, [B, H, W] in [0, 1].

        Args:
            images_bgr: uint8 [B, H, W, 3].
            prompts: [B, 2, 2, D], of `AvaDino.prompt_vectors`.
        """
        input_hw = (int(images_bgr.shape[1]), int(images_bgr.shape[2]))
        grid_hw = self.backbone.grid_hw(input_hw)
        maps = []
        for tap, (cls_token, patches) in enumerate(zip(*self.tokens(images_bgr), strict=True)):
            _, _, adapted_patches = self.head.adapt(tap, cls_token, patches, prompts)
            logits = enlarge(self.head.cross_modal_logits(adapted_patches, prompts, grid_hw), input_hw)
            maps.append(torch.softmax(logits / self.config.score.temperature, dim=1)[:, ANOMALOUS])
        return torch.stack(maps).mean(dim=0)

    def predict(self, images_bgr: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps [B, H, W] and anomaly scores [B], both in [0, 1]; `text` is [B, T, 2]."""
        anomaly_map = self.anomaly_map(images_bgr, self.head.prompt_vectors(text))
        return anomaly_map, anomaly_score(anomaly_map, self.config.score)


class DeviceGraph(nn.Module):
    """The detector as exported: one picture, prompt vectors instead of text, no outputs that do not score.

    Inputs: `image` uint8 [1, H, W, 3] BGR; `prompt` float32 [2, 2, D] = (routing, matching) x (normal, anomalous).
    Outputs: `anomaly_map` [1, H, W] and `anomaly_score` [1], as `Detector.predict` gives them.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, prompt: Tensor) -> tuple[Tensor, Tensor]:
        anomaly_map = self.detector.anomaly_map(image, prompt.unsqueeze(0))
        return anomaly_map, anomaly_score(anomaly_map, self.detector.config.score)
