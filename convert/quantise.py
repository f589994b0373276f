"""Post-training quantisation of an OpenVINO model to int8, with NNCF."""

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

from zsad_convert.gate import Metrics, given_to_graph
from zsad_core.bundle import Calibration
from zsad_core.data import Sample, is_mask
from zsad_core.errors import ConfigError
from zsad_core.openvino_offline import import_openvino
from zsad_core.picture import find_images, read_image, resize_to_input

# Names of the parts of the graph that stay in float. The patches of a uniform image differ by little more than one step
# of an int8 patch embedding, and the differences are amplified later (divided by their deviation). Measured on unseen
# images (ksdd) with a trained ViT-Ti at 384 px: image AUROC 0.9475 in float and with this list, 0.925 without it. It
# costs 4 % more time. The head and the matching need no float. Distances between patches are divided by 0.025 and then
# used as exponents: there, one int8 step would be a factor of 1.4.
FLOAT_PARTS = (r".*\bpatch_embed\b.*", r".*\bself_distances\b.*")


def import_nncf() -> ModuleType:
    """Imports `nncf` so that it sends no usage data.

    NNCF uses the same telemetry package as OpenVINO, and works without it; see `zsad_core.openvino_offline`.
    """
    import_openvino()
    import nncf

    logging.getLogger("nncf").setLevel(
        logging.ERROR
    )  # nncf.set_log_level would also change handlers that are not its own
    return nncf


@dataclass(frozen=True, kw_only=True)
class CalibrationSet:
    """Calibration images, each with the product whose prompt the graph gets (None: no prompt)."""

    record: Calibration
    pictures: tuple[tuple[Path, str | None], ...]


def calibration_pictures(folders: Sequence[Path]) -> list[Path]:
    """All images below the folders, without masks.

    Raises:
        ConfigError: there are no images.
    """
    found = [path for folder in folders for path in find_images(folder) if not is_mask(path.relative_to(folder))]
    if not found:
        raise ConfigError(f"--calibration: no pictures below {', '.join(map(str, folders))}")
    return found


def calibration_set(folders: Sequence[Path], count: int, products: Iterable[str], seed: int) -> CalibrationSet:
    """At most `count` evenly spaced images from below the folders, without masks, each with the next product in turn.

    Raises:
        ConfigError: there are no images.
    """
    found = calibration_pictures(folders)
    rng = np.random.default_rng(seed)
    count = min(count, len(found))
    start = rng.random()  # offset within one step, below 1
    chosen = [found[int((index + start) * len(found) / count)] for index in range(count)]
    names: list[str | None] = [str(name) for name in rng.permutation(sorted(products))]
    names = names or [None]
    return CalibrationSet(
        record=Calibration(source=", ".join(folder.name for folder in folders), images=count, seed=seed),
        pictures=tuple((path, names[index % len(names)]) for index, path in enumerate(chosen)),
    )


@dataclass(frozen=True, kw_only=True)
class AccuracyControl:
    """Settings of the mode that returns layers to float until the accuracy drop is small enough."""

    pictures: Sequence[Sample]
    max_drop: float  # largest allowed drop of the mean of image AUROC and pixel AP


def quantise(
    model: Any,
    calibration: CalibrationSet,
    prompts: dict[str, np.ndarray],
    *,
    transformer: bool,
    ignored: Sequence[str] = (),
    accuracy: AccuracyControl | None = None,
) -> Any:
    """Quantises a model to int8.

    Args:
        model: from `zsad_convert.export.to_openvino`; it is not changed.
        calibration: images that set the ranges of activations.
        prompts: product -> [K, 2, M]; empty for a method without text.
        transformer: whether the backbone is a ViT; NNCF then uses its settings for attention.
        ignored: regular expressions of further names in the graph that stay in float, beside `FLOAT_PARTS`.
        accuracy: returns layers to float by measured accuracy; None: does not.

    Raises:
        ConfigError: an expression matches no name in the graph.
    """
    nncf = import_nncf()
    _check_names(model, ignored)
    input_hw = tuple(model.input("image").shape)[1:3]
    options: dict[str, Any] = {
        "subset_size": len(calibration.pictures),
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
        "ignored_scope": nncf.IgnoredScope(patterns=[*FLOAT_PARTS, *ignored], validate=False),
    }
    # A CPU without VNNI adds pairs of products in 16 bits. They overflow unless weights use half of their range.
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

    # NNCF creates and frees its own Cores, which leaves its thread with a freed signal stack: use a thread that ends.
    # See `zsad_core.openvino_offline.openvino_core`.
    with (
        contextlib.redirect_stdout(sys.stderr),
        ThreadPoolExecutor(max_workers=1) as pool,
    ):  # progress bars go to stderr
        return pool.submit(work).result()


def _shown(
    shown: tuple[Path, str | None], input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The graph's inputs for a calibration image."""
    path, product = shown
    given = {"image": resize_to_input(read_image(path), input_hw)[None]}
    return given if product is None else given | {"prompt": prompts[product]}


def _check_names(model: Any, patterns: Sequence[str]) -> None:
    names = [op.get_friendly_name() for op in model.get_ops()]
    for pattern in patterns:
        try:
            known = any(re.match(pattern, name) for name in names)
        except re.error as error:
            raise ConfigError(f"--ignored {pattern}: not a valid regular expression: {error}") from error
        if not known:
            raise ConfigError(f"--ignored {pattern}: no name in the graph matches")


def _given(
    one: Sample, input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(mask, the graph's inputs)."""
    image, mask = one.load()
    return mask, given_to_graph(one, resize_to_input(image, input_hw)[None], prompts)


def _validate(
    compiled: Any, pictures: Iterable[Sample], input_hw: tuple[int, int], prompts: dict[str, np.ndarray]
) -> tuple[float, list[list[np.ndarray]]]:
    """(mean of image AUROC and pixel AP, the map of each image), in the form that NNCF expects."""
    metrics, maps = Metrics(), []
    for one in pictures:
        mask, given = _given(one, input_hw, prompts)
        answer = compiled(given)
        anomaly_map = np.array(answer["anomaly_map"][0])
        metrics.update(one, mask, anomaly_map, float(answer["anomaly_score"][0]))
        maps.append([anomaly_map])
    known = [value for value in (metrics.image_auroc(), metrics.pixel_ap()) if value is not None]
    return float(np.mean(known)) if known else 0.0, maps
