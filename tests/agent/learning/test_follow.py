"""Slow drift is followed within a bound; an evident defect never becomes a pass by what is followed."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from taught_fakes import ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.learning import Follower, Networks
from zsad_agent.teaching import FOLLOWED_BOUND, Followed, Profile, TaughtPredictor, teach
from zsad_core.memory import from_unit

NETWORKS: Any = ColourNetworks()
DETECTOR: Any = PlainDetector()
CONFIG = InferenceConfig()


class FollowedLine:
    """A taught product whose accepted parts are followed, as on a line."""

    def __init__(self, count: int = 20) -> None:
        goods = [(f"{seed}", good_part(seed)) for seed in range(count)]
        self.profile: Profile = teach(goods, product="nut", networks=NETWORKS, detector=DETECTOR).profile
        self.followed: Followed | None = None
        self.follower = Follower(lambda: Networks(detector=DETECTOR, features=NETWORKS, config=CONFIG), self._use)
        self._core = TaughtPredictor(DETECTOR, NETWORKS, lambda product: self.profile, CONFIG)
        self._now = TaughtPredictor(
            DETECTOR, NETWORKS, lambda product: self.profile, CONFIG, followed=lambda profile: self.followed
        )
        self.entered = 0

    def _use(self, sha256: str, followed: Followed) -> None:
        self.followed = followed

    def z(self, image: np.ndarray, *, core: bool = False) -> float:
        found = (self._core if core else self._now).predict(image, "nut")
        assert found.scale is not None
        return float(from_unit(np.array(found.anomaly_score), found.scale))

    @property
    def threshold(self) -> float:
        return self.profile.levels[-1].scale

    def pass_by(self, images: Iterator[np.ndarray]) -> None:
        for image in images:
            if self.z(image) < self.threshold:
                self.entered += self.follower.add(self.profile, image)


def warmer(image: np.ndarray, degrees: float) -> np.ndarray:
    return np.clip(image + np.array([-degrees, 0.0, degrees]), 0, 255).astype(np.uint8)


def scratched(seed: int, strength: float) -> np.ndarray:
    image = good_part(seed).astype(np.float32)
    at = 20 + seed % 50
    image[at : at + 6, 20:76] += strength * np.array([90.0, -60.0, -70.0])
    return np.clip(image, 0, 255).astype(np.uint8)


def test_light_that_changes_slowly_is_followed() -> None:
    line = FollowedLine()
    line.pass_by(warmer(good_part(1000 + number), number / 6) for number in range(60))
    after = [warmer(good_part(seed), 10) for seed in range(5000, 5020)]
    core = np.array([line.z(image, core=True) for image in after])
    now = np.array([line.z(image) for image in after])
    assert line.entered > 5
    assert now.mean() < core.mean() - 0.05 and (now <= core + 0.01).all()
    assert (core - now <= FOLLOWED_BOUND + 0.01).all()


def test_what_is_followed_is_bounded_and_the_newest() -> None:
    line = FollowedLine()
    line.pass_by(good_part(seed) for seed in range(1000, 1030))
    assert line.followed is not None
    assert {len(vectors) for vectors in line.followed.vectors.values()} <= set(range(1, 21))
    first = line.followed.vectors["vit-whole"].copy()
    line.pass_by(good_part(seed) for seed in range(1200, 1215))
    assert not np.array_equal(line.followed.vectors["vit-whole"], first)


@pytest.mark.parametrize("parts", [80, pytest.param(2000, marks=pytest.mark.chaos)])
def test_defects_fed_for_a_day_with_growing_strength_are_still_rejected(parts: int) -> None:
    """The attack: a scratch on every part, ever stronger, each just as strong as may enter."""
    line = FollowedLine(40)
    taught = line.profile.sha256, line.threshold
    line.pass_by(scratched(1000 + number, number / parts) for number in range(parts))
    evident = [scratched(seed, 1.3) for seed in range(9000, 9020)]
    core = np.array([line.z(image, core=True) for image in evident])
    now = np.array([line.z(image) for image in evident])
    assert line.entered > 3  # weak scratches did enter
    assert (core - now <= FOLLOWED_BOUND + 0.01).all()
    assert (core >= line.threshold + FOLLOWED_BOUND).all() and (now >= line.threshold).all()
    assert (line.profile.sha256, line.threshold) == taught


def test_a_rejected_or_doubtful_part_never_enters() -> None:
    line = FollowedLine()
    assert not line.follower.add(line.profile, scratched(1, 1.0))
    images = [good_part(seed) for seed in range(1000, 1015)]
    limit = np.quantile(line.profile.goods_scores, 0.9)
    for image in images:
        assert line.follower.add(line.profile, image) == (line.z(image, core=True) < limit)


def test_another_profile_starts_with_nothing_followed() -> None:
    line = FollowedLine()
    line.pass_by(good_part(seed) for seed in range(1000, 1006))
    before = line.followed
    line.profile = dataclasses.replace(line.profile, sha256="cd" * 32)
    line.follower.add(line.profile, good_part(1000))
    assert before is not None and line.followed is not None and line.followed is not before
    assert len(line.followed.vectors["vit-whole"]) <= 2  # of one part
