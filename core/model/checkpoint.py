"""A trained detector in one safetensors file, without pickle: weights, config, and the text embeddings of training."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zsad_core.backbones import build_backbone
from zsad_core.config import validate
from zsad_core.errors import ConfigError, WeightsError
from zsad_core.model.detector import Detector, DetectorConfig
from zsad_core.weights import check_state
from zsad_core.whole_file import whole_file

FORMAT = "zsad.checkpoint/1"
_TEXT = "text."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    detector: Detector  # in eval mode
    text_embeddings: dict[str, np.ndarray]  # product -> float32 [T, 2], unit norm over T
    record: dict[str, Any]  # how it was trained: command, seed, data sets, threshold, licences


def save_checkpoint(
    path: Path, detector: Detector, text_embeddings: dict[str, np.ndarray], record: dict[str, Any]
) -> None:
    """Writes the complete file or nothing.

    Raises:
        WeightsError: the file cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in detector.state_dict().items()}
    tensors |= {_TEXT + name: torch.tensor(value) for name, value in text_embeddings.items()}
    metadata = {"format": FORMAT, "config": detector.config.model_dump_json(), "record": json.dumps(record)}
    try:
        with whole_file(path) as partial:
            save_file(tensors, partial, metadata=metadata)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be written: {error}") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a file of `save_checkpoint`.

    Raises:
        WeightsError: missing, truncated, not such a checkpoint, or its tensors do not fit its config; the text names
            missing and surplus keys and wrong shapes.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint. `python training/train.py` makes one.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: not a readable safetensors file, or truncated: {error}") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}: not a checkpoint of this trainer"
        )
    try:
        config = validate(DetectorConfig, json.loads(metadata["config"]), f"{path}: config")
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    detector = Detector(config, build_backbone(config.backbone))
    state = {name: value for name, value in tensors.items() if not name.startswith(_TEXT)}
    check_state(path, detector.state_dict(), state)
    detector.load_state_dict(state)
    text = {name.removeprefix(_TEXT): value.numpy() for name, value in tensors.items() if name.startswith(_TEXT)}
    return Checkpoint(detector=detector.eval(), text_embeddings=text, record=json.loads(metadata["record"]))
