"""The validation part of the training sets: chooses the epoch, sets the threshold."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from zsad_core.bundle import EvaluationRow
from zsad_core.detector import Detector
from zsad_core.prompts import GENERIC_PRODUCT
from zsad_training.config import SamplingSpec, ValidationSpec
from zsad_training.layout import GOOD, Sample
from zsad_training.predict import Loaded, Scored, evaluate_groups, mean_row, score_pictures
from zsad_training.sampler import Texture, TrainingPictures

SYNTHETIC = "synthetic"
_NO_FILE = Path("drawn")


@dataclass(frozen=True, kw_only=True)
class Validation:
    rows: list[EvaluationRow]
    criterion: float  # mean over data sets of the mean of image AUROC and pixel AP; higher is better
    threshold: float
    false_reject_rate: float  # measured, on the pictures that set the threshold
    region_level: float


class ValidationPictures:
    """Held-out pictures of the training sets, and synthetic ones of held-out materials."""

    def __init__(
        self,
        samples: list[Sample],
        textures: list[Texture],
        spec: ValidationSpec,
        *,
        input_hw: tuple[int, int],
        seed: int,
    ) -> None:
        self._spec = spec
        self._pictures: list[tuple[Sample, Callable[[], Loaded]]] = [(sample, sample.load) for sample in samples]
        if spec.synthetic and textures:
            drawn = TrainingPictures(
                samples,
                textures,
                SamplingSpec(synthetic_fraction=1, texture_fraction=1),
                input_hw=input_hw,
                batch_size=1,
                seed=seed + 1,
            )
            self._pictures += [_synthetic(drawn, index) for index in range(spec.synthetic)]

    def run(self, detector: Detector, text: dict[str, np.ndarray], *, device: torch.device) -> Validation:
        """Scores all with the generic prompt, which is what an untold device uses."""
        scored = list(
            score_pictures(
                detector,
                self._pictures,
                text,
                device=device,
                total=len(self._pictures),
                product=GENERIC_PRODUCT,
                label="validating",
            )
        )
        rows = evaluate_groups(scored, seen=lambda group: group[0] != SYNTHETIC)
        mean = mean_row(rows, "mean")
        parts = [value for value in (mean.image_auroc, mean.pixel_ap) if value is not None]
        threshold, rate = good_part_threshold(scored, self._spec.false_reject_rate)
        return Validation(
            rows=rows,
            criterion=float(np.mean(parts)) if parts else 0.0,
            threshold=threshold,
            false_reject_rate=rate,
            region_level=pixel_level(scored),
        )


def good_part_threshold(scored: list[Scored], false_reject_rate: float) -> tuple[float, float]:
    """(threshold, measured false-reject rate) from good pictures, every group weighing the same.

    The threshold is the high quantile of the good scores. A group with many pictures would otherwise set it alone.
    """
    by_group: dict[tuple[str, str], list[float]] = {}
    for one in scored:
        if not one.is_anomalous:
            by_group.setdefault(one.group, []).append(one.anomaly_score)
    if not by_group:
        raise ValueError("no good validation pictures to set a threshold from")
    values = np.concatenate([np.array(scores) for scores in by_group.values()])
    weights = np.concatenate([np.full(len(scores), 1 / len(scores)) for scores in by_group.values()])
    order = np.argsort(values)
    above = 1 - np.cumsum(weights[order]) / weights.sum()  # share of good parts above each value
    threshold = float(values[order][int(np.argmax(above <= false_reject_rate))])
    threshold = float(np.nextafter(np.float32(threshold), np.float32(1)))  # the part at the quantile itself passes
    rate = float(weights[values >= threshold].sum() / weights.sum())
    return threshold, rate


def pixel_level(scored: list[Scored]) -> float:
    """The map value with the best F1 over all validation pixels: where a region starts."""
    edges = np.linspace(0, 1, 257)
    inside, outside = np.zeros(256), np.zeros(256)
    for one in scored:
        if one.has_pixel_truth:
            values = one.anomaly_map
            inside += np.histogram(values[one.mask > 0], edges)[0] / one.mask.size
            outside += np.histogram(values[one.mask == 0], edges)[0] / one.mask.size
    found, false = inside[::-1].cumsum()[::-1], outside[::-1].cumsum()[::-1]
    f1 = 2 * found / np.maximum(found + false + inside.sum(), 1e-12)
    return float(edges[max(1, int(np.argmax(f1)))])


def _synthetic(drawn: TrainingPictures, index: int) -> tuple[Sample, Callable[[], Loaded]]:
    item = drawn[index]
    sample = Sample(
        dataset=SYNTHETIC,
        product="textures",
        split="test",
        defect="drawn" if item.is_anomalous else GOOD,
        image=_NO_FILE,
        mask=_NO_FILE if item.is_anomalous else None,
    )
    return sample, partial(_pair, item.image_bgr, item.mask)


def _pair(image: np.ndarray, mask: np.ndarray) -> Loaded:
    return image, mask
