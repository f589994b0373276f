"""Finds pictures that were decoded without an error and are not what the camera saw: the pixels themselves show it.

BMP, PNM, TIFF and GIF have no checksum. A wrong header gives torn rows, noise, or a repeated strip, in which a model
for parts sees no part and no defect. Pictures that repeat themselves (fabric, grids, text, hatching) are not judged.
"""

from typing import Final

import cv2
import numpy as np

_SAMPLED: Final = 1 << 20  # pixels from the middle of a larger picture
_SMALLEST: Final = 64  # side; less can be a drawing
_SMOOTHED: Final = 16  # pixels along a row whose mean is compared, so that noise counts less
_TORN: Final = 1.45  # times as alike with another width; photographs reach 1.4
_BANDS: Final = 8  # parts of the picture that are compared each for itself
_TORN_BANDS: Final = 6  # of them; a line of text fills fewer
_LINED_UP: Final = 1.3  # times the squared difference that any other distance has
_MOST_ROWS: Final = 16  # of that distance
_MOST_STRETCHED: Final = 8  # sides of a picture, one by the other
_NOISE: Final = 0.3  # correlation of neighbours; pictures of road surfaces have 0.46 and more
_NOISE_SIDE, _NOISE_STD = 200, 20.0  # smaller pictures and fainter noise can be real
_REPEATED: Final = 0.05  # share of the rows
_LIVELY: Final = 32  # different bytes of a row that a camera does not give twice
_APART: Final = 8  # rows; an enlarged picture has the same row several times at once
_FITTER: Final = 1.3  # times as alike
_SMOOTHER: Final = 0.4  # correlation by which another reading of the data is better
_STRIPES: Final = 0.95  # correlation along drawn stripes; with a wrong predictor, pictures reach 0.92
_SMOOTH: Final = 0.8  # of every second column, if the others are the low bytes


def find_misreading(image: np.ndarray, *, predictor: int = 0) -> str | None:
    """Why the decoded picture, uint8 or uint16 [H, W] or [H, W, C], in the file's order, is not one; None if it is.

    Args:
        predictor: of a compressed TIFF: 1 none, 2 differences along the row; 0: not such a file.
    """
    if _repeats(image):
        return "rows of it are repeated exactly, as of a file with blocks in the wrong place"
    height, width = image.shape[:2]
    rows = max(1, min(height, _SAMPLED // width))
    image = image[(height - rows) // 2 :][:rows]
    grey = _grey(image)
    if predictor and _has_wrong_predictor(image, predictor):
        return "the header states a wrong predictor"
    if _is_torn(grey, height):
        return "the header states a wrong width: rows that are next to each other differ"
    if min(grey.shape) < _NOISE_SIDE or grey.std() < _NOISE_STD:
        return None
    every_second = max(_smoothness(grey[:, side::2]) for side in (0, 1))
    if every_second > max(_SMOOTH, _smoothness(grey) + _SMOOTHER):
        return "columns that are next to each other differ, as of 16 bits that are read as 8"
    if image.dtype == np.uint16 and max(_correlations(grey)) < _NOISE:
        return "it is noise, as of data that is read with another depth or byte order"
    return None


def has_wrong_interlacing(image: np.ndarray, *, is_interlaced: bool) -> bool:
    """Whether the rows of a GIF fit together better if they are stored in passes, or one after another.

    `is_interlaced`: what the header states.
    """
    passes = ((0, 8), (4, 8), (2, 4), (1, 2))
    stored = np.concatenate([np.arange(start, len(image), step) for start, step in passes])
    other = image[stored if is_interlaced else np.argsort(stored)]

    def difference(rows: np.ndarray, distance: int) -> float:
        return cv2.norm(rows[distance:], rows[:-distance], cv2.NORM_L1) / (len(rows) - distance)

    if len(image) < _SMALLEST:
        return False
    there = _FITTER * difference(other, 1)
    return all(difference(image, distance) > there for distance in range(1, _MOST_ROWS + 1))


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


def _has_wrong_predictor(image: np.ndarray, predictor: int) -> bool:
    """Whether the picture is much smoother with the other predictor. Values wrap around."""
    if predictor == 1:
        other = np.cumsum(image, axis=1, dtype=image.dtype)
    else:
        other = np.diff(image, axis=1, prepend=np.zeros_like(image[:, :1]))
    here = _correlations(_grey(image))
    return max(here) < _STRIPES and _smoothness(_grey(other)) > min(here) + _SMOOTHER


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


def _is_torn(grey: np.ndarray, height: int) -> bool:
    """Whether pixels are much more like those of the next row with another width that fits the data as well.

    `height`: of the whole picture, of which `grey` has some rows.
    """
    rows, width = grey.shape
    size = height * width
    if min(rows, width) < _SMALLEST:
        return False
    pixels = cv2.blur(grey.reshape(1, -1).astype(np.float32), (_SMOOTHED, 1))[0]
    column = np.arange(pixels.size) % width

    def differences(distance: int) -> np.ndarray:  # float [_BANDS]
        steps = np.abs(pixels[distance:] - pixels[:-distance])
        # Only pixels of different rows: a pattern can repeat itself along the row.
        counts = (column[:-distance] + distance >= width).astype(np.float32)
        sums, numbers = (np.array_split(values, _BANDS) for values in (steps * counts, counts))
        return np.array([part.sum() / max(1, number.sum()) for part, number in zip(sums, numbers, strict=True)])

    here = differences(width)
    if here.mean() < 1:
        return False
    shortest, longest = (round(side) for side in ((size / _MOST_STRETCHED) ** 0.5, (size * _MOST_STRETCHED) ** 0.5))
    for other in range(max(_SMALLEST, shortest), min(longest, size // _SMALLEST, pixels.size // 2) + 1):
        if size % other == 0 and other != width:
            there = _TORN * differences(other)
            if here.mean() > there.mean() and (here > there).sum() >= _TORN_BANDS and _lines_up(pixels, other, width):
                return True
    return False


def _lines_up(pixels: np.ndarray, other: int, width: int) -> bool:
    """Whether `pixels`, float32 [pixels], line up at the distance `other` only. A pattern does so at several."""
    count = min(pixels.size // 2, _MOST_ROWS * width)
    centred = pixels - pixels.mean()
    spectrum = np.fft.rfft(centred, 2 * pixels.size)
    products = np.fft.irfft(np.abs(spectrum) ** 2)[:count]
    squares = np.concatenate([[0], np.cumsum(centred.astype(np.float64) ** 2)])
    distance = np.arange(count)
    sums = squares[pixels.size - distance] + squares[-1] - squares[distance]
    difference = (sums - 2 * products) / (pixels.size - distance)
    elsewhere = (distance > max(other, width) // 4) & (np.abs(distance - other) > other // 4)
    return bool(difference[elsewhere].min() > _LINED_UP * difference[other])
