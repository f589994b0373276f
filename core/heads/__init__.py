"""The trained part of each method: matching, AVA-DINO, AD-DINOv3, VisualAD, decoder, losses, scoring. Needs torch.

May import `backbones`, `bundle` and the top of core.
"""

from zsad_core.heads.ad_dinov3 import AdDinoV3
from zsad_core.heads.ava_dino import AvaDino, AvaDinoConfig
from zsad_core.heads.decoder import Decoder, DecoderConfig, SelfDistances, enlarge
from zsad_core.heads.losses import Target, scaled
from zsad_core.heads.matching import MATCHING, MatchingConfig, MatchingLoss, Tokens, match
from zsad_core.heads.scoring import MapStride, ScoreConfig, anomaly_score, top_mean
from zsad_core.heads.visualad import (
    POSITIONS,
    TOP_FRACTION,
    InsertedTokens,
    VisualAd,
    VisualAdConfig,
    VisualAdLoss,
    VisualAdOptions,
    VisualAdOutput,
)

__all__ = [
    "MATCHING",
    "POSITIONS",
    "TOP_FRACTION",
    "AdDinoV3",
    "AvaDino",
    "AvaDinoConfig",
    "Decoder",
    "DecoderConfig",
    "InsertedTokens",
    "MapStride",
    "MatchingConfig",
    "MatchingLoss",
    "ScoreConfig",
    "SelfDistances",
    "Target",
    "Tokens",
    "VisualAd",
    "VisualAdConfig",
    "VisualAdLoss",
    "VisualAdOptions",
    "VisualAdOutput",
    "anomaly_score",
    "enlarge",
    "match",
    "scaled",
    "top_mean",
]
