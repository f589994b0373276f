"""resume.pt: all that a killed run needs to go on; written whole or not at all.

Frozen weights are not in it: the run has them from where it had them at its start. Their digest is.
"""

import hashlib
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from zsad_core.errors import WeightsError, some

RESUME = "resume.pt"


def changing_state(module: nn.Module) -> dict[str, Tensor]:
    """The entries of the state dict that training may change: all but frozen parameters."""
    frozen = _frozen(module)
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def load_changing_state(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Takes over what `changing_state` gave.

    Raises:
        WeightsError: it is of a module in which other parameters train.
    """
    expected = changing_state(module).keys()
    if saved.keys() != expected:
        raise WeightsError(
            f"{RESUME}: holds other weights than train in this run: {some(sorted(saved.keys() ^ expected))}"
        )
    module.load_state_dict(saved, strict=False)


def frozen_digest(module: nn.Module) -> str:
    """Of the frozen parameters, which the result depends on too."""
    digest = hashlib.sha256()
    for name, value in sorted(_frozen(module).items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _frozen(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if not value.requires_grad}


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
        raise ValueError(
            f"{path} is of a run with other settings or other frozen weights. Choose another --out, or remove it to "
            "start over."
        )
    return saved
