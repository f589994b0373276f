"""A sheet for each category: some images, their true defects and their heatmaps."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from zsad_core.data import Sample
from zsad_core.picture import blend
from zsad_training.measure.predict import Group, Scored

ROWS = 8
CELL = 256  # pixels, side of the square for an image
GAP = 6  # pixels between cells
TEXT_HEIGHT = 24  # pixels above each row
TRUTH_BGR = (0, 0, 255)
HEADS = ("picture", "true defects", "anomaly map")


class Sheets:
    """Keeps thumbnails of chosen images while images are scored, at most `ROWS` for each category."""

    def __init__(self, samples: Iterable[Sample], *, threshold: float | None = None) -> None:
        """Chooses images from all `samples`; `threshold` is written next to the scores."""
        groups: dict[Group, list[Sample]] = defaultdict(list)
        for sample in samples:
            groups[sample.dataset, sample.product].append(sample)
        self._chosen = {sample for members in groups.values() for sample in choose(members)}
        self._threshold = threshold
        self._rows: dict[Group, list[tuple[Sample, np.ndarray]]] = defaultdict(list)

    def update(self, one: Scored) -> None:
        """Adds a row if the image is chosen."""
        if one.sample in self._chosen:
            self._rows[one.group].append((one.sample, self._row(one)))

    def sheet(self, group: Group) -> np.ndarray:
        """uint8 [H, W, 3]: defective images by defect, then good ones."""
        rows = sorted(self._rows[group], key=lambda row: (not row[0].is_anomalous, row[0].defect, row[0].image))
        return np.concatenate([_line(list(HEADS)), *(row for _, row in rows)])

    def _row(self, one: Scored) -> np.ndarray:
        image, mask = _fit(one.image_bgr), _fit((one.mask > 0).astype(np.float32))
        text = f"{one.sample.defect}/{one.sample.image.name}: score {one.anomaly_score:.3f}"
        if self._threshold is not None:
            text += f", threshold {self._threshold:.3f}"
        if not one.sample.has_pixel_truth:
            text += ", no mask"
        cells = [image, _outline(image, mask), blend(image, one.anomaly_map)]
        return np.concatenate([_line([text]), _side_by_side(cells)])


def choose(samples: list[Sample], count: int = ROWS) -> list[Sample]:
    """At most `count` images of one category, in turn from the good ones and each defect, evenly spaced in each."""
    kinds: dict[str, list[Sample]] = defaultdict(list)
    for sample in sorted(samples, key=lambda one: (one.is_anomalous, one.defect, one.image)):
        kinds[sample.defect].append(sample)
    wanted = dict.fromkeys(kinds, 0)
    for _ in range(min(count, len(samples))):
        open_kinds = [kind for kind in kinds if wanted[kind] < len(kinds[kind])]
        wanted[min(open_kinds, key=wanted.__getitem__)] += 1
    return [
        members[place]
        for kind, members in kinds.items()
        for place in np.linspace(0, len(members) - 1, wanted[kind]).round().astype(int)
    ]


def write_sheet(path: Path, sheet: np.ndarray) -> None:
    """Writes a JPEG.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def _fit(image: np.ndarray) -> np.ndarray:
    """Scales an image or mask into a cell, with its aspect. Masks are float32, so thin defects stay above 0."""
    height, width = image.shape[:2]
    scale = min(CELL / width, CELL / height)
    wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def _outline(image_bgr: np.ndarray, mask: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours((mask > 0).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(image_bgr.copy(), contours, -1, TRUTH_BGR, 1)


def _side_by_side(cells: list[np.ndarray]) -> np.ndarray:
    row = np.full((cells[0].shape[0] + GAP, GAP + len(cells) * (CELL + GAP), 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        left = GAP + place * (CELL + GAP) + (CELL - cell.shape[1]) // 2
        row[: cell.shape[0], left : left + cell.shape[1]] = cell
    return row


def _line(texts: list[str]) -> np.ndarray:
    """uint8 [TEXT_HEIGHT, W, 3]: each text above its cell."""
    line = np.full((TEXT_HEIGHT, GAP + len(HEADS) * (CELL + GAP), 3), 255, np.uint8)
    for place, text in enumerate(texts):
        at = (GAP + place * (CELL + GAP), TEXT_HEIGHT - 7)
        cv2.putText(line, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return line
