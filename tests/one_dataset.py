"""One data set as training reads it, its files not decoded."""

from pathlib import Path


def read_dataset(root: Path, **settings):
    from zsad_training.config import DatasetSpec
    from zsad_training.pictures import read_datasets

    return read_datasets([DatasetSpec(path=root, **settings)], check=False)
