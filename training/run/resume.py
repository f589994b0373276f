"""resume.pt: the state that a killed run needs to continue. It is written completely or not at all.

It has no frozen weights, only their digest: the run loads them again as at its start.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsad_core.errors import WeightsError, some
from zsad_core.weights import read_torch_file, weights_digest
from zsad_core.whole_file import whole_file

RESUME = "resume.pt"


def changing_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict without the frozen parameters."""
    frozen = _frozen(module)
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


def load_changing_state(module: nn.Module, saved: dict[str, Tensor]) -> None:
    """Loads the result of `changing_state`.

    Raises:
        WeightsError: the state is from a module with other trained parameters.
    """
    expected = changing_state(module).keys()
    if saved.keys() != expected:
        raise WeightsError(
            f"{RESUME}: has other trained weights than this run: {some(sorted(saved.keys() ^ expected))}"
        )
    module.load_state_dict(saved, strict=False)


def frozen_digest(module: nn.Module) -> str:
    """The sha256 of the frozen parameters."""
    return weights_digest(dict(sorted(_frozen(module).items())))


def _frozen(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if not value.requires_grad}


def save_resume(path: Path, identity: str, contents: dict[str, Any]) -> None:
    """Writes `contents` and the identity of the run.

    Raises:
        WeightsError: the file cannot be written.
    """
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            torch.save({"config": identity, **contents}, file)
    except (RuntimeError, OSError) as error:  # a full disk: RuntimeError from torch, OSError from the system
        raise WeightsError(f"{path}: cannot be written: {str(error).splitlines()[0]}") from error


def load_resume(path: Path, identity: str) -> dict[str, Any] | None:
    """The contents that `save_resume` wrote, in host memory; None if there is no file.

    Raises:
        WeightsError: the file is damaged or not such a file.
        ValueError: the file is from a run with other settings.
    """
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = read_torch_file(path)
        found = saved["config"]
    except WeightsError as error:
        raise WeightsError(f"{error}\nRemove it to start again.") from error
    except (KeyError, TypeError) as error:
        raise WeightsError(f"{path}: not a file of this program. Remove it to start again.") from error
    if found != identity:
        raise ValueError(
            f"{path} is from a run with other settings or other frozen weights. Choose another --out, or remove it to "
            "start over."
        )
    return saved
