"""The validation part of the training sets. It chooses the epoch and sets the threshold."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.data import GOOD, Sample
from zsad_core.facts import EvaluationRow
from zsad_core.model import Detector
from zsad_training.config import SamplingSpec, ValidationSpec
from zsad_training.measure.predict import (
    Group,
    Loaded,
    Scored,
    Tally,
    evaluate_groups,
    mean_row,
    score_pictures,
    tally_groups,
)
from zsad_training.pictures import Texture, TrainingPictures

SYNTHETIC = "synthetic"
_NO_FILE = Path("drawn")


@dataclass(frozen=True, kw_only=True)
class Validation:
    rows: list[EvaluationRow]
    criterion: float  # mean over data sets' products of the mean of image AUROC and pixel AP; higher is better
    threshold: float
    false_reject_rate: float  # measured on the images that set the threshold
    region_level: float

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {
            "validation": [row.model_dump() for row in self.rows],
            "threshold": {"value": self.threshold, "false_reject_rate": self.false_reject_rate},
            "region_level": self.region_level,
        }


class Sharing(Protocol):
    """The processes that share a validation; one process shares with nobody."""

    @property
    def device(self) -> torch.device:
        """Of this process's detector."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def count(self) -> int:
        """Number of processes."""

    def gather(self, own: Any) -> list[Any]:
        """`own` of every process, by rank; in each process."""


class ValidationPictures:
    """Held-out images of the training sets, and synthetic ones of held-out materials."""

    def __init__(
        self,
        samples: list[Sample],
        textures: list[Texture],
        spec: ValidationSpec,
        *,
        input_hw: tuple[int, int],
        seed: int,
    ) -> None:
        """Loads nothing yet.

        Raises:
            ValueError: there is no good image, which the threshold needs.
        """
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
        if all(sample.is_anomalous for sample, _ in self._pictures):
            raise ValueError(
                f"none of the {len(self._pictures)} validation pictures is good, and good ones set the threshold: "
                f"raise --set validation.fraction (now {spec.fraction}), or add a data set with good pictures"
            )

    def run(self, detector: Detector, text: dict[str, np.ndarray], *, processes: Sharing) -> Validation:
        """Scores all images with the generic prompt, the default of devices.

        Each process scores a part; all call this method and get the same result.
        """
        # Parts without gaps keep the order of the images, so one process and several give equal thresholds.
        first, end = (len(self._pictures) * rank // processes.count for rank in (processes.rank, processes.rank + 1))
        scored = score_pictures(
            detector,
            self._pictures[first:end],
            text,
            device=processes.device,
            total=end - first,
            product=GENERIC_PRODUCT,
            label=None if processes.rank else "validating",
        )
        own_level = PixelLevel()
        own_tallies = tally_groups(scored, own_level.update)
        level, tallies = _merged(processes.gather((own_level, own_tallies)))
        rows = evaluate_groups(tallies, seen=lambda group: group[0] != SYNTHETIC)
        mean = mean_row(rows, "mean")
        parts = [value for value in (mean.image_auroc, mean.pixel_ap) if value is not None]
        good_scores = {group: tally.good_scores for group, tally in tallies.items() if tally.good_scores}
        threshold, rate = good_part_threshold(good_scores, self._spec.false_reject_rate)
        return Validation(
            rows=rows,
            criterion=float(np.mean(parts)) if parts else 0.0,
            threshold=threshold,
            false_reject_rate=rate,
            region_level=level.result(),
        )


def good_part_threshold(good_scores: Mapping[Group, list[float]], false_reject_rate: float) -> tuple[float, float]:
    """(threshold, measured false-reject rate) from good images' scores. Every group has equal weight.

    The threshold is the high quantile of the good scores. Without weights, a large group would set it alone.
    """
    if not good_scores:
        raise ValueError("no good validation pictures to set a threshold from")
    values = np.concatenate([np.array(scores) for scores in good_scores.values()])
    weights = np.concatenate([np.full(len(scores), 1 / len(scores)) for scores in good_scores.values()])
    order = np.argsort(values)
    above = 1 - np.cumsum(weights[order]) / weights.sum()  # share of good parts above each value
    threshold = float(values[order][int(np.argmax(above <= false_reject_rate))])
    threshold = float(
        np.nextafter(np.float32(threshold), np.float32(1))
    )  # the image at the quantile itself is accepted
    rate = float(weights[values >= threshold].sum() / weights.sum())
    return threshold, rate


class PixelLevel:
    """The map value with the best F1 over all validation pixels. Every image has equal weight."""

    UNSET = 0.5
    _EDGES = np.linspace(0, 1, 257)

    def __init__(self) -> None:
        self._inside, self._outside = np.zeros(256), np.zeros(256)

    def update(self, one: Scored) -> None:
        """Adds one image, if its defects are known."""
        if one.sample.has_pixel_truth:
            values, defect = one.anomaly_map, one.mask > 0
            self._inside += np.histogram(values[defect], self._EDGES)[0] / defect.size
            self._outside += np.histogram(values[~defect], self._EDGES)[0] / defect.size

    def merge(self, other: "PixelLevel") -> None:
        """Adds the images of `other`."""
        self._inside += other._inside
        self._outside += other._outside

    def result(self) -> float:
        """In [0, 1]: where a region starts; `UNSET` if no defect had a mask."""
        if not self._inside.any():
            return self.UNSET
        found, false = self._inside[::-1].cumsum()[::-1], self._outside[::-1].cumsum()[::-1]
        f1 = 2 * found / np.maximum(found + false + self._inside.sum(), 1e-12)
        return float(self._EDGES[max(1, int(np.argmax(f1)))])


def _merged(parts: list[tuple[PixelLevel, dict[Group, Tally]]]) -> tuple[PixelLevel, dict[Group, Tally]]:
    level, tallies = PixelLevel(), defaultdict[Group, Tally](Tally)
    for own_level, own_tallies in parts:
        level.merge(own_level)
        for group, tally in own_tallies.items():
            tallies[group].merge(tally)
    return level, tallies


def _synthetic(drawn: TrainingPictures, index: int) -> tuple[Sample, Callable[[], Loaded]]:
    item = drawn[index]
    sample = Sample(
        dataset=SYNTHETIC,
        product="textures",
        split="test",
        defect="drawn" if item.is_anomalous else GOOD,
        image=_NO_FILE,
        place=str(index),
        mask=_NO_FILE if item.is_anomalous else None,
    )
    return sample, partial(_pair, item.image_bgr, item.mask)


def _pair(image: np.ndarray, mask: np.ndarray) -> Loaded:
    return image, mask
