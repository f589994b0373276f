"""Distillation: a small student learns the maps and scores of its teacher.

May import `run`, `measure`, `pictures`, `config`.
"""

from zsad_training.distil.config import DistilConfig, FolderSpec
from zsad_training.distil.objective import DistilObjective
from zsad_training.distil.pictures import DistilBatch, DistilPictures, collate_distil, read_unlabelled
from zsad_training.distil.settings import load_teacher, parser, read_distil_config
from zsad_training.distil.table import comparison, kept_rows
from zsad_training.distil.teacher import KeptAnswers, Layout, Teacher

__all__ = [
    "DistilBatch",
    "DistilConfig",
    "DistilObjective",
    "DistilPictures",
    "FolderSpec",
    "KeptAnswers",
    "Layout",
    "Teacher",
    "collate_distil",
    "comparison",
    "kept_rows",
    "load_teacher",
    "parser",
    "read_distil_config",
    "read_unlabelled",
]
