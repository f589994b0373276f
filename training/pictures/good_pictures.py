"""Synthetic images of good parts: tileable textures, printed patterns, shaded objects, spots and fixtures.

Images are uint8 BGR [H, W, 3].
"""

import cv2
import numpy as np

from zsad_training.pictures import drawing
from zsad_training.pictures.drawing import Image, Rng


def texture_picture(rng: Rng, thumbnail: Image, size_hw: tuple[int, int]) -> Image:
    """An image of `size_hw` from a tileable texture, at a random scale and rotation."""
    height, width = size_hw
    scale = float(np.exp(rng.uniform(np.log(0.7), np.log(3.0)))) * min(size_hw) / 256
    angle = float(rng.choice([0, 90, 180, 270])) + (rng.uniform(-45, 45) if rng.random() < 0.3 else 0.0)
    matrix = cv2.getRotationMatrix2D(
        (rng.uniform(0, thumbnail.shape[1]), rng.uniform(0, thumbnail.shape[0])), angle, scale
    )
    return cv2.warpAffine(thumbnail, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def printed_picture(rng: Rng, size_hw: tuple[int, int]) -> Image:
    """A printed, etched or stamped pattern: tracks, pads, holes, bars and letters in two colours, with sharp edges.

    Such images teach that an edge is not a defect, and what a ragged edge looks like. They imitate no real product.
    """
    height, width = size_hw
    plate = np.zeros((height, width), np.uint8)
    pitch = max(1, int(min(size_hw) * np.exp(rng.uniform(np.log(0.03), np.log(0.12)))))
    thick = max(1, int(pitch * rng.uniform(0.15, 0.6)))
    for _ in range(int(rng.integers(4, 40))):  # tracks: runs of straight pieces on a grid, at 45 degrees
        point = np.array([rng.integers(0, width // pitch + 1), rng.integers(0, height // pitch + 1)]) * pitch
        heading = int(rng.integers(8))
        lanes = int(rng.integers(1, 6)) if rng.random() < 0.4 else 1
        points = [point]
        for _ in range(int(rng.integers(1, 6))):
            step = np.array(_COMPASS[heading]) * pitch * int(rng.integers(1, 6))
            points.append(points[-1] + step)
            heading = (heading + int(rng.integers(-1, 2))) % 8
        for lane in range(lanes):
            shifted = np.array(points) + lane * pitch * np.array(_COMPASS[(int(rng.integers(2)) * 2) % 8])
            cv2.polylines(plate, [shifted.astype(np.int32)], False, 1, thick)
        if rng.random() < 0.6:
            for end in (points[0], points[-1]):
                _pad(rng, plate, end, pitch)
    for _ in range(int(rng.integers(0, 6))):  # rows of pads
        start = np.array([rng.integers(0, width), rng.integers(0, height)])
        along = np.array(_COMPASS[int(rng.integers(4)) * 2]) * pitch
        state = rng.bit_generator.state
        for index in range(int(rng.integers(2, 14))):
            rng.bit_generator.state = state  # equal pads
            _pad(rng, plate, start + index * along, pitch)
    if rng.random() < 0.3:
        text = "".join(rng.choice(list("ABCDEFGHJKLMNPRSTUVWXYZ0123456789-"), int(rng.integers(2, 9))))
        at = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        cv2.putText(plate, text, at, cv2.FONT_HERSHEY_SIMPLEX, pitch / 25, 1, max(1, thick // 2))
    if rng.random() < 0.4:
        plate = 1 - plate
    if rng.random() < 0.5:
        back, front = (0.0, 255.0) if rng.random() < 0.5 else (255.0, 0.0)
        dark, light = np.full(3, back), np.full(3, front)
    else:
        dark, light = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
        if np.abs(dark - light).max() < 60:
            light = (dark + 128) % 256
    alpha: np.ndarray = plate.astype(np.float32)
    if rng.random() < 0.6:
        alpha = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.2))
    return (dark + (light - dark) * alpha[..., None]).clip(0, 255).astype(np.uint8)


_COMPASS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))


def _pad(rng: Rng, plate: np.ndarray, at: np.ndarray, pitch: int) -> None:
    radius = max(2, int(pitch * rng.uniform(0.25, 0.6)))
    if rng.random() < 0.6:
        cv2.circle(plate, drawing.point(at), radius, 1, -1)
    else:
        half = np.array([radius, int(radius * rng.uniform(0.4, 1.2))])
        cv2.rectangle(plate, drawing.point(at - half), drawing.point(at + half), 1, -1)
    if rng.random() < 0.4:
        cv2.circle(plate, drawing.point(at), max(1, int(radius * rng.uniform(0.25, 0.5))), 0, -1)


def object_picture(rng: Rng, surface: Image, background: Image) -> tuple[Image, np.ndarray]:
    """An image of a shaded object with a `surface` on a `background`, and its silhouette, uint8 [H, W] of 0 and 1.

    Such images teach that outlines, backgrounds and regular holes are not defects.
    """
    height, width = surface.shape[:2]
    silhouette = np.zeros((height, width), np.uint8)
    centre = np.array([width, height]) * rng.uniform(0.42, 0.58, 2)
    radius = min(height, width) * rng.uniform(0.25, 0.48)
    kind = rng.integers(4)
    if kind == 0:  # ellipse
        axes = (int(radius), int(radius * rng.uniform(0.4, 1)))
        cv2.ellipse(silhouette, drawing.point(centre), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    elif kind == 1:  # rounded box
        box = cv2.boxPoints((tuple(centre), (radius * 2, radius * 2 * rng.uniform(0.3, 1)), rng.uniform(0, 90)))
        cv2.fillPoly(silhouette, [box.astype(np.int32)], 1)
        rounding = drawing.disc(int(radius * rng.uniform(0.05, 0.4)) | 1)
        silhouette = cv2.morphologyEx(silhouette, cv2.MORPH_OPEN, rounding).astype(np.uint8)
    else:  # polygon or wheel
        corners = int(rng.integers(3, 14))
        angles = np.arange(corners) * 2 * np.pi / corners + rng.uniform(0, 6.3)
        lengths = radius * (1 if kind == 2 else rng.uniform(0.75, 1, corners))
        points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.reshape(lengths, (-1, 1))
        cv2.fillPoly(silhouette, [points.astype(np.int32)], 1)
    if rng.random() < 0.3:
        cv2.circle(silhouette, drawing.point(centre), int(radius * rng.uniform(0.15, 0.5)), 0, -1)
    if rng.random() < 0.5:
        background = np.full_like(background, rng.integers(0, 256, 3) if rng.random() < 0.3 else rng.integers(0, 256))
    alpha = cv2.GaussianBlur(silhouette.astype(np.float32), (0, 0), rng.uniform(0.6, 2))[..., None]
    depth = cv2.distanceTransform(silhouette, cv2.DIST_L2, 3)[..., None] / max(radius, 1)
    shade = 1 - rng.uniform(0, 0.6) * np.exp(-depth * rng.uniform(3, 20))
    picture = surface * shade * alpha + background * (1 - alpha)
    return picture.clip(0, 255).astype(np.uint8), silhouette


def with_inclusions(rng: Rng, surface: Image) -> Image:
    """The surface with many similar spots.

    Such images teach that repeated spots are not defects: chips in a biscuit, knots, rivets, perforation.
    """
    side = min(surface.shape[:2])
    alpha: np.ndarray = np.zeros(surface.shape[:2], np.float32)
    radius = side * float(np.exp(rng.uniform(np.log(0.008), np.log(0.04))))
    count = int(rng.integers(6, 40))
    if rng.random() < 0.4:  # in rows
        pitch = radius * rng.uniform(3, 8)
        angle, start = rng.uniform(0, np.pi / 2), rng.uniform(0, pitch, 2)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        steps = np.arange(-int(1.5 * side / pitch) - 1, int(1.5 * side / pitch) + 2)
        points = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2) * pitch @ turn.T + start
        ragged = 0.0
    else:
        points = rng.uniform(0, 1, (count, 2)) * np.array(surface.shape[1::-1])
        ragged = float(rng.uniform(0, 0.5))
    flatness = rng.uniform(0.5, 1)
    for point in points:
        size = radius * np.exp(rng.normal(0, ragged, 2)) * np.array([1, flatness])
        axes = np.maximum(1, size)
        cv2.ellipse(
            alpha, drawing.point(point), drawing.point(axes), rng.uniform(0, 180) * (ragged > 0), 0, 360, 1.0, -1
        )
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(0.5, radius * rng.uniform(0.05, 0.3)))
    changed = drawing.tinted(rng, surface, points[0])
    return (surface + (changed.astype(np.float32) - surface) * alpha[..., None]).clip(0, 255).astype(np.uint8)


def with_fixture(rng: Rng, picture: Image) -> Image:
    """The image with the rim of a tray, a rail or a frame along one or two of its sides.

    Such images teach that the border of an image seldom shows the part.
    """
    height, width = picture.shape[:2]
    side = min(height, width)
    result: np.ndarray = picture.astype(np.float32)
    for _ in range(int(rng.integers(1, 3))):
        edge = int(rng.integers(4))
        depth = side * float(np.exp(rng.uniform(np.log(0.015), np.log(0.2))))
        slope = rng.normal(0, 0.03)
        along, across = np.meshgrid(np.arange(width if edge < 2 else height), np.arange(height if edge < 2 else width))
        distance = depth + slope * along - across  # positive inside
        alpha = np.clip(distance / rng.uniform(0.5, 4) + 0.5, 0, 1)
        level = rng.uniform(0, 255, 3) if rng.random() < 0.3 else np.full(3, rng.uniform(0, 255))
        band = level + np.zeros((*alpha.shape, 3))
        for _ in range(int(rng.integers(0, 4))):  # steps and highlights along it
            at, thick = rng.uniform(0, depth), rng.uniform(1, max(2, depth / 3))
            stripe = np.exp(-(((across - slope * along - at) / thick) ** 2))[..., None]
            band = band + stripe * rng.choice([-1, 1]) * rng.uniform(20, 150)
        if edge in (1, 3):
            band, alpha = band[::-1], alpha[::-1]
        if edge >= 2:
            band, alpha = band.transpose(1, 0, 2), alpha.T
        result = result + (band - result) * alpha[..., None]
    return result.clip(0, 255).astype(np.uint8)
