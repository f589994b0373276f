"""What the levels of a taught product cost: zero-shot with the first scale of the bundle, with the first two, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from zsad_agent.messages import BundleName
from zsad_agent.model import Detector, FeatureNetworks
from zsad_agent.teaching import Level, Profile, ProfileStore, ScaleMemory, TaughtPredictor
from zsad_core.memory import Spread
from zsad_core.part import PartModel

if TYPE_CHECKING:
    from zsad_agent.config import InferenceConfig
    from zsad_core.bundle import Bundle

PICTURES = 8
EMPTY = Spread(mean=0.5, deviation=0.1)  # of the profile that stands in for a taught one


@dataclass(frozen=True, kw_only=True)
class LevelInBench:
    """A level, ready to be measured."""

    scales: tuple[str, ...]
    predictor: TaughtPredictor
    pictures: Sequence[np.ndarray]  # uint8 [H, W, 3]


def levels_of(
    bundle: Bundle,
    detector: Detector,
    config: InferenceConfig,
    store: ProfileStore | None,
    frames: Sequence[np.ndarray],
) -> list[LevelInBench]:
    """The levels of the config's product, on its kept pictures; if it was not taught, on `frames` with drawn memories.

    Raises:
        ProfileError: the profile is damaged.
        ZsadError: the device cannot run a feature network.
    """
    if bundle.manifest.features is None:
        return []
    networks = FeatureNetworks(bundle, config, detector)
    profile = store.current(config.product) if store is not None else None
    pictures = frames
    if profile is None or not profile.fits(bundle.sha256):
        profile = _drawn_profile(networks, config.product)
    elif profile.goods:
        pictures = [good.image() for good in profile.goods[:PICTURES]]
    unlimited = config.model_copy(update={"budget_ms": None})
    names = [scale.name for scale in networks.scales if scale.name in profile.scales]
    found = []
    for level in profile.levels:
        one = replace(profile, levels=(level,))
        predictor = TaughtPredictor(detector, networks, lambda product, one=one: one, unlimited)  # type: ignore[misc]
        found.append(LevelInBench(scales=tuple(names[: level.scales]), predictor=predictor, pictures=pictures))
    return found


def _drawn_profile(networks: FeatureNetworks, product: str) -> Profile:
    """A profile of the bundle's full size, of drawn vectors, that accepts every picture."""
    random = np.random.default_rng(0)
    scales = {}
    for scale in networks.scales:
        vectors = random.standard_normal((scale.memory, scale.width), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        scales[scale.name] = ScaleMemory(vectors=vectors.astype(np.float16), spread=EMPTY)
    manifest = networks.bundle.manifest
    return Profile(
        product=product,
        made_at=datetime.now(UTC),
        bundle=BundleName(name=manifest.name, version=manifest.version, sha256=networks.bundle.sha256),
        part=PartModel(mode="frame", goods=1),
        scales=scales,
        zero_shot=EMPTY,
        zero_shot_weight=0.25,
        background=0.5,
        foreign_above=None,
        levels=tuple(
            Level(scales=count, scale=1.0, false_reject_rate=0, false_reject_rate_90=1, needed=0)
            for count in range(1, len(scales) + 1)
        ),
        goods_scores=(),
        asked_rate=0.01,
        goods=(),
        sha256="0" * 64,
    )
