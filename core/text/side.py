"""The part of a trained head that turns text embeddings into prompt vectors, as a small separate file.

With this file in the bundle, a host can add products without the checkpoint. The device never reads it.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor

from zsad_core.config import StrictModel, validate
from zsad_core.errors import ConfigError, WeightsError
from zsad_core.heads import AdDinoV3, AvaDino, AvaDinoConfig, MatchingConfig
from zsad_core.weights import check_state

FORMAT = "zsad.text-side/1"
HEADS: dict[str, tuple[Any, Any]] = {  # name -> class, class of its config
    "AvaDino": (AvaDino, AvaDinoConfig),
    "AdDinoV3": (AdDinoV3, MatchingConfig),
}
_MODULES = ("text_projection.", "prompt_adapter.")
_UNUSED = ".fc2."  # only the first layer of a prompt adapter is used


class _Description(StrictModel):
    format: str
    head: str
    config: dict[str, Any]


def text_side_bytes(head: Any) -> bytes:
    """A safetensors file with the text side of `head`, one of `HEADS`, and the head's config."""
    config = head.config.model_dump(mode="json")
    description = _Description(format=FORMAT, head=type(head).__name__, config=config)
    # Only one key: safetensors writes several keys in random order, but the same head must give the same hash.
    return safetensors_torch.save(_text_state(head), {"text_side": description.model_dump_json()})


def load_text_side(data: bytes, source: str) -> Any:
    """The head in a file of `text_side_bytes`. Only `prompt_vectors` works: the other modules have no weights.

    Args:
        data: the file's content.
        source: its name in errors.

    Raises:
        WeightsError: not such a file, an unknown head, or tensors that do not fit its config.
    """
    try:
        state = safetensors_torch.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # `load` omits it
        description = _Description.model_validate_json(header["__metadata__"]["text_side"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{source}: not the text side of a head: {type(error).__name__}: {error}") from error
    if description.format != FORMAT or description.head not in HEADS:
        raise WeightsError(
            f"{source}: {description.format!r} of {description.head!r}; known: {FORMAT!r} of {', '.join(sorted(HEADS))}"
        )
    head_class, config_class = HEADS[description.head]
    try:
        config = validate(config_class, description.config, f"{source}: config")
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    with torch.device("meta"):  # allocates no memory; the visual side keeps no weights
        head = head_class(config)
    check_state(Path(source), _text_state(head), state)
    head.load_state_dict(state, strict=False, assign=True)
    return head.eval()


def _text_state(head: Any) -> dict[str, Tensor]:
    return {
        name: value.contiguous()
        for name, value in head.state_dict().items()
        if name.startswith(_MODULES) and _UNUSED not in name
    }
