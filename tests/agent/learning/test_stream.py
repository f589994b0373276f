"""Teach-in from an unlabelled stream: defects, another product and empty trays among the parts."""

from typing import Any

import numpy as np
import pytest
from taught_fakes import ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.learning import learn_from_stream
from zsad_agent.teaching import Networks, Taught
from zsad_core.errors import ZsadError

NETWORKS: Any = ColourNetworks()
DETECTOR: Any = PlainDetector()


def learn(pictures: dict[str, np.ndarray]) -> Taught:
    return learn_from_stream(list(pictures.items()), product="nut", networks=NETWORKS, detector=DETECTOR)


def goods(count: int, first: int = 0) -> dict[str, np.ndarray]:
    return {f"good-{seed}": good_part(seed) for seed in range(first, first + count)}


def scores(taught: Taught, images: list[np.ndarray]) -> np.ndarray:
    networks = Networks(detector=DETECTOR, features=NETWORKS, config=InferenceConfig())
    return np.array([networks.score(taught.profile, image)[0] for image in images])


@pytest.mark.parametrize("defects", [2, 6])
def test_defects_in_the_stream_are_not_learned(defects: int) -> None:
    bad = {f"bad-{seed}": good_part(seed, stain=20, at=(10 + seed % 50, 30)) for seed in range(100, 100 + defects)}
    taught = learn(goods(40 - defects) | bad)
    learned = {good.name for good in taught.profile.goods}
    assert not learned & bad.keys() and len(learned) >= 30
    assert bad.keys() <= {entry.name for entry in taught.left_out}
    assert (scores(taught, [good_part(seed, stain=20) for seed in range(200, 210)]) >= 0.5).all()


def test_good_parts_that_were_not_learned_still_set_the_threshold() -> None:
    taught = learn(goods(40))
    assert len(taught.profile.goods) == 32
    assert len(taught.good_scores) >= 38
    assert (scores(taught, [good_part(seed) for seed in range(200, 260)]) >= 0.5).mean() <= 0.1


@pytest.mark.parametrize("share", [0.3])
def test_a_product_that_changes_in_mid_stream_gives_no_offer_but_both_groups(share: float) -> None:
    changed = round(40 * share)
    other = {f"other-{seed}": good_part(seed, hue=0.3) for seed in range(changed)}
    with pytest.raises(ZsadError, match="more than one product") as refusal:
        learn(goods(40 - changed) | other)
    assert "good-" in str(refusal.value) and "other-" in str(refusal.value)


@pytest.mark.parametrize("empty", [4])
def test_empty_trays_are_left_out(empty: int) -> None:
    random = np.random.default_rng(0)
    trays = {
        f"tray-{number}": np.clip(random.normal(40 + 3 * number, 3, (96, 96, 3)), 0, 255).astype(np.uint8)
        for number in range(empty)
    }
    taught = learn(goods(40 - empty) | trays)
    assert not {good.name for good in taught.profile.goods} & trays.keys()
    assert (scores(taught, list(trays.values())) >= 0.5).all()


def test_a_stream_of_mostly_empty_trays_gives_no_offer() -> None:
    random = np.random.default_rng(0)
    trays = {
        f"tray-{number}": np.clip(random.normal(30 + 4 * number, 3, (96, 96, 3)), 0, 255).astype(np.uint8)
        for number in range(20)
    }
    with pytest.raises(ZsadError):
        learn(goods(20) | trays)
