"""Pictures of parts that a small bundle with feature networks can be taught."""

from pathlib import Path

import cv2
import numpy as np


def part(seed: int, *, blot: bool = False) -> np.ndarray:
    """uint8 [96, 96, 3]: a surface with bright fields that differ a little, and a dark red blot if it is bad."""
    random, same = np.random.default_rng(seed), np.random.default_rng(1007)
    fields = same.uniform(130, 210, (8, 8, 3)) + random.uniform(-30, 30, (8, 8, 3))
    image = cv2.resize(fields.astype(np.float32), (96, 96), interpolation=cv2.INTER_NEAREST)
    if blot:
        image[30:62, 40:72] = (20, 20, 160)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_parts(folder: Path, seeds: range, *, blot: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        cv2.imwrite(str(folder / f"{seed:02}.png"), part(seed, blot=blot))
    return folder
