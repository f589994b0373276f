"""Weights and inputs of the reference cases: the case's seed and the tensor's name determine each tensor."""

import zlib
from typing import Any

import numpy as np


def seeded_normal(seed: int, name: str, shape: tuple[int, ...], std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """float32 of `shape`, random values from N(mean, std^2)."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (mean + std * rng.standard_normal(shape)).astype(np.float32)


def seeded_state(stored: Any, part: str = "") -> dict[str, Any]:
    """The weights of a case, as torch tensors by the published names.

    Tensors with two or more axes are N(0, 1 / fan-in); the fan-in is the product of all axes except the first. Vectors
    whose name ends in `weight` (scales of norms) are N(1, 0.05^2), all other vectors and scalars N(0, 0.05^2).

    Args:
        stored: the opened npz file, with `seed`, `state_names` and `state_shapes`.
        part: VisualAD's file has a list of names for each of `vit`, `cross_attn` and `transforms`.
    """
    import torch

    suffix = f"/{part}" if part else ""
    state = {}
    for name, shape_text in zip(stored[f"state_names{suffix}"], stored[f"state_shapes{suffix}"], strict=True):
        name, shape = str(name), tuple(int(side) for side in str(shape_text).strip("()").split(",") if side.strip())
        if len(shape) >= 2:
            std, mean = int(np.prod(shape[1:])) ** -0.5, 0.0
        else:
            std, mean = 0.05, 1.0 if name.endswith("weight") else 0.0
        state[name] = torch.from_numpy(seeded_normal(int(stored["seed"]), name, shape, std=std, mean=mean))
    return state
