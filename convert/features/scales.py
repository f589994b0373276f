"""Makes the scales of a bundle: graphs that share the constants of model.bin, compared with torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from zsad_convert.bundle import serialise
from zsad_convert.features.networks import TokenNetwork, token_graph
from zsad_convert.features.own_tokens import with_tokens
from zsad_convert.features.shared_constants import SharedConstants
from zsad_convert.gate import compiled_in_float32
from zsad_core.bundle import GENERIC_PRODUCT, MODEL_BIN, MODEL_XML, Bundle, FeatureScale, TokenParity
from zsad_core.errors import ParityError
from zsad_core.picture import read_image, resize_to_input

VIT, CNN = "vit_tiny_patch16_224", "tf_efficientnet_lite0"
# Largest difference of one value of a unit vector, over all cells of all images. Half-precision weights of the shipped
# backbones cause up to 0.0005.
TOLERANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A scale that can be added. `docs/measurements.md` says how sizes and taps were chosen."""

    name: str
    backbone: str
    input_hw: tuple[int, int]
    taps: tuple[int, ...]
    tiles: Literal[1, 2]
    memory: int
    stride: int = 16  # pixels of a cell


KINDS = (
    Kind(name="vit-whole", backbone=VIT, input_hw=(224, 224), taps=(3, 6, 9), tiles=1, memory=3000),
    Kind(name="cnn-whole", backbone=CNN, input_hw=(256, 256), taps=(3, 4), tiles=1, memory=2000, stride=8),
    Kind(name="cnn-tiles", backbone=CNN, input_hw=(256, 256), taps=(3, 4), tiles=2, memory=2000, stride=8),
)


def make_scales(
    bundle: Bundle, weights: Mapping[str, Path], pictures: Sequence[Path], source: str
) -> tuple[tuple[FeatureScale, ...], dict[str, bytes]]:
    """The scales of these backbones, and name -> content of the files that are new or changed.

    A bundle whose own model contains one of the networks gets the output `tokens`, so that this backbone runs once.

    Args:
        bundle: its constants keep their places; others are added at the end of its model.bin.
        weights: backbone -> file, for one or more of `KINDS`.
        pictures: to compare the graphs with torch.
        source: name of the pictures, for the manifest.

    Raises:
        WeightsError: the weights do not fit their backbone.
        ParityError: a graph gives other tokens than torch.
    """
    main = bundle.model_xml, bundle.model_bin
    own_levels = _own_levels(bundle)
    shared = SharedConstants(main)
    files: dict[str, bytes] = {}
    scales: list[FeatureScale] = []
    for kind in (kind for kind in KINDS if kind.backbone in weights):
        network = token_network(kind, weights[kind.backbone])
        with torch.no_grad():
            width = network(torch.zeros((1, *kind.input_hw, 3), dtype=torch.uint8)).shape[2]
        made = FeatureScale(
            name=kind.name,
            file=f"features-{kind.name}.xml",
            own=_is_own(bundle, kind, own_levels),
            input_hw=kind.input_hw,
            grid_hw=network.grid_hw,
            width=width,
            tiles=kind.tiles,
            memory=kind.memory,
        )
        same = next((one for one in scales if one.as_network_of(made)), None)
        if same is not None:
            scales.append(made.model_copy(update={"file": same.file, "parity": same.parity}))
            continue
        graphs = {made.file: serialise(token_graph(network), "fp16")}
        if made.own:
            graphs[MODEL_XML] = with_tokens(main, [own_levels.index(tap) for tap in kind.taps], made.grid_hw)
        for name, ir in graphs.items():
            xml = files[name] = shared.add(ir)
            parity = _parity(network, (xml, bytes(shared.content)), bundle, pictures, source)
            worse = made.parity is None or parity.max_difference > made.parity.max_difference
            made = made.model_copy(update={"parity": parity}) if worse else made
        scales.append(made)
    return tuple(scales), files | {MODEL_BIN: bytes(shared.content)}


def token_network(kind: Kind, weights: Path) -> TokenNetwork:
    """Errors as of `build_backbone`."""
    return TokenNetwork(kind.backbone, input_hw=kind.input_hw, taps=kind.taps, stride=kind.stride, weights=weights)


def _own_levels(bundle: Bundle) -> tuple[int, ...]:
    """The levels that the CNN of the bundle's own graph computes, of the graph's input; empty without such a CNN."""
    facts = bundle.manifest.model
    detectors = [(facts.backbone, facts.input_hw, facts.taps)]
    if facts.second:
        detectors.append((facts.second.backbone, facts.second.input_hw, facts.second.taps))
    found = (taps for name, hw, taps in detectors if (name.split(" ")[0], hw) == (CNN, facts.input_hw))
    return () if facts.precision == "int8" else next(found, ())


def _is_own(bundle: Bundle, kind: Kind, own_levels: tuple[int, ...]) -> bool:
    """Whether the bundle's own model computes this scale."""
    same_view = (kind.backbone, kind.tiles, kind.input_hw) == (CNN, 1, bundle.manifest.model.input_hw)
    return same_view and set(kind.taps) <= set(own_levels)


def _parity(
    network: TokenNetwork, ir: tuple[bytes, bytes], bundle: Bundle, pictures: Sequence[Path], source: str
) -> TokenParity:
    """Compares the IR with torch, both in float32, on whole pictures.

    Raises:
        ParityError: a value differs by more than `TOLERANCE`, or is not finite.
    """
    compiled = compiled_in_float32(ir)
    prompt = bundle.prompt(GENERIC_PRODUCT)
    given = {} if prompt is None or len(compiled.inputs) == 1 else {"prompt": prompt}
    worst = 0.0
    with torch.no_grad():
        for path in tqdm(pictures, desc="comparing", leave=False, disable=None):
            image = resize_to_input(read_image(path), network.backbone.config.input_hw)[None]
            found = compiled({"image": image, **given})["tokens"]
            off = float(np.abs(found - network(torch.from_numpy(image)).numpy()).max())
            if not off <= TOLERANCE:  # also for NaN
                raise ParityError(f"{path}: tokens of torch and IR differ by {off:.2g} (allowed {TOLERANCE:g})")
            worst = max(worst, off)
    return TokenParity(images=len(pictures), source=source, max_difference=worst, tolerance=TOLERANCE)
