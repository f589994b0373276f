"""A whole detector: backbone and head, its checkpoint, and the authors' published checkpoints. Needs torch.

May import `heads`, `backbones`, `weights` and the top of core.
"""

from zsad_core.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zsad_core.model.detector import Detector, DetectorConfig, DeviceGraph, VisualAdOptions, check_smaller
from zsad_core.model.published import TextFacts, VisualAdFacts
from zsad_core.model.published_detector import (
    PAPERS_BACKBONE,
    PAPERS_TEXT_ENCODER,
    add_checkpoint_flags,
    add_published_flags,
    chosen_checkpoint,
    published_checkpoint,
)

__all__ = [
    "PAPERS_BACKBONE",
    "PAPERS_TEXT_ENCODER",
    "Checkpoint",
    "Detector",
    "DetectorConfig",
    "DeviceGraph",
    "TextFacts",
    "VisualAdFacts",
    "VisualAdOptions",
    "add_checkpoint_flags",
    "add_published_flags",
    "check_smaller",
    "chosen_checkpoint",
    "load_checkpoint",
    "published_checkpoint",
    "save_checkpoint",
]
