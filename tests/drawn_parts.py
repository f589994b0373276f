"""Drawn scenes: a printed plate or a pin on a noisy background."""

import cv2
import numpy as np

GREY = (120, 125, 118)
PLATE = (60, 140, 200)
INK = (40, 40, 45)


def background(seed: int, hw: tuple[int, int] = (360, 480), colour: tuple[int, int, int] = GREY) -> np.ndarray:
    """uint8 [h, w, 3]: an empty, noisy tray."""
    noise = np.random.default_rng(seed).normal(0, 5, (*hw, 3))
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


def plate(colour: tuple[int, int, int] = PLATE) -> np.ndarray:
    """uint8 BGRA [120, 150, 4]: a plate with a notch, a hole and a print."""
    part = np.zeros((120, 150, 4), np.uint8)
    part[5:115, 5:145] = (*colour, 255)
    part[5:45, 110:145] = 0
    cv2.circle(part, (35, 85), 14, (*INK, 255), -1)
    cv2.rectangle(part, (60, 20), (95, 32), (*INK, 255), -1)
    return part


def pin(colour: tuple[int, int, int] = PLATE) -> np.ndarray:
    """uint8 BGRA [50, 200, 4]: a pin with a dark ring near its left end, and a mark at its upper side."""
    part = np.zeros((50, 200, 4), np.uint8)
    cv2.rectangle(part, (5, 8), (194, 41), (*colour, 255), -1)
    cv2.rectangle(part, (25, 8), (45, 41), (*INK, 255), -1)
    cv2.rectangle(part, (110, 8), (150, 18), (*INK, 255), -1)
    return part


def paste(scene: np.ndarray, part: np.ndarray, centre_xy: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """The scene with a BGRA part, rotated clockwise by `angle`, degrees, its middle at `centre_xy`."""
    height, width = part.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), -angle, 1.0)
    matrix[:, 2] += np.subtract(centre_xy, (width / 2, height / 2))
    laid = cv2.warpAffine(part, matrix, scene.shape[1::-1], flags=cv2.INTER_LINEAR).astype(np.float32)
    cover = laid[..., 3:] / 255
    premultiplied = cv2.warpAffine(part[..., :3] * (part[..., 3:] > 0), matrix, scene.shape[1::-1])
    return (scene * (1 - cover) + premultiplied).clip(0, 255).astype(np.uint8)


def scenes(part: np.ndarray, count: int, *, turn: float = 0.0, seed: int = 0, hw: tuple[int, int] = (360, 480)) -> list:
    """(image, centre, angle) of `count` scenes: the part anywhere, rotated by up to `turn` degrees."""
    chance = np.random.default_rng(seed)
    room = max(part.shape[:2]) * 0.6
    made = []
    for number in range(count):
        centre = chance.uniform(room, hw[1] - room), chance.uniform(room, hw[0] - room)
        angle = chance.uniform(-turn, turn)
        made.append((paste(background(seed + number, hw), part, centre, angle), centre, angle))
    return made


def images(made: list) -> list[np.ndarray]:
    return [image for image, _, _ in made]
