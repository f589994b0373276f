"""Feature networks and a detector that see colours, and the pictures of a product for them."""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from zsad_core.bundle import FeatureScale
from zsad_core.errors import ProductError
from zsad_core.types import Prediction

MAP_HW = (40, 40)


def scale(name: str, tiles: int = 1) -> FeatureScale:
    return FeatureScale(
        name=name,
        file=f"features-{name.partition('-')[0]}.xml",
        input_hw=(32, 32),
        grid_hw=(8, 8),
        width=8,
        tiles=tiles,  # type: ignore[arg-type]
        memory=200,
    )


class ColourNetworks:
    """Each cell's token is its mean colour and contrast."""

    def __init__(self, *names: str) -> None:
        self.scales = tuple(scale(name, tiles=2 if name.endswith("tiles") else 1) for name in names or ("vit-whole",))
        self.bundle = SimpleNamespace(manifest=SimpleNamespace(name="colours", version="1.0.0"), sha256="ab" * 32)
        self.blind: set[str] = set()  # scales that see nothing
        self.broken = False
        self.looked: list[str] = []

    def tokens(self, view_bgr: np.ndarray, scale: FeatureScale, *, strip: bool = False) -> np.ndarray:
        self.looked.append(scale.name)
        rows, columns = (8, 24) if strip else (8 * scale.tiles, 8 * scale.tiles)
        small = cv2.resize(view_bgr, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
        tokens = np.concatenate([small, 1 - small, np.ones((rows, columns, 2), np.float32)], axis=2)
        if scale.name in self.blind:
            noise = np.random.default_rng(len(self.looked)).normal(0, 0.05, tokens.shape)
            tokens = np.ones_like(tokens) + noise.astype(np.float32)
        if self.broken:
            tokens[0, 0, 0] = np.nan
        return tokens / np.linalg.norm(tokens, axis=2, keepdims=True)

    def time_ms(self, scale: FeatureScale) -> float:
        return 1000.0 * scale.tiles**2

    def self_test(self) -> None:
        pass


class PlainDetector:
    """A map of 0.2 everywhere; knows the generic product alone."""

    trial_s = 0.01

    def __init__(self) -> None:
        self.tests = 0

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        if product not in (None, "object"):
            raise ProductError(f"product {product!r} is not in the bundle")
        return Prediction(anomaly_map=np.full(MAP_HW, 0.2, np.float32), anomaly_score=0.2)

    def prepare(self, product: str) -> None:
        self.predict(np.zeros((8, 8, 3), np.uint8), product)

    def is_taught(self, product: str) -> bool:
        return False

    def self_test(self) -> None:
        self.tests += 1


def good_part(seed: int, **changes: Any) -> np.ndarray:
    """uint8 [96, 96, 3]: a striped surface, each time a little different.

    `changes`: hue; size, place and colour of a stain.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96]
    stripes = 110 + 30 * np.sin(columns / 5 + random.uniform(0, 6)) + 10 * np.sin(rows / 9 + random.uniform(0, 6))
    blotches = np.kron(random.normal(0, 12, (8, 8, 3)), np.ones((12, 12, 1)))
    image = np.stack([stripes, stripes + 20, stripes + 40], axis=2) + blotches + random.normal(0, 6, (96, 96, 3))
    if "hue" in changes:
        image = np.roll(image, 1, axis=2) * (0.4, 1.0, changes["hue"])
    if "stain" in changes:
        size, (x, y) = changes["stain"], changes.get("at", (50, 30))
        image[y : y + size, x : x + size] = changes.get("colour", (200, 30, 30))
    return np.clip(image, 0, 255).astype(np.uint8)
