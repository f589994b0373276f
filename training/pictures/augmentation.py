"""Random changes of a training image that keep its verdict: crop, mirroring, rotation, photometric changes."""

import cv2
import numpy as np

from zsad_training.pictures.drawing import Image, Rng


def resize_mask(mask: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w]: the mask at another size. When shrunk, a pixel is defect from a quarter on, for thin defects."""
    if mask.shape == size_hw:
        return mask
    shrinks = mask.shape[0] > size_hw[0] or mask.shape[1] > size_hw[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(mask.astype(np.float32), size_hw[::-1], interpolation=method)
    return (resized >= (0.25 if shrinks else 0.5)).astype(np.uint8)


def random_crop(rng: Rng, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """With probability 0.5 the whole image, else a crop of 30-100 % of its area; its aspect changes by up to 4:3."""
    height, width = mask.shape
    if rng.random() < 0.5:
        return image, mask
    side, aspect = np.sqrt(rng.uniform(0.3, 1)), np.exp(rng.uniform(-0.29, 0.29) / 2)
    crop_h = max(8, min(height, int(height * side * aspect)))
    crop_w = max(8, min(width, int(width * side / aspect)))
    top, left = int(rng.integers(max(1, height - crop_h + 1))), int(rng.integers(max(1, width - crop_w + 1)))
    return image[top : top + crop_h, left : left + crop_w], mask[top : top + crop_h, left : left + crop_w]


def flip_and_turn(rng: Rng, image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Random mirroring, and rotation by 90 degrees if the image is square, else by 180."""
    turns = int(rng.integers(4)) if image.shape[0] == image.shape[1] else 2 * int(rng.integers(2))
    image, mask = np.rot90(image, turns), np.rot90(mask, turns)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


def photometric(rng: Rng, picture: Image) -> Image:
    """Random changes that are not defects: exposure, contrast, colour cast, uneven light, blur, noise, JPEG."""
    image: Image = picture.astype(np.float32)
    if rng.random() < 0.25:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    elif rng.random() < 0.3:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.7:
        image = (image - 128) * rng.uniform(0.6, 1.5) + 128 + rng.uniform(-40, 40)
    if rng.random() < 0.3:
        image = image * rng.uniform(0.8, 1.2, 3)
    if rng.random() < 0.35:
        height, width = image.shape[:2]
        light = cv2.resize(rng.uniform(0.55, 1.3, (2, 2)).astype(np.float32), (width, height))
        image = image * light[..., None]
    if rng.random() < 0.2:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.3:
        image = image + rng.normal(0, rng.uniform(1, 12), image.shape[:2])[..., None]
    image = image.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        image = 255 - image
    if rng.random() < 0.2:
        _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 95))])
        image = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    return image
