"""One training run and the protocols made of several: trainer, objective, processes, resume, log, cached features.

May import `measure`, `pictures`, `config`.
"""

from zsad_training.run.build import build_detector
from zsad_training.run.devices import autocast, pick_device
from zsad_training.run.feature_cache import FeatureCache
from zsad_training.run.objective import stacked_text, target_of
from zsad_training.run.processes import Processes, join_processes
from zsad_training.run.protocol import Protocol, Run, plan
from zsad_training.run.run_log import RunLog
from zsad_training.run.trainer import Trainer

__all__ = [
    "FeatureCache",
    "Processes",
    "Protocol",
    "Run",
    "RunLog",
    "Trainer",
    "autocast",
    "build_detector",
    "join_processes",
    "pick_device",
    "plan",
    "stacked_text",
    "target_of",
]
