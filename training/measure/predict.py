"""Runs a detector on a stream of labelled images: maps at the images' own size, scores, and their metrics."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from zsad_core.data import Sample
from zsad_core.facts import EvaluationRow
from zsad_core.judging import Curve, PixelMetrics, curve_of_scores
from zsad_core.model import Detector
from zsad_core.picture import resize_map, resize_to_input

Loaded = tuple[np.ndarray, np.ndarray]  # image uint8 BGR [H, W, 3], mask uint8 [H, W]
Group = tuple[str, str]  # data set, product
GPU_BATCH = 16  # limits the memory of a large ViT


@dataclass(frozen=True, kw_only=True)
class Scored:
    sample: Sample
    image_bgr: np.ndarray  # uint8 [H, W, 3]
    anomaly_map: np.ndarray  # float32 [H, W], at the mask's size; in float16 good pixels would have equal values
    mask: np.ndarray  # uint8 [H, W]
    anomaly_score: float

    @property
    def group(self) -> Group:
        return self.sample.dataset, self.sample.product


class Tally:
    """The scores of one group, and histograms of its map values, for its metrics."""

    def __init__(self) -> None:
        self.good_scores: list[float] = []
        self.defective_scores: list[float] = []
        self.pixels = PixelMetrics()

    def update(self, one: Scored) -> None:
        """Adds one image.

        Raises:
            ValueError: its map has values that are not finite.
        """
        (self.defective_scores if one.sample.is_anomalous else self.good_scores).append(one.anomaly_score)
        if one.sample.has_pixel_truth:
            try:
                self.pixels.update(one.anomaly_map, one.mask)
            except ValueError as error:
                raise ValueError(f"{one.sample.image}: {error}") from error

    def merge(self, other: "Tally") -> None:
        """Adds the images of `other`."""
        self.good_scores += other.good_scores
        self.defective_scores += other.defective_scores
        self.pixels.merge(other.pixels)

    def image_curve(self) -> Curve | None:
        """The curve over all thresholds of the image score; None if a class is missing."""
        return curve_of_scores(np.array(self.defective_scores), np.array(self.good_scores))

    def row(self, name: str, *, seen: bool, threshold: float | None) -> EvaluationRow:
        """All metrics so far; None if a class is missing."""
        curve, pixel = self.image_curve(), self.pixels.result()
        image = curve.metrics() if curve else None
        return EvaluationRow(
            dataset=name,
            seen_in_training=seen,
            images=len(self.good_scores) + len(self.defective_scores),
            image_auroc=image.auroc if image else None,
            image_ap=image.ap if image else None,
            image_f1_max=image.f1_max if image else None,
            pixel_auroc=pixel.auroc if pixel else None,
            pixel_ap=pixel.ap if pixel else None,
            pixel_f1_max=pixel.f1_max if pixel else None,
            aupro=pixel.aupro if pixel else None,
            recall=_share_above(self.defective_scores, threshold),
            false_reject_rate=_share_above(self.good_scores, threshold),
        )


def score_pictures(
    detector: Detector,
    pictures: Iterable[tuple[Sample, Callable[[], Loaded]]],
    text: dict[str, np.ndarray],
    *,
    device: torch.device,
    total: int,
    product: str | None = None,
    label: str | None = "scoring",
    batch_size: int | None = None,
) -> Iterator[Scored]:
    """Scores images like the device, resized by the same function.

    A CPU scores one image at a time, so the scores differ from the device's only by its arithmetic. A GPU scores
    batches of `GPU_BATCH`, loaded by threads; other images of a batch change a score only by rounding.

    Args:
        detector: in eval mode.
        pictures: samples, each with a function that loads it.
        text: product -> [T, 2]; ignored if the detector needs no text.
        device: of the detector.
        total: number of images, for the progress bar.
        product: prompt for all images; None: each sample's own product.
        label: of the progress bar; None: no bar.
        batch_size: number of images scored at once; None: 1 on a CPU, `GPU_BATCH` on a GPU.
    """
    input_hw = detector.config.backbone.input_hw
    size = batch_size or (1 if device.type == "cpu" else GPU_BATCH)
    shown = iter(tqdm(pictures, total=total, desc=label, leave=False, disable=None if label else True))
    with torch.inference_mode(), ThreadPoolExecutor(max_workers=min(size, 8)) as threads:
        while batch := list(islice(shown, size)):
            loaded = list(threads.map(lambda one: one[1](), batch)) if size > 1 else [batch[0][1]()]
            resized = torch.from_numpy(np.stack([resize_to_input(image, input_hw) for image, _ in loaded])).to(device)
            prompts = None
            if detector.needs_text:
                prompts = torch.from_numpy(np.stack([text[product or one.product] for one, _ in batch])).to(device)
            maps, scores = detector.predict(resized, prompts)
            for (sample, _), (image, mask), anomaly_map, anomaly_score in zip(
                batch, loaded, maps.float().cpu().numpy(), scores.tolist(), strict=True
            ):
                yield Scored(
                    sample=sample,
                    image_bgr=image,
                    anomaly_map=resize_map(anomaly_map, (mask.shape[1], mask.shape[0])),
                    mask=mask,
                    anomaly_score=anomaly_score,
                )


def tally_groups(scored: Iterable[Scored], watch: Callable[[Scored], None] | None = None) -> dict[Group, Tally]:
    """One tally for each data set and product. Images are not kept; `watch` is called with each one."""
    tallies: dict[Group, Tally] = defaultdict(Tally)
    for one in scored:
        tallies[one.group].update(one)
        if watch:
            watch(one)
    return dict(sorted(tallies.items()))


def evaluate_groups(
    tallies: Mapping[Group, Tally], *, seen: Callable[[Group], bool], threshold: float | None = None
) -> list[EvaluationRow]:
    """One row of metrics for each data set and product; None if a class is missing.

    `threshold` is the checkpoint's, for recall and false-reject rate; None: without these.
    """
    return [
        tally.row("/".join(group), seen=seen(group), threshold=threshold) for group, tally in sorted(tallies.items())
    ]


def mean_row(rows: list[EvaluationRow], name: str) -> EvaluationRow:
    """Unweighted mean over rows; the mean of a metric uses only the rows that have it."""

    def mean(metric: str) -> float | None:
        values = [value for row in rows if (value := getattr(row, metric)) is not None]
        return float(np.mean(values)) if values else None

    return EvaluationRow(
        dataset=name,
        seen_in_training=any(row.seen_in_training for row in rows),
        images=sum(row.images for row in rows),
        **{metric: mean(metric) for metric in METRICS},
    )


METRICS = (
    "image_auroc",
    "image_ap",
    "image_f1_max",
    "pixel_auroc",
    "pixel_ap",
    "pixel_f1_max",
    "aupro",
    "recall",
    "false_reject_rate",
)


def _share_above(scores: list[float], threshold: float | None) -> float | None:
    return None if threshold is None or not scores else float((np.array(scores) >= threshold).mean())
