"""The gate on labelled images: the IR must separate good from defective images as well as torch in float32."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from zsad_convert.gate.parity import compiled_in_float32
from zsad_convert.gate.pictures import labelled_pictures
from zsad_core.bundle import GENERIC_PRODUCT, Gate, GateRow, Precision
from zsad_core.data import Sample
from zsad_core.judging import PixelMetrics, curve_of_scores
from zsad_core.model import Detector
from zsad_core.picture import resize_map, resize_to_input

TORCH = "torch"


@dataclass
class _Tally:
    """The scores and pixel metrics of one model on one category."""

    scores: dict[bool, list[float]] = field(default_factory=lambda: {False: [], True: []})  # key: is anomalous
    pixels: PixelMetrics = field(default_factory=PixelMetrics)

    def update(self, one: Sample, mask: np.ndarray, anomaly_map: np.ndarray, anomaly_score: float) -> None:
        self.scores[one.is_anomalous].append(anomaly_score)
        if one.has_pixel_truth:
            height, width = mask.shape
            self.pixels.update(resize_map(anomaly_map, (width, height)), mask)

    def image_auroc(self) -> float | None:
        curve = curve_of_scores(np.array(self.scores[True]), np.array(self.scores[False]))
        return None if curve is None else curve.metrics().auroc

    def pixel_ap(self) -> float | None:
        result = self.pixels.result()
        return None if result is None else result.ap


class Metrics:
    """Image AUROC and pixel AP of one model over the categories of a data set."""

    def __init__(self) -> None:
        self._tallies: dict[str, _Tally] = defaultdict(_Tally)

    def update(self, one: Sample, mask: np.ndarray, anomaly_map: np.ndarray, anomaly_score: float) -> None:
        """Adds one result.

        Args:
            one: the image.
            mask: uint8 [H, W].
            anomaly_map: float32 [h, w].
            anomaly_score: in [0, 1].
        """
        self._tallies[one.product].update(one, mask, anomaly_map, anomaly_score)

    def image_auroc(self) -> float | None:
        """Mean over the categories that have both classes; None without any."""
        return _mean(tally.image_auroc() for tally in self._tallies.values())

    def pixel_ap(self) -> float | None:
        """Mean over the categories that have masks; None without any."""
        return _mean(tally.pixel_ap() for tally in self._tallies.values())

    def score_of_each(self) -> list[float]:
        return [score for tally in self._tallies.values() for scores in tally.scores.values() for score in scores]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def given_to_graph(one: Sample, resized: np.ndarray, prompts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The graph's inputs for an image, uint8 [1, h, w, 3], with its category's prompt or the generic one."""
    given = {"image": resized}
    return given | {"prompt": prompts[_product(one, prompts)]} if prompts else given


def _product(one: Sample, prompts: Mapping[str, Any]) -> str:
    return one.product if one.product in prompts else GENERIC_PRODUCT


def measure_gate(
    detector: Detector,
    text: dict[str, np.ndarray],
    irs: Mapping[Precision, tuple[bytes, bytes]],
    prompts: dict[str, np.ndarray],
    data: Sequence[Path],
    *,
    max_images: int,
    threshold: float,
    image_auroc_tolerance: float,
    pixel_ap_tolerance: float,
) -> dict[Precision, Gate]:
    """Runs the torch model and each IR on the labelled images, without judging the results.

    Args:
        detector: the torch model as trained, in eval mode on the CPU.
        text: product -> [T, 2].
        irs: precision -> (model.xml, model.bin) as they will ship.
        prompts: product -> [K, 2, M] as they will ship; empty for a method without text.
        data: folders of data sets, in MVTec layout.
        max_images: for each data set.
        threshold: the bundle's; a score from it on is a reject.
        image_auroc_tolerance: written into the record.
        pixel_ap_tolerance: written into the record.

    Raises:
        DatasetError: a data set cannot be read.
        ValueError: an answer is not finite.
    """
    compiled = {name: compiled_in_float32(ir) for name, ir in irs.items()}
    rows: dict[Precision, list[GateRow]] = {name: [] for name in irs}
    for root in data:
        pictures = labelled_pictures(root, max_images)
        metrics = {name: Metrics() for name in (TORCH, *irs)}
        for one, mask, answers in _answers(detector, text, compiled, prompts, pictures, root.name):
            for name, (anomaly_map, anomaly_score) in answers.items():
                metrics[name].update(one, mask, anomaly_map, anomaly_score)
        for name in irs:
            rows[name].append(_row(root.name, metrics[TORCH], metrics[name], threshold))
    tolerances = {"image_auroc_tolerance": image_auroc_tolerance, "pixel_ap_tolerance": pixel_ap_tolerance}
    return {name: Gate(rows=tuple(found), **tolerances) for name, found in rows.items()}


def _answers(
    detector: Detector,
    text: dict[str, np.ndarray],
    compiled: Mapping[Precision, Any],
    prompts: dict[str, np.ndarray],
    pictures: Sequence[Sample],
    label: str,
) -> Iterator[tuple[Sample, np.ndarray, dict[str, tuple[np.ndarray, float]]]]:
    """(sample, mask, model name -> (map, score)) of each image."""
    input_hw = detector.config.backbone.input_hw
    with torch.inference_mode():
        for one in tqdm(pictures, desc=label, leave=False, disable=None):
            image, mask = one.load()
            resized = resize_to_input(image, input_hw)[None]
            embedding = torch.from_numpy(text[_product(one, text)]).unsqueeze(0) if prompts else None
            torch_map, torch_score = detector.predict(torch.from_numpy(resized), embedding)
            answers = {TORCH: (torch_map[0].numpy(), float(torch_score[0]))}
            for name, model in compiled.items():
                answer = model(given_to_graph(one, resized, prompts))
                answers[name] = (answer["anomaly_map"][0], float(answer["anomaly_score"][0]))
            yield one, mask, answers


def _row(dataset: str, of_torch: Metrics, of_ir: Metrics, threshold: float) -> GateRow:
    scores, expected = np.array(of_ir.score_of_each()), np.array(of_torch.score_of_each())
    auroc, auroc_torch = of_ir.image_auroc(), of_torch.image_auroc()
    if auroc is None or auroc_torch is None:
        raise ValueError(f"{dataset}: no category with good and defective pictures")
    return GateRow(
        dataset=dataset,
        images=len(scores),
        image_auroc_torch=auroc_torch,
        image_auroc_ir=auroc,
        pixel_ap_torch=of_torch.pixel_ap(),
        pixel_ap_ir=of_ir.pixel_ap(),
        changed_verdicts=int(((scores >= threshold) != (expected >= threshold)).sum()),
    )


def gate_faults(gate: Gate) -> list[str]:
    """One line for each difference above its tolerance."""
    faults = []
    for row in gate.rows:
        if abs(row.image_auroc_ir - row.image_auroc_torch) > gate.image_auroc_tolerance:
            faults.append(
                f"{row.dataset}: image AUROC {row.image_auroc_ir:.4f}, in torch {row.image_auroc_torch:.4f} "
                f"(allowed: {gate.image_auroc_tolerance:g} apart)"
            )
        if row.pixel_ap_torch is None or row.pixel_ap_ir is None:
            continue
        if abs(row.pixel_ap_ir - row.pixel_ap_torch) > gate.pixel_ap_tolerance * row.pixel_ap_torch:
            faults.append(
                f"{row.dataset}: pixel AP {row.pixel_ap_ir:.4f}, in torch {row.pixel_ap_torch:.4f} "
                f"(allowed: {gate.pixel_ap_tolerance:.0%} apart)"
            )
    return faults
