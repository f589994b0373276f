"""Loads published weights into a timm model, from files in timm's, Meta's, OpenAI's or open_clip's layout."""

import logging
import re
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from zsad_core.errors import WeightsError, some
from zsad_core.weights.file import OPENAI_CONSTANTS, check_state, read_state_dict
from zsad_core.weights.hub import fetch
from zsad_core.weights.licences import RANDOM, backbone_licence

logger = logging.getLogger(__name__)

_HEADS = ("head.", "head_dist.", "fc_norm.", "fc.", "classifier.")  # classifiers that weights files may contain
_TRANSFORMERS_NAME = re.compile(r"(^|\.)(embeddings|vision_model)\.")


def load_weights(model: Any, name: str, *, weights: Path | None, pretrained: bool) -> str:
    """Loads a local file, or with `pretrained` the hub's. Returns the file name, the repository or `random`.

    Logs the licence of DINOv3 weights, because it also applies to anyone who redistributes them.

    Raises:
        WeightsError: the weights are missing or do not fit.
    """
    if weights is not None:
        source = weights.name
        load_weights_file(model, name, weights)
    elif pretrained:
        source, file = _fetch(model, name)
        if "QuickGELU" in str(model.pretrained_cfg.get("notes")):  # timm lists such weights for both models
            _check_activation(model, name, source)
        load_weights_file(model, name, file)
    else:
        return RANDOM
    licence = backbone_licence(name, source)
    if licence and "DINOv3" in licence.licence:
        logger.warning("%s: %s (%s)", source, licence.licence, licence.source)
    return source


def load_weights_file(model: Any, name: str, path: Path) -> None:
    """Loads a file into a timm model, strictly: it must have every weight of the model, and only a classifier besides.

    The names of the tensors tell the layout: timm's own; Meta's DINOv2 and DINOv3; OpenAI's CLIP and open_clip's, whose
    image tower is used; efficientnet_lite_pytorch's. timm converts the names of all except the last. Position
    embeddings of another size, such as DINOv2's for 37 x 37 patches (518 px), are resampled to the model's grid, as in
    timm (bicubic, antialiased).

    Args:
        model: timm model without classifier.
        name: its timm name, for errors.
        path: the file; see `read_state_dict` for the kinds.

    Raises:
        WeightsError: unreadable, or it does not fit; the text names missing and surplus weights and wrong shapes.
    """
    state = read_state_dict(path)
    if all(key in state for key in OPENAI_CONSTANTS):
        _check_activation(model, name, path)
    state = _from_efficientnet_lite(_without_zero_biases(state, model, name, path), model)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        converted = convert(state, model) if convert else state
    except Exception as error:  # with a wrong file timm raises many kinds of errors
        raise WeightsError(f"{path}: weights do not fit {name}: {type(error).__name__}: {error}") from error
    if any(_TRANSFORMERS_NAME.search(key) for key in converted):
        raise WeightsError(
            f"{path}: weights do not fit {name}: they have the names of the transformers library: "
            f"{some(sorted(converted), 3)}. Use timm's file of this model, or its authors' original."
        )
    expected = model.state_dict()
    converted = {key: value for key, value in converted.items() if key in expected or not key.startswith(_HEADS)}
    check_state(path, expected, converted, model=name)
    model.load_state_dict(converted)


def _fetch(model: Any, name: str) -> tuple[str, Path]:
    """The hub repository of timm's weights for the model, and their file."""
    known: dict[str, Any] = model.pretrained_cfg
    repository = known.get("hf_hub_id")
    if not repository:
        raise WeightsError(f"{name}: timm knows no weights for it. Name a file with --weights.")
    filename = known.get("hf_hub_filename")
    filenames = (filename,) if filename else ("model.safetensors", "pytorch_model.bin")
    try:
        return repository, fetch(repository, filenames, name_it_with="--weights")
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error


def _check_activation(model: Any, name: str, source: Path | str) -> None:
    """Checks for QuickGELU, which OpenAI's CLIP needs: with GELU the tokens are slightly wrong, without an error."""
    if not any(type(module).__name__ == "QuickGELU" for module in model.modules()):
        named = re.sub(r"_clip_(\d)", r"_clip_quickgelu_\1", name.split(".")[0])
        raise WeightsError(f"{source}: OpenAI's weights need QuickGELU, which {name} lacks. Use --backbone {named}.")


def _without_zero_biases(state: dict[str, Tensor], model: Any, name: str, path: Path) -> dict[str, Tensor]:
    """The state without the query, key and value biases of Meta's DINOv3, which are 0 in most models (keys: masked).

    timm builds these models without the biases, and with them as NAME_qkvb.
    """
    if "storage_tokens" not in state or any(key.endswith("attn.q_bias") for key in model.state_dict()):
        return state
    kept = {}
    for key, value in state.items():
        if not key.endswith("attn.qkv.bias"):
            kept[key] = value
            continue
        query, _, values = value.chunk(3)
        if max(query.abs().max(), values.abs().max()) > 1e-6:
            raise WeightsError(
                f"{path}: {key} is not 0, and {name} has no such bias. Use --backbone {name.split('.')[0]}_qkvb."
            )
    return kept


_LITE_PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_BLOCK = {
    **{"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"},
    **{"_project_conv": "conv_pwl", "_bn2": "bn3"},
}


def _from_efficientnet_lite(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Renames tensors of efficientnet_lite_pytorch, which numbers blocks across stages; other states stay unchanged."""
    if "_blocks.0._depthwise_conv.weight" not in state or not hasattr(model, "conv_stem"):
        return state
    places = [f"blocks.{stage}.{index}" for stage, blocks in enumerate(model.blocks) for index in range(len(blocks))]
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part == "_blocks":
            number, layer, leaf = rest.split(".")
            place = places[int(number)] if int(number) < len(places) else f"blocks.surplus.{number}"
            names = _LITE_FIRST if f"_blocks.{number}._expand_conv.weight" not in state else _LITE_BLOCK
            renamed[f"{place}.{names[layer]}.{leaf}"] = value
        else:
            renamed[f"{_LITE_PARTS[part]}.{rest}"] = value
    return renamed
