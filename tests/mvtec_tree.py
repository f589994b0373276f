"""A tiny data set in MVTec layout with visible defects: dark blots on light, noisy parts."""

from pathlib import Path

import cv2
import numpy as np


def draw_part(
    rng: np.random.Generator, *, defect: bool, hw: tuple[int, int] = (72, 96)
) -> tuple[np.ndarray, np.ndarray]:
    """(image uint8 [H, W, 3], mask uint8 [H, W] of 0 and 255)."""
    picture = (190 + rng.normal(0, 6, (*hw, 3))).clip(0, 255).astype(np.uint8)
    mask = np.zeros(hw, np.uint8)
    if defect:
        centre = (int(rng.integers(20, hw[1] - 20)), int(rng.integers(20, hw[0] - 20)))
        cv2.circle(mask, centre, int(rng.integers(6, 12)), 255, -1)
        picture[mask > 0] = rng.integers(0, 60)
    return picture, mask


def make_mvtec_tree(root: Path, *, category: str = "plate", good: int = 12, bad: int = 12, seed: int = 0) -> Path:
    """Writes <root>/<category>/… and returns root."""
    rng = np.random.default_rng(seed)
    for folder in ("train/good", "test/good", "test/blot", "ground_truth/blot"):
        (root / category / folder).mkdir(parents=True)
    for index in range(good):
        split = "train" if index % 2 else "test"
        cv2.imwrite(str(root / category / split / "good" / f"{index:03}.png"), draw_part(rng, defect=False)[0])
    for index in range(bad):
        picture, mask = draw_part(rng, defect=True)
        cv2.imwrite(str(root / category / "test" / "blot" / f"{index:03}.png"), picture)
        cv2.imwrite(str(root / category / "ground_truth" / "blot" / f"{index:03}_mask.png"), mask)
    return root


def make_textures(root: Path, count: int = 6) -> Path:
    """Writes <root>/<material>/<n>.png, random tileable images, and returns root."""
    rng = np.random.default_rng(3)
    for index in range(count):
        folder = root / f"material{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(40, 220, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, (64, 64)))
    return root
