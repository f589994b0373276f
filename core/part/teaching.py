"""Learns from pictures of good parts where the part is."""

from collections.abc import Sequence

import numpy as np

from zsad_core.part.model import PartModel


def part_models(images: Sequence[np.ndarray]) -> list[PartModel]:
    """The models that fit these good pictures, uint8 BGR [H, W, 3]. The first is always of mode `frame`.

    Raises:
        ValueError: there are no images.
    """
    if not images:
        raise ValueError("expected at least one picture of a good part")
    return [PartModel(mode="frame", goods=len(images))]
