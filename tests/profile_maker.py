"""A small profile that is complete and means nothing."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from zsad_agent.messages import BundleName
from zsad_agent.teaching import KeptPicture, Level, Profile, Recall, ScaleMemory
from zsad_core.memory import Spread
from zsad_core.part import PartModel

BUNDLE = BundleName(name="darkness", version="0.0.1", sha256="ab" * 32)


def make_profile(product: str = "nut", *, seed: int = 0, goods: int = 2, side: int = 24, **changes: Any) -> Profile:
    """A profile with drawn values; `changes` replace them."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((5, 8)).astype(np.float16)
    pictures = (random.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(goods))
    profile = Profile(
        product=product,
        made_at=datetime(2026, 11, 29, 13, 0, seed, tzinfo=UTC),
        bundle=BUNDLE,
        part=PartModel(mode="frame", goods=5),
        scales={"vit-whole": ScaleMemory(vectors=vectors, spread=Spread(mean=0.1, deviation=0.02))},
        zero_shot=Spread(mean=-3.0, deviation=0.5),
        zero_shot_weight=0.5,
        background=0.25,
        foreign_above=3.25,
        levels=(
            Level(
                scales=1,
                scale=2.5,
                false_reject_rate=1 / 6,
                false_reject_rate_90=0.4,
                needed=99,
                recall=Recall(found=3, total=4),
            ),
        ),
        goods_scores=(0.5, 1.0, 1.5, 2.0, 2.5),
        asked_rate=0.01,
        goods=tuple(KeptPicture.of(f"{number}.png", image) for number, image in enumerate(pictures)),
        ignored=random.random((4, 6)) < 0.5,
    )
    return replace(profile, **changes)
