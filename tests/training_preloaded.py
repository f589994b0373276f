"""Imports of training, so that a forkserver has them in memory before it forks."""

from zsad_core.backbones import ensure_torchvision_imports

ensure_torchvision_imports()

import sentence_transformers  # noqa: F401
import small_distillation  # noqa: F401
import small_run  # noqa: F401

import zsad_training.distill
import zsad_training.train  # noqa: F401
