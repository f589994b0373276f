"""A detector over labelled pictures: maps at each picture's own size, scores, and the metrics of both."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from zsad_core.bundle import EvaluationRow
from zsad_core.detector import Detector
from zsad_core.imaging import resize_map, resize_to_input
from zsad_core.metrics import aupro, binary_metrics
from zsad_training.layout import Sample

Loaded = tuple[np.ndarray, np.ndarray]  # picture uint8 BGR [H, W, 3], mask uint8 [H, W]
Group = tuple[str, str]  # data set, product


@dataclass(frozen=True, kw_only=True)
class Scored:
    group: Group
    is_anomalous: bool
    has_pixel_truth: bool
    anomaly_map: np.ndarray  # float32 [H, W], at the mask's size; float16 would make ties of all good pixels
    mask: np.ndarray  # uint8 [H, W]
    anomaly_score: float


def score_pictures(
    detector: Detector,
    pictures: Iterable[tuple[Sample, Callable[[], Loaded]]],
    text: dict[str, np.ndarray],
    *,
    device: torch.device,
    total: int,
    product: str | None = None,
    label: str = "scoring",
) -> Iterator[Scored]:
    """Scores pictures one by one, as the device does: resized by the same function, batch 1.

    Args:
        detector: in eval mode.
        pictures: samples, each with what loads it.
        text: product -> [T, 2].
        device: where the detector lies.
        total: number of pictures, for the progress bar.
        product: prompt for all pictures; None prompts with each sample's own product.
        label: of the progress bar.
    """
    input_hw = detector.config.backbone.input_hw
    with torch.inference_mode():
        for sample, load in tqdm(pictures, total=total, desc=label, leave=False, disable=None):
            image, mask = load()
            resized = torch.from_numpy(resize_to_input(image, input_hw)).unsqueeze(0).to(device)
            prompt = torch.from_numpy(text[product or sample.product]).unsqueeze(0).to(device)
            anomaly_map, anomaly_score = detector.predict(resized, prompt)
            on_picture = resize_map(anomaly_map[0].float().cpu().numpy(), (mask.shape[1], mask.shape[0]))
            yield Scored(
                group=(sample.dataset, sample.product),
                is_anomalous=sample.is_anomalous,
                has_pixel_truth=sample.has_pixel_truth,
                anomaly_map=on_picture,
                mask=mask,
                anomaly_score=float(anomaly_score[0]),
            )


def evaluate_groups(
    scored: Iterable[Scored], *, seen: Callable[[Group], bool], threshold: float | None = None
) -> list[EvaluationRow]:
    """One row of metrics for each data set and product; None where a class is missing.

    `threshold` is that of the checkpoint, for recall and false-reject rate; None leaves them out.
    """
    groups: dict[Group, list[Scored]] = defaultdict(list)
    for one in scored:
        groups[one.group].append(one)
    return [_row(group, members, seen(group), threshold) for group, members in sorted(groups.items())]


def mean_row(rows: list[EvaluationRow], name: str) -> EvaluationRow:
    """Unweighted mean over rows; metrics that a row lacks are left out of their mean."""

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


def _row(group: Group, members: list[Scored], seen: bool, threshold: float | None) -> EvaluationRow:
    scores = np.array([one.anomaly_score for one in members])
    labels = np.array([one.is_anomalous for one in members])
    image = binary_metrics(scores[labels], scores[~labels])
    pixel, overlap = None, None
    with_truth = [one for one in members if one.has_pixel_truth]
    if any(one.is_anomalous for one in with_truth):
        positives = np.concatenate([one.anomaly_map[one.mask > 0] for one in with_truth])
        negatives = np.concatenate([one.anomaly_map[one.mask == 0] for one in with_truth])
        pixel = binary_metrics(positives, negatives)
        defective = [one for one in with_truth if one.is_anomalous]
        overlap = aupro([one.anomaly_map for one in defective], [one.mask for one in defective], negatives)
    return EvaluationRow(
        dataset="/".join(group),
        seen_in_training=seen,
        images=len(members),
        image_auroc=image.auroc if image else None,
        image_ap=image.ap if image else None,
        image_f1_max=image.f1_max if image else None,
        pixel_auroc=pixel.auroc if pixel else None,
        pixel_ap=pixel.ap if pixel else None,
        pixel_f1_max=pixel.f1_max if pixel else None,
        aupro=overlap,
        recall=_share_above(scores[labels], threshold),
        false_reject_rate=_share_above(scores[~labels], threshold),
    )


def _share_above(scores: np.ndarray, threshold: float | None) -> float | None:
    return None if threshold is None or scores.size == 0 else float((scores >= threshold).mean())
