"""Reads the authors' published checkpoints of AVA-DINO, AD-DINOv3 and VisualAD into state dicts for our modules.

They are torch pickles and are read with `weights_only`: a file that would run code is refused. Each layout is a table
of symbolic shapes. The majority of the file's tensors sets the size of each symbol, so the error names the wrong
tensor.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsad_core.errors import WeightsError
from zsad_core.heads import POSITIONS, VisualAdConfig
from zsad_core.methods import Method
from zsad_core.weights import check_state, read_torch_file

Layout = dict[str, tuple[str | int, ...]]  # flattened key -> size of each axis; a name if the file sets the size

# Entries beside the weights; True: the layout always has it.
ENTRIES: dict[str, dict[str, bool]] = {
    "ava_dino": {"epoch": False},
    "ad_dinov3": {"epoch": False},
    "visualad": {
        "features_list": True,
        "image_size": True,
        "backbone": True,
        "cross_attn_config": True,
        "epoch": False,
        "token_insert_layer": False,
        "transform_type": False,
    },
}
# authors' backbone name -> timm name
TIMM_NAMES = {
    "ViT-B/32": "vit_base_patch32_clip_quickgelu_224.openai",
    "ViT-B/16": "vit_base_patch16_clip_quickgelu_224.openai",
    "ViT-L/14": "vit_large_patch14_clip_quickgelu_224.openai",
    "ViT-L/14@336px": "vit_large_patch14_clip_quickgelu_336.openai",
    "dinov2_vits14": "vit_small_patch14_dinov2",
    "dinov2_vitb14": "vit_base_patch14_dinov2",
    "dinov2_vitl14": "vit_large_patch14_dinov2",
}
TAPS = (6, 12, 18, 24)  # of ViT-L; the default for a file that does not name its taps


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """The facts about the model in a file of AVA-DINO or AD-DINOv3."""

    embed_dim: int
    text_dim: int
    hidden_dim: int  # of the visual adapters
    num_taps: int  # the file does not name the blocks; the papers use 6, 12, 18, 24 of 24
    interleave_text: bool = True  # both methods were trained with mixed text vectors
    recorded: dict[str, Any]  # the file's entries beside the weights, unchanged


@dataclass(frozen=True, kw_only=True)
class VisualAdFacts:
    """The facts about the model in a file of VisualAD."""

    config: VisualAdConfig
    taps: tuple[int, ...]  # 1-based blocks
    image_size: int  # pixels, square
    backbone: str  # the authors' name
    timm_name: str | None  # None: no known timm model for this name
    recorded: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Published:
    method: Method
    state: dict[str, Tensor]  # float32, for `AvaDino`, `AdDinoV3` or `VisualAd` (without its positions)
    norm: dict[str, Tensor]  # `weight`, `bias` for the backbone's final norm; empty: the norm is not replaced
    facts: TextFacts | VisualAdFacts

    def load_into(self, head: nn.Module) -> None:
        """Loads `state`, strictly except for VisualAD's positions, which come from the backbone (`VisualAd.place`).

        Raises:
            WeightsError: the head belongs to another method or has other sizes.
        """
        own = head.state_dict()
        state = self.state | {name: own[name] for name in POSITIONS if name in own}
        check_state(Path(f"published {self.method}"), own, state)
        head.load_state_dict(state)


def load_published(method: Method, path: Path, *, restore_norm: bool = False) -> Published:
    """Reads a published checkpoint.

    Args:
        method: the method of the file.
        path: the authors' `.pth`.
        restore_norm: VisualAD only: also return its trained final norm. The training changes the norm, but the test
            script that was published with the paper does not load it, so the paper's numbers come without it. (A later
            revision of the script loads it.)

    Raises:
        WeightsError: missing, truncated, with objects other than tensors and plain values, or of another layout; the
            text names missing and surplus keys and wrong shapes.
    """
    if restore_norm and method != "visualad":
        raise ValueError(f"{method}: restore_norm is only for VisualAD")
    content = _read(path)
    entries = {name: content[name] for name in ENTRIES[method] if name in content}
    found = dict(_flattened({name: value for name, value in content.items() if name not in entries}))
    taps = _taps(method, path, entries, found)
    layout = _visualad_layout(taps) if method == "visualad" else _text_layout(method, len(taps))
    sizes = _settled(layout, found)
    expected = {key: torch.empty([sizes.get(axis, 0) for axis in axes], device="meta") for key, axes in layout.items()}
    present = {name: torch.empty(0) for name in entries}  # so one error names missing entries and tensors
    required = {name: torch.empty(0) for name, needed in ENTRIES[method].items() if needed or name in entries}
    check_state(
        path, _collapsed(expected | required, found | present), _collapsed(found | present, expected | required)
    )
    state = {key: value.float() for key, value in found.items()}
    if method == "visualad":
        return _visualad(path, state, sizes, taps, entries, restore_norm=restore_norm)
    facts = TextFacts(
        embed_dim=sizes["D"],
        text_dim=sizes["T"],
        hidden_dim=sizes["H" if method == "ava_dino" else "T"],
        num_taps=len(taps),
        recorded=entries,
    )
    return Published(method=method, state=state, norm={}, facts=facts)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint. Fetch it from the method's authors.")
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, expected a dict of the method's modules")
    return content


def _flattened(content: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Nested state dicts with dotted keys, without DataParallel's `module.`; other values become empty tensors."""
    for name, value in content.items():
        key = prefix + str(name).removeprefix("module.")
        if isinstance(value, dict):
            yield from _flattened(value, f"{key}.")
        else:
            yield key, value if isinstance(value, Tensor) else torch.empty(0)


def _collapsed(tensors: dict[str, Tensor], other: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replaces all keys of a module that `other` lacks by the module's name, to keep the error short."""
    modules = {key.partition(".")[0] for key in other}
    return {key if (module := key.partition(".")[0]) in modules else module: value for key, value in tensors.items()}


def _taps(method: str, path: Path, entries: dict[str, Any], found: dict[str, Tensor]) -> tuple[int, ...]:
    """The tapped blocks, numbered from 1."""
    if method != "visualad":  # the file only tells how many there are
        numbers = [key.split(".")[1] for key in found if "_token_adapter" in key and key.count(".") > 1]
        known = [int(number) for number in numbers if number.isdecimal() and len(number) < 3]
        return tuple(range(1, max(known, default=len(TAPS) - 1) + 2))
    taps = entries.get("features_list", TAPS)
    if not isinstance(taps, list | tuple) or not taps or not all(type(tap) is int and tap > 0 for tap in taps):
        raise WeightsError(f"{path}: features_list is {taps!r}, expected block numbers such as {list(TAPS)}")
    return tuple(taps)


def _text_layout(method: str, taps: int) -> Layout:
    """The layout of AVA-DINO and AD-DINOv3: adapters with two layers without bias."""
    kinds = ("_normal", "_anomaly") if method == "ava_dino" else ("",)
    hidden = "H" if method == "ava_dino" else "T"  # AD-DINOv3 matches the hidden output with the text
    layout: Layout = {}
    for module in (f"{token}_token_adapter{kind}" for token in ("cls", "patch") for kind in kinds):
        for tap in range(taps):
            layout[f"{module}.{tap}.fc1.0.weight"] = (hidden, "D")
            layout[f"{module}.{tap}.fc2.0.weight"] = ("D", hidden)
    for index in range(2):
        layout |= {f"prompt_adapter.{index}.{layer}.0.weight": ("T", "T") for layer in ("fc1", "fc2")}
    if method == "ava_dino":
        layout["text_projection.weight"] = ("D", "T")
    return layout


def _visualad_layout(taps: tuple[int, ...]) -> Layout:
    layout: Layout = dict.fromkeys(("anomaly_token", "normal_token", "ln_post_weight", "ln_post_bias"), ("D",))
    for tap in taps:
        attention, transform = f"cross_attn.layer_attentions.layer_{tap}.", f"layer_transforms.layer_{tap}."
        layout |= {
            attention + "anchor_queries": ("A", "D"),
            attention + "pos_encoding": (1, "M", "D"),
            attention + "res_scale": (1,),
            attention + "gate.0.weight": ("A", "D"),
            attention + "gate.0.bias": ("A",),
            attention + "out_proj.bias": ("D",),
        }
        layout |= {f"{attention}{name}_proj.weight": ("D", "D") for name in ("q", "k", "v", "out")}
        layout |= {f"{attention}{name}_norm.{part}": ("D",) for name in "qk" for part in ("weight", "bias")}
        for layer in (0, 3):
            layout |= {f"{transform}mlp.{layer}.weight": ("D", "D"), f"{transform}mlp.{layer}.bias": ("D",)}
    return layout


def _settled(layout: Layout, found: dict[str, Tensor]) -> dict[str | int, int]:
    """Axis -> its size: for a number the number, for a name the size in most of the file's tensors."""
    votes: dict[str | int, Counter[int]] = {axis: Counter() for axes in layout.values() for axis in axes}
    for key, axes in layout.items():
        if key in found and found[key].ndim == len(axes):
            for axis, size in zip(axes, found[key].shape, strict=True):
                votes[axis][size] += 1
    sizes = {axis: counter.most_common(1)[0][0] for axis, counter in votes.items() if counter}
    return sizes | {axis: axis for axis in votes if isinstance(axis, int)}


def _visualad(
    path: Path,
    found: dict[str, Tensor],
    sizes: dict[str | int, int],
    taps: tuple[int, ...],
    entries: dict[str, Any],
    *,
    restore_norm: bool,
) -> Published:
    dropout = _settings(path, entries, sizes)
    norm = {part: found.pop(f"ln_post_{part}") for part in ("weight", "bias")}
    state = {}
    for key, value in found.items():
        key = key.replace("layer_attentions.", "")
        for index, tap in enumerate(taps):
            key = key.replace(f".layer_{tap}.", f".{index}.")
        state[key] = value
    facts = VisualAdFacts(
        config=VisualAdConfig(
            embed_dim=sizes["D"],
            num_taps=len(taps),
            anchors=sizes["A"],
            max_positions=sizes["M"],
            dropout=dropout,
        ),
        taps=taps,
        image_size=entries["image_size"],
        backbone=entries["backbone"],
        timm_name=TIMM_NAMES.get(entries["backbone"]),
        recorded=entries,
    )
    return Published(method="visualad", state=state, norm=norm if restore_norm else {}, facts=facts)


def _settings(path: Path, entries: dict[str, Any], sizes: dict[str | int, int]) -> float:
    """Checks the entries beside the weights and returns the dropout of training."""
    attention = entries["cross_attn_config"]
    settings: dict[str, Any] = attention if isinstance(attention, dict) else {}
    dropout = settings.get("dropout", VisualAdConfig.model_fields["dropout"].default)
    checks = (
        ("cross_attn_config", type(attention) is dict, "a dict", attention),
        ("cross_attn_config.num_anchors", settings.get("num_anchors", sizes["A"]) == sizes["A"], sizes["A"], settings),
        ("cross_attn_config.dropout", type(dropout) in (int, float) and 0 <= dropout < 1, "a share below 1", dropout),
        ("image_size", type(entries["image_size"]) is int, "pixels of a square", entries["image_size"]),
        ("backbone", type(entries["backbone"]) is str, "a name", entries["backbone"]),
        ("token_insert_layer", entries.get("token_insert_layer", 0) == 0, 0, entries.get("token_insert_layer")),
        ("transform_type", entries.get("transform_type", "mlp") == "mlp", "mlp", entries.get("transform_type")),
    )
    faults = [f"{name} is {value!r}, expected {expected}" for name, fits, expected, value in checks if not fits]
    if faults:
        raise WeightsError(f"{path}: not a known VisualAD model: {'; '.join(faults)}")
    return float(dropout)
