"""From an OpenVINO model in float to one in int8, by NNCF's post-training quantisation."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from zsad_convert.gate import Metrics, given_to_graph, is_mask
from zsad_core.bundle import Calibration
from zsad_core.data import Sample
from zsad_core.errors import ConfigError
from zsad_core.openvino_offline import import_openvino
from zsad_core.picture import find_images, read_image, resize_to_input

# Kept in float, by their names in the graph. Patches of a calm picture differ by little more than the steps of an int8
# patch embedding, and are divided by their deviation later. Measured on unseen pictures (ksdd) with a trained ViT-Ti at
# 384 px: image AUROC 0.9475 in float and with this, 0.925 without; for 4 % of the time. Head and match lose nothing.
# Distances between patches are divided by 0.025 before they are exponents: an int8 step would be a factor of 1.4.
FLOAT_PARTS = (r".*\bpatch_embed\b.*", r".*\bself_distances\b.*")


def import_nncf() -> ModuleType:
    """The `nncf` module, imported so that it never goes online.

    It sends events to an analytics host as OpenVINO does, through the same package, and has a stub for when that is
    not installed; see `zsad_core.openvino_offline`.
    """
    import_openvino()
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own set_log_level changes whatever handlers it finds there
    return nncf


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Pictures, each with the product that it is shown to the graph as."""

    record: Calibration
    pictures: tuple[tuple[Path, str | None], ...]


def calibration_pictures(folders: Sequence[Path]) -> list[Path]:
    """All pictures below the folders, masks left out.

    Raises:
        ConfigError: there are none.
    """
    found = [path for folder in folders for path in find_images(folder) if not is_mask(path.relative_to(folder))]
    if not found:
        raise ConfigError(f"--calibration: no pictures below {', '.join(map(str, folders))}")
    return found


def calibration_set(folders: Sequence[Path], count: int, products: Iterable[str], seed: int) -> CalibrationSet:
    """At most `count` pictures, evenly spaced over all that lie below the folders, masks left out; products in turn.

    Raises:
        ConfigError: no pictures.
    """
    found = calibration_pictures(folders)
    rng = np.random.default_rng(seed)
    count = min(count, len(found))
    start = rng.random()  # of the even steps, and so less than one
    chosen = [found[int((index + start) * len(found) / count)] for index in range(count)]
    names: list[str | None] = [str(name) for name in rng.permutation(sorted(products))]
    names = names or [None]
    return CalibrationSet(
        record=Calibration(source=", ".join(folder.name for folder in folders), images=count, seed=seed),
        pictures=tuple((path, names[index % len(names)]) for index, path in enumerate(chosen)),
    )


@dataclass(frozen=True, kw_only=True)
class AccuracyControl:
    """Layers that cost too much go back to float."""

    pictures: Sequence[Sample]
    max_drop: float  # of the mean of image AUROC and pixel AP


def quantise(
    model: Any,
    calibration: CalibrationSet,
    prompts: dict[str, np.ndarray],
    *,
    transformer: bool,
    ignored: Sequence[str] = (),
    accuracy: AccuracyControl | None = None,
) -> Any:
    """A new model in int8.

    Args:
        model: `zsad_convert.export.to_openvino` gave it; stays as it is.
        calibration: what the ranges of activations are taken from.
        prompts: product -> [K, 2, M]; empty for a method without text.
        transformer: whether the backbone is a ViT, whose attention NNCF then treats as such.
        ignored: regular expressions of names in the graph that stay in float, beside `FLOAT_PARTS`.
        accuracy: None quantises all else.

    Raises:
        ConfigError: nothing in the graph has such a name.
    """
    nncf = import_nncf()
    _check_names(model, ignored)
    input_hw = tuple(model.input("image").shape)[1:3]
    options: dict[str, Any] = {
        "subset_size": len(calibration.pictures),
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
        "ignored_scope": nncf.IgnoredScope(patterns=[*FLOAT_PARTS, *ignored], validate=False),
    }
    # Without VNNI a CPU adds pairs of products in 16 bits, which overflow unless weights use half of their range.
    advanced = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    inputs = nncf.Dataset(calibration.pictures, lambda shown: _shown(shown, input_hw, prompts))

    def work() -> Any:
        if accuracy is None:
            return nncf.quantize(model, inputs, advanced_parameters=advanced, **options)
        return nncf.quantize_with_accuracy_control(
            model,
            inputs,
            nncf.Dataset(accuracy.pictures, lambda one: _given(one, input_hw, prompts)[1]),
            lambda compiled, pictures: _validate(compiled, pictures, input_hw, prompts),
            max_drop=accuracy.max_drop,
            advanced_quantization_parameters=advanced,
            **options,
        )

    # NNCF makes Cores of its own and lets them go. In a thread that ends with them, no other is left with a stack for
    # signals that was freed, see `zsad_core.openvino_offline.openvino_core`.
    with contextlib.redirect_stdout(sys.stderr), ThreadPoolExecutor(max_workers=1) as pool:  # stdout: progress bars
        return pool.submit(work).result()


def _shown(
    shown: tuple[Path, str | None], input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The graph's inputs for a picture of the calibration."""
    path, product = shown
    given = {"image": resize_to_input(read_image(path), input_hw)[None]}
    return given if product is None else given | {"prompt": prompts[product]}


def _check_names(model: Any, patterns: Sequence[str]) -> None:
    names = [op.get_friendly_name() for op in model.get_ops()]
    for pattern in patterns:
        try:
            known = any(re.match(pattern, name) for name in names)
        except re.error as error:
            raise ConfigError(f"--ignored {pattern}: no regular expression: {error}") from error
        if not known:
            raise ConfigError(f"--ignored {pattern}: nothing in the graph has a name that it matches")


def _given(
    one: Sample, input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(mask, the graph's inputs)."""
    image, mask = one.load()
    return mask, given_to_graph(one, resize_to_input(image, input_hw)[None], prompts)


def _validate(
    compiled: Any, pictures: Iterable[Sample], input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> tuple[float, list[list[np.ndarray]]]:
    """(mean of image AUROC and pixel AP, the map of each picture), as NNCF wants them."""
    metrics, maps = Metrics(), []
    for one in pictures:
        mask, given = _given(one, input_hw, prompts)
        answer = compiled(given)
        anomaly_map = np.array(answer["anomaly_map"][0])
        metrics.update(one, mask, anomaly_map, float(answer["anomaly_score"][0]))
        maps.append([anomaly_map])
    known = [value for value in (metrics.image_auroc(), metrics.pixel_ap()) if value is not None]
    return float(np.mean(known)) if known else 0.0, maps
