"""The hash of named tensors, to recognise the same weights again."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor


def weights_digest(tensors: Mapping[str, Tensor], *, settings: str = "") -> str:
    """The sha256 of `settings` and then of each tensor's name and bytes, in the mapping's order."""
    digest = hashlib.sha256(settings.encode())
    for name, value in tensors.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
