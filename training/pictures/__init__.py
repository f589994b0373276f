"""Training pictures: sampling, synthetic anomalies, the validation part, checks of the data.

May import `config`.
"""

from zsad_training.pictures.data_check import check_samples, read_datasets
from zsad_training.pictures.holdout import at_most, split
from zsad_training.pictures.sampler import (
    Batch,
    Item,
    Texture,
    TrainingPictures,
    collate,
    find_textures,
    flip_and_turn,
    random_crop,
    resize_mask,
)
from zsad_training.pictures.synthesis import MIN_AREA_PX, photometric

__all__ = [
    "MIN_AREA_PX",
    "Batch",
    "Item",
    "Texture",
    "TrainingPictures",
    "at_most",
    "check_samples",
    "collate",
    "find_textures",
    "flip_and_turn",
    "photometric",
    "random_crop",
    "read_datasets",
    "resize_mask",
    "split",
]
