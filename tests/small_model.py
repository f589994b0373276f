"""A complete detector with a small random ViT, for tests that need one without downloads."""

import zlib
from pathlib import Path

import numpy as np

PRODUCTS = ("object", "bottle")
TEXT_DIM = 24
SHALLOW = {"name": "test_vit", "taps": (1, 2, 4)}  # of 6 blocks: exported in a third of the time


def small_detector(
    input_hw: tuple[int, int] = (64, 96),
    method: str = "ava_dino",
    text_dim: int = TEXT_DIM,
    name: str = "vit_tiny_patch16_224",
    taps: tuple[int, ...] = (2, 4, 6, 8),
):
    """A ViT with random weights, by default a ViT-Ti/16 of 12 blocks, and a narrow head; its input is not square."""
    import torch

    from zsad_core.backbones import Backbone, BackboneConfig
    from zsad_core.heads import ScoreConfig
    from zsad_core.model import Detector, DetectorConfig

    torch.manual_seed(5)
    backbone = BackboneConfig(name=name, input_hw=input_hw, taps=taps)
    config = DetectorConfig(
        method=method,
        backbone=backbone,
        text_dim=text_dim,
        hidden_dim=16,
        score=ScoreConfig(top_fraction=0.01, pool=4),
    )
    return Detector(config, Backbone(backbone)).eval()


def text_embeddings() -> dict[str, np.ndarray]:
    """Product -> float32 [T, 2] of unit norm, random."""
    embeddings = {}
    for product in PRODUCTS:
        drawn = np.random.default_rng(zlib.crc32(product.encode())).standard_normal((TEXT_DIM, 2))
        embeddings[product] = (drawn / np.linalg.norm(drawn, axis=0)).astype(np.float32)
    return embeddings


def record() -> dict[str, object]:
    """A checkpoint's record with all keys that export reads."""
    return {
        "command": "python training/train.py",
        "seed": 0,
        "epoch": 1,
        "method": "ava_dino",
        "trained_on": ["drawn"],
        "licences": [{"what": "training data drawn", "licence": "CC0", "source": "this test"}],
        "threshold": {"value": 0.5, "false_reject_rate": 0.05},
        "region_level": 0.5,
    }


def write_pictures(folder: Path, count: int = 3) -> Path:
    """Writes random images of several sizes."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    for index in range(count):
        size = (40 + 50 * index, 60 + 40 * index, 3)
        coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(coarse, size[1::-1]))
    return folder
