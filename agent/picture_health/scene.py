"""Compares a picture's fixed background with an earlier one: likeness, shift, sharpness. Pure functions.

Everything is computed per tile, and the median of the tiles counts. So parts may cover less than half of the fixed
background without a finding. Light may change: each tile is corrected for its own mean and contrast.
Letters: H W pixels of the frame, h w of its small picture, r c rows and columns of tiles.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

MEDIUM_WIDTH = 640  # for sharpness: the models do not see finer detail either
SMALL_WIDTH = 160  # for likeness and position
TILE = 8  # pixels of the small view; 32 of the medium one
MIN_TILE_STABLE = TILE * TILE // 2
MIN_TILE_STD = 2.0  # grey levels; flatter tiles cannot be distinguished from noise
MIN_TILES = 12  # position is judged only with so many tiles with structure
SURE_MATCH = 0.85  # with this likeness in the original place no shift is searched
SHIFT_GAIN = 0.2  # a shift counts only if the likeness there is so much higher
CANDIDATES = 3  # highest peaks of the correlation that are checked
MAX_SHIFT = 0.3  # share of width and height
NEIGHBOURS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dx or dy]


@dataclass(frozen=True, slots=True)
class Views:
    """One frame at the two sizes that are compared, grey."""

    medium: np.ndarray  # float32 [H', W'], about 640 wide, never enlarged
    small: np.ndarray  # float32 [h, w], 160 wide, slightly smoothed


@dataclass(frozen=True, slots=True)
class Position:
    """The present position of the fixed background."""

    match: float  # likeness in [-1, 1] at that place
    shift_xy: tuple[int, int] = (0, 0)  # from the original place, pixels of the small view

    @property
    def shift_share(self) -> float:
        """The distance as a share of the picture's width."""
        return math.hypot(*self.shift_xy) / SMALL_WIDTH


def small_height(height: int, width: int) -> int:
    """Height in pixels of the small view of a frame of this size."""
    _, (height, width) = _medium_size(height, width)
    return max(TILE, round(height * SMALL_WIDTH / width))


def _medium_size(height: int, width: int) -> tuple[int, tuple[int, int]]:
    """For a frame of this size: the step between sampled pixels, and height and width of the medium view."""
    step = max(1, width // (2 * MEDIUM_WIDTH))  # every third pixel of a 4K frame is enough
    height, width = -(-height // step), -(-width // step)
    if width > MEDIUM_WIDTH:
        height, width = max(1, round(height * MEDIUM_WIDTH / width)), MEDIUM_WIDTH
    return step, (height, width)


def views(image_bgr: np.ndarray) -> Views:
    """Both views of a frame, uint8 BGR [H, W, 3]."""
    step, hw = _medium_size(*image_bgr.shape[:2])
    grey = cv2.cvtColor(np.ascontiguousarray(image_bgr[::step, ::step]), cv2.COLOR_BGR2GRAY)
    if grey.shape != hw:
        grey = cv2.resize(grey, hw[::-1], interpolation=cv2.INTER_AREA)
    small_wh = SMALL_WIDTH, small_height(*image_bgr.shape[:2])
    small = cv2.resize(grey, small_wh, interpolation=cv2.INTER_AREA).astype(np.float32)
    return Views(grey.astype(np.float32), cv2.GaussianBlur(small, (0, 0), 1.0))


def tile_sums(values: np.ndarray) -> np.ndarray:
    """float32 [r, c]: the sum over each whole tile of values [h, w]."""
    rows, columns = values.shape[0] // TILE, values.shape[1] // TILE
    whole = values[: rows * TILE, : columns * TILE]
    sums: np.ndarray = whole.reshape(rows, TILE, columns, TILE).sum(axis=(1, 3))
    return sums


def tile_stds(small: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float32 [r, c]: each tile's contrast over the pixels of weight 1; 0 for tiles with too few of them."""
    count = tile_sums(weight)
    safe = np.maximum(count, 1)
    mean = tile_sums(small * weight) / safe
    variance = np.maximum(tile_sums(small * small * weight) / safe - mean * mean, 0)
    return np.where(count >= MIN_TILE_STABLE, np.sqrt(variance), 0).astype(np.float32)


def tile_correlations(reference: np.ndarray, small: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """float32 [r, c]: each tile's normalised correlation in [-1, 1]; NaN where the reference has no structure.

    All arguments are float32 [h, w]. Pixels of `weight` 1 count, those of weight 0 do not.
    """
    safe = np.maximum(tile_sums(weight), 1)
    means = tile_sums(reference * weight) / safe, tile_sums(small * weight) / safe
    covariance = tile_sums(reference * small * weight) / safe - means[0] * means[1]
    reference_std = tile_stds(reference, weight)
    std = np.maximum(tile_stds(small, weight), 0.5)  # a live tile without contrast correlates with nothing
    with_structure = reference_std >= MIN_TILE_STD
    correlations: np.ndarray = np.where(with_structure, covariance / np.maximum(reference_std * std, 1e-6), np.nan)
    return correlations


def tile_match(reference: np.ndarray, small: np.ndarray, weight: np.ndarray) -> tuple[float, int]:
    """The median of the tiles' correlations, and the number of tiles compared."""
    correlations = tile_correlations(reference, small, weight)
    compared = correlations[~np.isnan(correlations)]
    return (float(np.median(compared)), compared.size) if compared.size else (0.0, 0)


def locate(reference: np.ndarray, small: np.ndarray, stable: np.ndarray) -> Position:
    """Finds the fixed background in its original place or shifted.

    All arguments are float32 [h, w]. `small` is the live picture's small view, `stable` is 1 where the reference is
    fixed, else 0. At least `MIN_TILES` tiles of the reference must have structure.
    """
    match, tiles = tile_match(reference, small, stable)
    best = Position(match)
    if match >= SURE_MATCH:
        return best

    def better(shifts: Iterable[tuple[int, int]], than: float) -> Position:
        found = best
        for dx, dy in shifts:
            moved, inside = _moved_back(small, dx, dy)
            shifted_match, overlap = tile_match(reference, moved, stable * inside)
            if overlap >= max(MIN_TILES, 0.4 * tiles) and shifted_match > max(found.match, than):
                found = Position(shifted_match, (dx, dy))
        return found

    best = better(NEIGHBOURS, match)  # a repeating pattern matches in many places: the nearest counts
    return better(_shift_candidates(reference, small, stable), best.match + SHIFT_GAIN)


def _shift_candidates(reference: np.ndarray, small: np.ndarray, stable: np.ndarray) -> list[tuple[int, int]]:
    """The most likely shifts in pixels of the small view, by phase correlation of the fixed parts."""
    soft = cv2.GaussianBlur(stable, (0, 0), 2.0) * cv2.createHanningWindow(small.shape[::-1], cv2.CV_32F)
    before, now = (np.fft.rfft2((one - cv2.GaussianBlur(one, (0, 0), 8.0)) * soft) for one in (reference, small))
    cross = now * np.conj(before)
    cross /= np.maximum(np.abs(cross), 1e-6)
    height, width = small.shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    surface = np.fft.irfft2(cross * np.exp(-((frequency / 0.2) ** 2)), s=small.shape)
    rows = np.minimum(np.arange(height), height - np.arange(height))[:, None]
    columns = np.minimum(np.arange(width), width - np.arange(width))[None]
    surface[(rows > MAX_SHIFT * height) | (columns > MAX_SHIFT * width)] = -np.inf
    found = []
    for _ in range(CANDIDATES):
        y, x = np.unravel_index(int(surface.argmax()), surface.shape)
        found.append((int(x) - width * (2 * x > width), int(y) - height * (2 * y > height)))
        around = np.ix_(np.arange(y - 2, y + 3) % height, np.arange(x - 2, x + 3) % width)
        surface[around] = -np.inf
    return found


def followed(view: Views, position: Position) -> Views:
    """The views moved back to the place of the reference, wrapped around."""
    dx, dy = position.shift_xy
    scale = view.medium.shape[1] / view.small.shape[1]
    medium = np.roll(view.medium, (-round(dy * scale), -round(dx * scale)), axis=(0, 1))
    return Views(medium, np.roll(view.small, (-dy, -dx), axis=(0, 1)))


def _moved_back(small: np.ndarray, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture moved by (-dx, -dy), and a mask, float32 [h, w]: 1 where it then has pixels."""
    inside = np.zeros_like(small)
    height, width = small.shape
    inside[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)] = 1
    return np.roll(small, (-dy, -dx), axis=(0, 1)), inside


def tile_energies(view: Views) -> np.ndarray:
    """float32 [r, c]: mean squared Laplacian of each tile above the noise; it falls when the lens loses focus.

    The flattest tiles measure the noise, which would look like sharpness with more gain or less light.
    """
    smooth = cv2.GaussianBlur(view.medium, (0, 0), 1.0)
    squared = np.square(cv2.Laplacian(smooth, cv2.CV_32F, ksize=1))
    rows, columns = view.small.shape[0] // TILE, view.small.shape[1] // TILE
    energies = cv2.resize(squared, (columns, rows), interpolation=cv2.INTER_AREA)
    above: np.ndarray = energies - np.quantile(energies, 0.05)
    return above
