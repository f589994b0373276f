"""Builds the detector at the start of a run, with new adapters or an earlier run's weights."""

import logging
import math
from pathlib import Path
from typing import Any

from zsad_core.backbones import BackboneConfig, build_backbone, plain_attention, take_size
from zsad_core.errors import WeightsError
from zsad_core.model import Detector, DetectorConfig, VisualAdOptions, load_checkpoint
from zsad_core.weights import check_state
from zsad_training.config import ModelSpec

logger = logging.getLogger(__name__)

PUBLISHED_POSITIONS = VisualAdOptions().max_positions  # size of VisualAD's table; larger inputs need more


def build_detector(spec: ModelSpec, *, text_dim: int, plain: bool) -> tuple[Detector, dict[str, Any] | None]:
    """(detector, record of the checkpoint that it starts from or None).

    With `spec.start`, all weights come from that checkpoint, at the run's input size.

    Args:
        spec: of the run.
        text_dim: T of the text encoder; any number for a method without text.
        plain: use no fused attention. Its backward pass is slow on a CPU.

    Raises:
        WeightsError: weights or checkpoint are missing or do not fit.
    """
    if spec.weights is None and not spec.pretrained and spec.start is None:
        logger.warning(
            "the backbone %s starts from RANDOM weights, so the detector will find next to nothing. "
            "Name a weights file with --weights, or download one with --pretrained.",
            spec.backbone,
        )
    config = BackboneConfig(
        name=spec.backbone,
        input_hw=spec.input_hw,
        taps=spec.taps,
        width=spec.width,
        bilinear_positions=spec.method == "visualad",
    )
    with plain_attention(plain):
        backbone = build_backbone(config, weights=spec.weights, pretrained=spec.pretrained)
    detector = Detector(
        DetectorConfig(
            method=spec.method,
            backbone=config,
            backbone_weights=backbone.weights_source,
            text_encoder=spec.text_encoder,
            text_dim=text_dim,
            hidden_dim=spec.hidden_dim,
            decoder=spec.decoder,
            map_stride=spec.map_stride,
            smaller_hw=spec.smaller_hw,
            visualad=VisualAdOptions(
                max_positions=max(PUBLISHED_POSITIONS, math.prod(backbone.grid_hw(spec.input_hw)))
            ),
            score=spec.score,
        ),
        backbone,
    )
    if spec.start is None:
        return detector, None
    return detector, _start_from(detector, spec.start)


def _start_from(detector: Detector, path: Path) -> dict[str, Any]:
    earlier = load_checkpoint(path)
    found, wanted = earlier.detector.config, detector.config
    if found.method != wanted.method:
        raise WeightsError(
            f"{path}: has the method {found.method}, the run {wanted.method}: set --method {found.method}"
        )
    if found.backbone.name.split(".")[0] != wanted.backbone.name.split(".")[0]:
        name = found.backbone.name
        raise WeightsError(f"{path}: has the backbone {name}, the run {wanted.backbone.name}: set --backbone {name}")
    taps, wanted_taps = earlier.detector.backbone.taps, detector.backbone.taps
    if taps != wanted_taps:
        raise WeightsError(f"{path}: has the taps {taps}, the run {wanted_taps}: use the same taps")
    if earlier.detector.needs_text and found.text_encoder != wanted.text_encoder:
        raise WeightsError(
            f"{path}: has the text encoder {found.text_encoder}, the run {wanted.text_encoder}: "
            f"set --text-encoder {found.text_encoder}"
        )
    take_size(earlier.detector.backbone, wanted.backbone.input_hw)
    state = earlier.detector.state_dict()
    check_state(path, detector.state_dict(), state)
    detector.load_state_dict(state)
    origin = earlier.detector.config.backbone_weights  # its licence applies, also if the run names other weights
    detector.config = detector.config.model_copy(update={"backbone_weights": origin})
    return earlier.record
