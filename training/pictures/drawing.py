"""What good images and anomalies share: shapes, colours, edges. Images are uint8 BGR [H, W, 3], points (x, y)."""

import cv2
import numpy as np

Rng = np.random.Generator
Image = np.ndarray

VISIBLE = 14  # grey levels by which a pixel must differ to count as anomalous
MIN_AREA_PX = 12


def near_edge(rng: Rng, picture: Image, centre: np.ndarray) -> np.ndarray:
    """The pixel of the strongest edge in a window around `centre`, (x, y) as float."""
    height, width = picture.shape[:2]
    half = max(4, min(height, width) // 12)
    left, top = max(0, int(centre[0]) - half), max(0, int(centre[1]) - half)
    window = picture[top : top + 2 * half, left : left + 2 * half].max(axis=2).astype(np.float32)
    steep = np.abs(cv2.Sobel(window, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(window, cv2.CV_32F, 0, 1))
    steep += rng.uniform(0, 30, steep.shape).astype(np.float32)
    y, x = np.unravel_index(int(np.argmax(steep)), steep.shape)
    return np.array([left + x, top + y], np.float64)


def tinted(rng: Rng, picture: Image, centre: np.ndarray) -> Image:
    """The image, visibly darker, lighter or in another colour."""
    if rng.random() < 0.25:
        return np.full_like(picture, rng.integers(0, 256, 3))
    shift = rng.choice([-1, -1, 1]) * rng.uniform(25, 130)
    tint = rng.uniform(-40, 40, 3) if rng.random() < 0.3 else np.zeros(3)
    return (picture + shift + tint).clip(0, 255).astype(np.uint8)


def shape(rng: Rng, picture: Image, centre: np.ndarray) -> np.ndarray:
    """float32 [H, W]: an irregular blob, an ellipse or a box around `centre`; most are small."""
    height, width = picture.shape[:2]
    alpha = np.zeros((height, width), np.float32)
    radius = min(height, width) * float(np.exp(rng.uniform(np.log(0.015), np.log(0.2))))
    axes = np.maximum(1, radius * rng.uniform(0.4, 1, 2))
    kind = rng.random()
    if kind < 0.2:
        box = cv2.boxPoints((tuple(centre), tuple(axes * 2), rng.uniform(0, 180)))
        cv2.fillPoly(alpha, [box.astype(np.int32)], 1.0)
        return alpha
    cv2.ellipse(alpha, point(centre), point(axes), rng.uniform(0, 180), 0, 360, 1.0, -1)
    if kind > 0.45:
        cells = int(np.clip(min(height, width) / (radius * rng.uniform(0.3, 1)), 2, 64))
        noise = cv2.resize(
            rng.random((cells, cells)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
        )
        alpha = alpha * (noise > rng.uniform(0.3, 0.6))
    return cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.5, 1.5))


def softened(rng: Rng, alpha: np.ndarray) -> np.ndarray:
    """An opacity, sometimes blurred, and multiplied by 0.5 to 1."""
    blurred = cv2.GaussianBlur(alpha, (0, 0), rng.uniform(0.4, 1.2)) if rng.random() < 0.6 else alpha
    return blurred * np.float32(rng.uniform(0.5, 1))


def point(xy: np.ndarray) -> tuple[int, int]:
    """A point as OpenCV takes it, rounded towards 0."""
    return int(xy[0]), int(xy[1])


def disc(size: int) -> np.ndarray:
    """uint8 [size, size]: a disc, for morphology."""
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(size, 1), max(size, 1)))
