"""The overview of a teach-in as one picture: goods, outliers, scores with the threshold, bad parts with their maps."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from zsad_agent.system import write_whole
from zsad_agent.teaching.goods import Picture, read
from zsad_agent.teaching.profile import Profile
from zsad_agent.teaching.teacher import Taught
from zsad_core.errors import ProfileError, ZsadError
from zsad_core.picture import blend
from zsad_core.types import TAUGHT_THRESHOLD, Prediction

COLUMNS = 8
TILE = 150  # pixels
GAP = 6
LINE = 22  # height of a line of text
MOST_GOODS = 32
MOST_OTHERS = 16  # outliers, and bad parts
BINS = 50
PLOT_H = 160
JPEG_QUALITY = 85
INK, GREEN, RED = (40, 40, 40), (60, 140, 60), (50, 50, 200)  # BGR
WIDTH = COLUMNS * (TILE + GAP) + GAP

Named = tuple[str, Picture]
Predict = Callable[[np.ndarray], Prediction]


def write_sheet(
    taught: Taught, profile: Profile, path: Path, *, goods: Sequence[Named], bad: Sequence[Named], predict: Predict
) -> None:
    """Writes the overview as a JPEG.

    Args:
        taught: the outcome.
        profile: as it was stored.
        path: of the file.
        goods: the pictures that were given, of which the outliers are read again.
        bad: the bad parts; the missed ones are shown first.
        predict: uses the profile.

    Raises:
        ProfileError: the file cannot be written.
        ZsadError: the device failed.
    """
    rows = [_text(f"{profile.product}: learned from {len(profile.goods)} good parts, mode {profile.part.mode}", INK)]
    rows += _tiles([(Path(good.name).name, _tile(good.image), INK) for good in profile.goods[:MOST_GOODS]])
    if outliers := [outlier.name for outlier in taught.outliers]:
        rows.append(_text(f"left out because they look different: {len(outliers)}", RED))
        rows += _tiles([(Path(name).name, _tile(picture), RED) for name, picture in _named(goods, outliers)])
    rows.append(_text("scores of good (green) and bad parts (red); the line is the threshold", INK))
    rows.append(_histogram(list(taught.good_scores.values()), list(taught.bad_scores.values())))
    if taught.bad_scores:
        text = f"bad parts: {len(taught.missed)} of {len(taught.bad_scores)} are missed, shown first"
        rows.append(_text(text, RED if taught.missed else INK))
        order = sorted(taught.bad_scores, key=lambda name: taught.bad_scores[name])
        rows += _tiles(list(_bad_tiles(taught, _named(bad, order), predict)))
    _, encoded = cv2.imencode(".jpg", np.concatenate(rows), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    try:
        write_whole(path, encoded.tobytes())
    except OSError as error:
        raise ProfileError(f"{path}: the overview cannot be written: {error.strerror or error}") from error


def _named(pictures: Sequence[Named], names: Sequence[str]) -> list[tuple[str, Callable[[], np.ndarray]]]:
    """The first pictures of these names, in the order of the names, and what reads each."""
    known = dict(pictures)
    return [(name, partial(read, known[name])) for name in names[:MOST_OTHERS] if name in known]


def _bad_tiles(
    taught: Taught, pictures: Sequence[tuple[str, Callable[[], np.ndarray]]], predict: Predict
) -> Iterator[tuple[str, np.ndarray, tuple[int, int, int]]]:
    for name, picture in pictures:
        score = taught.bad_scores[name]
        colour = RED if name in taught.missed else GREEN
        yield f"{score:.2f} {Path(name).name}", _tile(partial(_with_map, picture, predict)), colour


def _with_map(picture: Callable[[], np.ndarray], predict: Predict) -> np.ndarray:
    image = picture()
    return blend(image, predict(image).anomaly_map)


def _tile(picture: Callable[[], np.ndarray]) -> np.ndarray:
    """uint8 [TILE, TILE, 3]: the whole picture on a square; grey if it can no longer be read."""
    square = np.full((TILE, TILE, 3), 225, np.uint8)
    try:
        image = picture()
    except ZsadError:
        return square
    height, width = image.shape[:2]
    scale = TILE / max(height, width)
    w, h = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (TILE - w) // 2, (TILE - h) // 2
    square[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    return square


def _tiles(tiles: Sequence[tuple[str, np.ndarray, tuple[int, int, int]]]) -> list[np.ndarray]:
    """Rows of tiles with a frame in their colour and their name."""
    rows = []
    for start in range(0, len(tiles), COLUMNS):
        row = np.full((TILE + LINE + GAP, WIDTH, 3), 255, np.uint8)
        for column, (name, tile, colour) in enumerate(tiles[start : start + COLUMNS]):
            left = GAP + column * (TILE + GAP)
            row[:TILE, left : left + TILE] = tile
            cv2.rectangle(row, (left, 0), (left + TILE - 1, TILE - 1), colour, 2)
            _put(row, name, (left, TILE + 14), 0.36, colour)
        rows.append(row)
    return rows


def _histogram(good: Sequence[float], bad: Sequence[float]) -> np.ndarray:
    """uint8 [PLOT_H, WIDTH, 3]: numbers of scores in [0, 1]."""
    plot = np.full((PLOT_H, WIDTH, 3), 255, np.uint8)
    base, span = PLOT_H - LINE, WIDTH - 2 * GAP
    counts = [np.histogram(scores, BINS, (0, 1))[0] for scores in (good, bad)]
    most = max(1, *(int(count.max()) for count in counts))
    for count, colour, offset in zip(counts, (GREEN, RED), (0, span // BINS // 2), strict=True):
        for place, number in enumerate(count):
            left = GAP + place * span // BINS + offset
            top = base - round(int(number) / most * (base - GAP))
            cv2.rectangle(plot, (left, top), (left + span // BINS // 2 - 1, base), colour, -1 if number else 1)
    line = GAP + round(TAUGHT_THRESHOLD * span)
    cv2.line(plot, (line, 0), (line, base), INK, 2)
    for value in (0.0, 0.25, TAUGHT_THRESHOLD, 0.75, 1.0):
        _put(plot, f"{value:g}", (min(GAP + round(value * span), WIDTH - 40), PLOT_H - 6), 0.4, INK)
    return plot


def _text(text: str, colour: tuple[int, int, int]) -> np.ndarray:
    row = np.full((LINE + GAP, WIDTH, 3), 255, np.uint8)
    _put(row, text, (GAP, LINE - 4), 0.5, colour)
    return row


def _put(image: np.ndarray, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    """Draws a text; OpenCV's font has ASCII alone."""
    plain = text.encode("ascii", "replace").decode()[: 24 if size < 0.5 else 120]
    cv2.putText(image, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
