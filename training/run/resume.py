"""resume.pt: all that a killed run needs to go on; written whole or not at all."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from zsad_core.errors import WeightsError

RESUME = "resume.pt"


def save_resume(path: Path, identity: str, contents: dict[str, Any]) -> None:
    """Writes `contents` and the identity of the run's settings.

    Raises:
        WeightsError: the file cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            torch.save({"config": identity, **contents}, file)
            file.flush()
            os.fsync(file.fileno())
    except (RuntimeError, OSError) as error:  # torch's word for a full disk, and the system's
        raise WeightsError(f"{partial}: cannot be written: {str(error).splitlines()[0]}") from error
    partial.replace(path)


def load_resume(path: Path, identity: str) -> dict[str, Any] | None:
    """What `save_resume` wrote, in host memory; None where there is no file.

    Raises:
        WeightsError: it is cut or foreign.
        ValueError: it is of a run with other settings.
    """
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found = saved["config"]
    except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: cannot be read, it is cut or foreign. Remove it to start over.") from error
    if found != identity:
        raise ValueError(f"{path} is of a run with other settings. Choose another --out, or remove it to start over.")
    return saved
