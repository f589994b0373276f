"""Finds pictures that were decoded without an error and are not what the camera saw: the pixels themselves show it.

Headers have no checksum in most formats. A wrong one gives torn rows, noise, or a repeated strip, in which a model for
parts sees no part and no defect. The limits were tried on 4003 pictures of nine public sets, of which none is refused.
"""

from typing import Final

import cv2
import numpy as np

_SAMPLED: Final = 1 << 20  # pixels from the middle of a larger picture
_SMOOTHED: Final = 16  # pixels along a row whose mean is compared, so that noise counts less
_CLEARLY: Final = 2  # times as alike; a fine weave of 128 px reaches 1.95, other pictures 1.4
_CLEARLY_NARROWER: Final = 1.45  # with a smaller width, where the rows were merely two apart; pictures reach 1.37
_MOST_STRETCHED: Final = 8  # sides of a picture, one by the other
_NOISE: Final = 0.3  # correlation of neighbours; pictures of road surfaces have 0.46 and more
_NOISE_SIDE, _NOISE_STD = 200, 20.0  # smaller pictures and fainter noise can be real
_REPEATED: Final = 0.05  # share of the rows
_LIVELY: Final = 32  # different bytes of a row that a camera does not give twice
_APART: Final = 8  # rows; an enlarged picture has the same row several times at once
_FITTER: Final = 1.3  # times as alike
_SMOOTHER: Final = 0.4  # correlation by which another reading of the data is better
_SMOOTH: Final = 0.8  # of every second column, if the others are the low bytes


def find_misreading(image: np.ndarray, *, predictor: int = 0, interlaced: bool | None = None) -> str | None:
    """Why the decoded picture, uint8 or uint16 [H, W] or [H, W, C], in the file's order, is not one; None if it is.

    Args:
        predictor: of a compressed TIFF: 1 none, 2 differences along the row; 0: not such a file.
        interlaced: of a GIF, whether its rows are stored in four passes; None: not such a file.
    """
    if _repeats(image):
        return "rows of it are repeated exactly, as of a file with blocks in the wrong place"
    if interlaced is not None:
        if _has_other_order(image, is_interlaced=interlaced):
            return "the header is wrong about interlacing"
        image = image[1::2] if interlaced else image  # the last pass, in which rows are stored one after another
    height, width = image.shape[:2]
    rows = max(1, min(height, _SAMPLED // width))
    image = image[(height - rows) // 2 :][:rows]
    grey = _grey(image)
    if predictor and _smoothness(_grey(_other_predictor(image, predictor))) > _smoothness(grey) + _SMOOTHER:
        return "the header states a wrong predictor"
    if _is_torn(grey):
        return "the header states a wrong width: rows that are next to each other differ"
    if min(grey.shape) < _NOISE_SIDE or grey.std() < _NOISE_STD:
        return None
    every_second = max(_smoothness(grey[:, side::2]) for side in (0, 1))
    if every_second > max(_SMOOTH, _smoothness(grey) + _SMOOTHER):
        return "columns that are next to each other differ, as of 16 bits that are read as 8"
    if max(_correlations(grey)) < _NOISE:
        return "it is noise, as of data that is read with another depth, byte order or palette"
    return None


def _grey(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W]; of 16 bits the highest eight in use."""
    if image.dtype != np.uint8:
        image = (image >> max(0, int(image.max()).bit_length() - 8)).astype(np.uint8)
    return cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2GRAY) if image.ndim == 3 and image.shape[2] > 1 else image


def _repeats(image: np.ndarray) -> bool:
    """Whether many rows equal earlier ones, in the same order. Rows that do not change along a drawing do not count."""
    first: dict[bytes, int] = {}
    repeated, before, before_first = 0, b"", -1
    for number, row in enumerate(image):
        content = row.tobytes()
        found = first.setdefault(content, number)
        follows = found == before_first + 1 and content != before
        repeated += number - found >= _APART and follows and len(set(content)) >= _LIVELY
        before, before_first = content, found
    return repeated > _REPEATED * len(image)


def _has_other_order(image: np.ndarray, *, is_interlaced: bool) -> bool:
    """Whether the rows fit together better if they are stored in passes, or one after another, against the header."""
    passes = ((0, 8), (4, 8), (2, 4), (1, 2))
    stored = np.concatenate([np.arange(start, len(image), step) for start, step in passes])
    other = image[stored if is_interlaced else np.argsort(stored)]
    here, there = (cv2.norm(rows[1:], rows[:-1], cv2.NORM_L1) for rows in (image, other))
    return here > _FITTER * there


def _other_predictor(image: np.ndarray, predictor: int) -> np.ndarray:
    """The picture as another predictor would give it; values wrap around."""
    if predictor == 1:
        return np.cumsum(image, axis=1, dtype=image.dtype)
    return np.diff(image, axis=1, prepend=np.zeros_like(image[:, :1]))


def _correlations(grey: np.ndarray) -> tuple[float, float]:
    """Of each pixel with its right and its lower neighbour, in [-1, 1]; 1 if the picture is uniform."""
    values = grey.astype(np.float32)
    variance = float(values.var())
    if variance == 0 or min(grey.shape) < 2:
        return 1.0, 1.0
    steps = values[:, 1:] - values[:, :-1], values[1:] - values[:-1]
    right, lower = (1 - float(np.mean(step * step)) / (2 * variance) for step in steps)
    return right, lower


def _smoothness(grey: np.ndarray) -> float:
    return min(_correlations(grey))


def _is_torn(grey: np.ndarray) -> bool:
    """Whether pixels are much more like those of the next row with another width that fits the data as well."""
    height, width = grey.shape
    size = height * width
    pixels = cv2.blur(grey.reshape(1, -1).astype(np.float32), (_SMOOTHED, 1))[0]
    column = np.arange(size) % width

    def difference(distance: int) -> float:
        steps = np.abs(pixels[distance:] - pixels[:-distance])
        # Only pixels of different rows: a pattern can repeat itself along the row.
        return float(steps.mean() if distance >= width else steps[column[:-distance] + distance >= width].mean())

    if height < 3:
        return False
    shortest, longest = (round(side) for side in ((size / _MOST_STRETCHED) ** 0.5, (size * _MOST_STRETCHED) ** 0.5))
    here = difference(width)
    if here < 1:
        return False
    for other in range(max(1, shortest), min(longest, size // 2) + 1):
        if size % other == 0 and other != width:
            clearly = _CLEARLY if other > width else _CLEARLY_NARROWER
            if here > clearly * difference(other):
                return True
    return False
