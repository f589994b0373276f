"""Synthetic anomalies, drawn into any good image. There is no generator network.

The kinds follow CutPaste (arXiv 2104.04015) and its scar, DRAEM's noise-masked texture blends (arXiv 2108.07610), NSA's
smooth patches (arXiv 2109.15222), and our own strokes, stains, pits, cracks, warps and missing parts. Images are uint8
BGR [H, W, 3]. Masks are uint8 [H, W] of 0 and 1 and mark only pixels that changed visibly.
"""

from collections.abc import Callable

import cv2
import numpy as np

from zsad_training.pictures import drawing
from zsad_training.pictures.drawing import MIN_AREA_PX, VISIBLE, Image, Rng

# (rng, image, donor, centre x y) -> (changed image, its opacity float32 [H, W])
Kind = Callable[[Rng, Image, Image, np.ndarray], tuple[Image, np.ndarray]]


def add_anomalies(
    rng: Rng, picture: Image, donor: Image, where: np.ndarray | None = None, *, of_edges: bool = False
) -> tuple[Image, np.ndarray]:
    """The image with one to three anomalies, and their mask.

    Args:
        picture: uint8 [H, W, 3].
        donor: another image of the same size; some anomalies use its texture.
        where: uint8 [H, W], 1 where anomalies are allowed; None: everywhere.
        of_edges: for printed or etched patterns: most anomalies are at edges, in colours of the image.
    """
    result = picture.copy()
    mask = np.zeros(picture.shape[:2], np.uint8)
    allowed = np.ones_like(mask) if where is None else where
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        kind = _bite if of_edges and rng.random() < 0.7 else KINDS[int(rng.integers(len(KINDS)))]
        changed, alpha = kind(rng, result, donor, _anywhere(rng, allowed))
        alpha = alpha * allowed
        blended = result + (changed.astype(np.float32) - result) * alpha[..., None]
        blended = blended.clip(0, 255).astype(np.uint8)
        changed_enough = (cv2.absdiff(blended, result).max(axis=2) >= VISIBLE) & (alpha > 0.1)
        closed = cv2.morphologyEx(changed_enough.astype(np.uint8), cv2.MORPH_CLOSE, drawing.disc(5))
        visible = (closed > 0) & (alpha > 0.02)
        if visible.sum() >= MIN_AREA_PX:
            mask[visible] = 1
            result = blended
    return result, mask


def _anywhere(rng: Rng, allowed: np.ndarray) -> np.ndarray:
    """A random allowed pixel, (x, y) as float."""
    flat = np.flatnonzero(allowed)
    index = int(flat[int(rng.integers(flat.size))]) if flat.size else allowed.size // 2
    return np.array([index % allowed.shape[1], index // allowed.shape[1]], np.float64)


def _cut_paste(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    source = donor if rng.random() < 0.4 else picture
    height, width = picture.shape[:2]
    angle = float(rng.choice([90, 180, 270, rng.uniform(0, 360)]))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, rng.uniform(0.7, 1.4))
    matrix[0, 2] += rng.uniform(-0.4, 0.4) * width
    matrix[1, 2] += rng.uniform(-0.4, 0.4) * height
    moved = cv2.warpAffine(source, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
    if rng.random() < 0.5:
        moved = (moved * rng.uniform(0.6, 1.4)).clip(0, 255).astype(np.uint8)
    return moved, drawing.shape(rng, picture, centre)


def _scar(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    size = (side * rng.uniform(0.01, 0.05), side * rng.uniform(0.05, 0.35))
    cv2.fillPoly(alpha, [cv2.boxPoints((tuple(centre), size, rng.uniform(0, 180))).astype(np.int32)], 1.0)
    changed = (
        np.roll(donor, int(rng.integers(side)), axis=0) if rng.random() < 0.5 else drawing.tinted(rng, picture, centre)
    )
    return changed, alpha


def _blend(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    return donor, drawing.shape(rng, picture, centre) * np.float32(rng.uniform(0.35, 1))


def _stain(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    alpha = drawing.shape(rng, picture, centre)
    alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 6)) * np.float32(rng.uniform(0.3, 1))
    return drawing.tinted(rng, picture, centre), alpha


def _gloss(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A band or patch of other brightness and contrast, with a soft edge: worn, polished or badly ground."""
    height, width = picture.shape[:2]
    side = min(height, width)
    alpha: np.ndarray = np.zeros((height, width), np.float32)
    size = side * np.exp(rng.uniform(np.log([0.15, 0.08]), np.log([1.2, 0.4])))
    box = cv2.boxPoints((tuple(centre), tuple(size), float(rng.choice([0, 90, rng.uniform(0, 180)]))))
    cv2.fillPoly(alpha, [box.astype(np.int32)], 1.0)
    alpha = cv2.GaussianBlur(alpha, (0, 0), side * rng.uniform(0.005, 0.03))
    mean = cv2.blur(picture, (side // 8 | 1, side // 8 | 1)).astype(np.float32)
    changed = mean + (picture - mean) * rng.choice([rng.uniform(0.0, 0.6), rng.uniform(1.4, 2.5)])
    changed = changed + rng.choice([-1, 1]) * rng.uniform(VISIBLE, 70)
    return changed.clip(0, 255).astype(np.uint8), alpha


def _crack(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    thickness = max(1, round(side * float(np.exp(rng.uniform(np.log(0.002), np.log(0.015))))))
    branches: list[tuple[np.ndarray, float]] = [(centre, rng.uniform(0, 2 * np.pi))]
    for _ in range(int(rng.integers(1, 4))):
        point, heading = branches.pop(0)
        for _ in range(int(rng.integers(5, 25))):
            heading += rng.normal(0, 0.45)
            end = point + np.array([np.cos(heading), np.sin(heading)]) * side * rng.uniform(0.01, 0.04)
            cv2.line(
                alpha,
                drawing.point(point),
                drawing.point(end),
                1.0,
                max(1, thickness + int(rng.integers(-1, 2))),
                cv2.LINE_AA,
            )
            if rng.random() < 0.08:
                branches.append((end, heading + rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)))
            point = end
        if not branches:
            break
    return drawing.tinted(rng, picture, centre), drawing.softened(rng, alpha)


def _scratch(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    for _ in range(int(rng.choice([1, 1, 2, 4]))):
        start = centre + rng.normal(0, side * 0.03, 2)
        direction = rng.normal(0, 1, 2)
        direction *= side * rng.uniform(0.05, 0.4) / (np.linalg.norm(direction) + 1e-6)
        bend = np.array([-direction[1], direction[0]]) * rng.normal(0, 0.15)
        t = np.linspace(0, 1, 12)[:, None]
        points = start + direction * t + bend * (4 * t * (1 - t))
        thickness = max(1, round(side * float(np.exp(rng.uniform(np.log(0.002), np.log(0.01))))))
        cv2.polylines(alpha, [points.astype(np.int32)], False, 1.0, thickness, cv2.LINE_AA)
    return drawing.tinted(rng, picture, centre), drawing.softened(rng, alpha)


def _pits(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    side = min(picture.shape[:2])
    alpha = np.zeros(picture.shape[:2], np.float32)
    for _ in range(int(rng.choice([1, 1, 1, 2, 5]))):
        radius = side * float(np.exp(rng.uniform(np.log(0.005), np.log(0.03))))
        axes = (max(1, round(radius)), max(1, round(radius * rng.uniform(0.5, 1))))
        point = centre + rng.normal(0, side * 0.04, 2)
        cv2.ellipse(alpha, drawing.point(point), axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    return drawing.tinted(rng, picture, centre), drawing.softened(rng, alpha)


def _warp(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    height, width = picture.shape[:2]
    radius = min(height, width) * rng.uniform(0.05, 0.2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    fall = np.exp(-(dx**2 + dy**2) / np.float32(2 * (radius / 2) ** 2))
    if rng.random() < 0.5:  # twist
        angle = fall * np.float32(rng.choice([-1, 1]) * rng.uniform(0.8, 2.5))
        map_x = centre[0] + dx * np.cos(angle) - dy * np.sin(angle)
        map_y = centre[1] + dx * np.sin(angle) + dy * np.cos(angle)
    else:  # shift
        shift = rng.normal(0, 1, 2)
        shift *= radius * rng.uniform(0.5, 1.2) / (np.linalg.norm(shift) + 1e-6)
        map_x, map_y = x + fall * shift[0], y + fall * shift[1]
    warped = cv2.remap(
        picture, map_x.astype(np.float32), map_y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
    )
    return warped, (fall > 0.1).astype(np.float32)


def _missing(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    if rng.random() < 0.5:
        changed = cv2.GaussianBlur(picture, (0, 0), min(picture.shape[:2]) * rng.uniform(0.01, 0.05))
    else:
        corner = picture[:: picture.shape[0] - 1, :: picture.shape[1] - 1].reshape(-1, 3)
        changed = np.full_like(picture, corner[int(rng.integers(4))])
    return changed, drawing.shape(rng, picture, centre)


def _bite(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A blob or a line in a nearby colour: a notch in an edge, a spur, a hole, a bridge, a gap."""
    height, width = picture.shape[:2]
    side = min(height, width)
    centre = drawing.near_edge(rng, picture, centre)
    reach = side * rng.uniform(0.01, 0.08)
    for _ in range(8):  # a nearby colour that differs from the one at the centre
        other = np.clip(centre + rng.normal(0, reach, 2), 0, [width - 1, height - 1]).astype(int)
        colour, here = picture[other[1], other[0]], picture[int(centre[1]), int(centre[0])]
        if cv2.absdiff(colour, here).max() > 2 * VISIBLE:
            break
    alpha = np.zeros((height, width), np.float32)
    radius = side * float(np.exp(rng.uniform(np.log(0.006), np.log(0.035))))
    if rng.random() < 0.3:
        end = centre + rng.normal(0, 1, 2) * radius * 3
        cv2.line(
            alpha,
            drawing.point(centre),
            drawing.point(end),
            1.0,
            max(1, round(radius * rng.uniform(0.3, 0.8))),
            cv2.LINE_AA,
        )
    else:
        corners = int(rng.integers(5, 12))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius * rng.uniform(0.5, 1.2, (corners, 1))
        cv2.fillPoly(alpha, [(centre + ring).astype(np.int32)], 1.0, cv2.LINE_AA)
    return np.broadcast_to(colour, picture.shape).copy(), alpha


def _break(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A break along a ragged line: a gap in the colour of the background."""
    height, width = picture.shape[:2]
    side = min(height, width)
    heading = rng.uniform(0, 2 * np.pi)
    along, across = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
    offsets = np.cumsum(rng.normal(0, side * 0.012, 41))
    offsets -= offsets[20]
    line = centre + along * np.linspace(-1, 1, 41)[:, None] * side * rng.uniform(0.1, 0.9) + across * offsets[:, None]
    gap = max(1, round(side * float(np.exp(rng.uniform(np.log(0.004), np.log(0.03))))))
    alpha = np.zeros((height, width), np.float32)
    cv2.polylines(alpha, [line.astype(np.int32)], False, 1.0, gap, cv2.LINE_AA)
    corner = picture[:: height - 1, :: width - 1].reshape(-1, 3)
    changed = np.full_like(picture, corner[int(rng.integers(4))])
    if rng.random() < 0.5:
        changed = (changed * 0.3 + cv2.GaussianBlur(picture, (0, 0), 3) * 0.3).clip(0, 255).astype(np.uint8)
    return changed, alpha


def _paste_smoothly(rng: Rng, picture: Image, donor: Image, centre: np.ndarray) -> tuple[Image, np.ndarray]:
    """A patch from another place, blended in the gradients (Poisson; NSA, arXiv 2109.15222)."""
    height, width = picture.shape[:2]
    alpha = drawing.shape(rng, picture, centre)
    hard = (alpha > 0.5).astype(np.uint8)
    hard[[0, 1, -2, -1]], hard[:, [0, 1, -2, -1]] = 0, 0
    if hard.sum() < MIN_AREA_PX:
        return picture, alpha * 0
    source = donor if rng.random() < 0.4 else np.roll(picture, tuple(rng.integers(8, [height, width])), axis=(0, 1))
    x, y, w, h = cv2.boundingRect(hard)
    mode = cv2.NORMAL_CLONE if rng.random() < 0.5 else cv2.MIXED_CLONE
    try:
        changed = cv2.seamlessClone(source, picture, hard * 255, (x + w // 2, y + h // 2), mode)
    except cv2.error:  # it refuses some masks at the border
        return picture, alpha * 0
    return changed, cv2.dilate(hard, drawing.disc(3)).astype(np.float32)


KINDS: tuple[Kind, ...] = (
    _cut_paste,
    _paste_smoothly,
    _scar,
    _blend,
    _stain,
    _gloss,
    _crack,
    _crack,
    _scratch,
    _pits,
    _warp,
    _missing,
    _bite,
    _bite,
    _break,
)
