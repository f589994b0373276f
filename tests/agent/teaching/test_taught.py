import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from taught_fakes import MAP_HW, ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.teaching import Profile, ScaleMemory, TaughtPredictor, teach
from zsad_agent.teaching import observe as observe_module
from zsad_core.errors import DeviceError, ProductError, ProfileError
from zsad_core.memory import Spread, from_unit, taught_score
from zsad_core.part import PartError

NAMES = ("vit-whole", "cnn-whole", "vit-tiles")


@pytest.fixture(scope="module")
def profile() -> Iterator[Profile]:
    outcome = teach(
        [(f"{seed}", good_part(seed)) for seed in range(12)],
        product="lid",
        networks=ColourNetworks(*NAMES),  # type: ignore[arg-type]
        detector=PlainDetector(),  # type: ignore[arg-type]
    )
    yield replace(outcome.profile, sha256="cd" * 32)


def predictor(
    *profiles: Profile,
    networks: ColourNetworks | None = None,
    detector: PlainDetector | None = None,
    loaded: int = 1,
    **config: Any,
) -> TaughtPredictor:
    known = {profile.product: profile for profile in profiles}
    return TaughtPredictor(
        detector or PlainDetector(),  # type: ignore[arg-type]
        networks or ColourNetworks(*NAMES),  # type: ignore[arg-type]
        known.get,
        InferenceConfig(**config),
        loaded,
    )


def test_product_without_a_profile_is_scored_by_the_detector_alone(profile: Profile) -> None:
    one = predictor(profile)
    prediction = one.predict(good_part(0), "object")
    assert (prediction.anomaly_score, prediction.profile, prediction.threshold, prediction.scale) == (0.2, *[None] * 3)
    assert not one.is_taught("object") and one.is_taught("lid")
    with pytest.raises(ProductError):
        one.predict(good_part(0), "unknown")


def test_taught_product_names_its_profile_and_its_score_follows_from_its_map(profile: Profile) -> None:
    prediction = predictor(profile, product="lid").predict(good_part(77, stain=20))
    assert prediction.profile is not None and prediction.profile.sha256 == profile.sha256
    assert prediction.anomaly_score > prediction.threshold == 0.5
    assert prediction.anomaly_map.shape == MAP_HW and prediction.anomaly_map.dtype == np.float32
    assert prediction.scale == profile.levels[-1].scale
    assert prediction.anomaly_score == pytest.approx(taught_score(prediction.anomaly_map, prediction.scale), abs=0.01)
    y, x = np.unravel_index(prediction.anomaly_map.argmax(), MAP_HW)
    assert 30 <= y / MAP_HW[0] * 96 <= 50 and 50 <= x / MAP_HW[1] * 96 <= 70  # the stain


def test_share_of_the_median_that_was_taught_is_subtracted(profile: Profile) -> None:
    scales = {  # every picture differs by one more deviation everywhere
        name: replace(one, spread=replace(one.spread, mean=one.spread.mean - one.spread.deviation))
        for name, one in profile.scales.items()
    }
    levels = tuple(level.model_copy(update={"other_above": None}) for level in profile.levels)
    without, half = (
        predictor(replace(profile, scales=scales, levels=levels, background=share))
        .predict(good_part(0), "lid")
        .anomaly_map
        for share in (0.0, 0.5)
    )
    z, lower = (from_unit(values, profile.levels[-1].scale) for values in (without, half))
    assert np.median(z) > 0.5
    assert np.median(z - lower) == pytest.approx(0.5 * np.median(z), abs=0.1)


def test_picture_without_a_product_is_of_the_product_before(profile: Profile) -> None:
    one = predictor(profile)
    assert one.predict(good_part(0)).profile is None
    one.predict(good_part(0), "lid")
    assert one.predict(good_part(0)).profile is not None


def test_picture_of_something_else_is_unknown_and_a_defect_is_not(profile: Profile) -> None:
    with pytest.raises(PartError, match="another part: three quarters of the picture differ"):
        predictor(profile).predict(good_part(0, hue=0.2), "lid")
    assert predictor(profile).predict(good_part(0, stain=40), "lid").anomaly_score > 0.5


def test_a_picture_that_differs_as_a_whole_is_named(profile: Profile) -> None:
    image = good_part(0, hue=0.03)
    looser = replace(profile, foreign_above=1000.0)
    found = predictor(looser).predict(image, "lid")
    assert found.other is not None and "the picture as a whole differs by" in found.other
    assert predictor(looser).predict(good_part(0), "lid").other is None
    levels = tuple(level.model_copy(update={"other_above": None}) for level in profile.levels)  # of an earlier agent
    assert predictor(replace(looser, levels=levels)).predict(image, "lid").other is None


@pytest.mark.parametrize(("budget_ms", "scales"), [(None, 3), (7000, 3), (2500, 2), (1500, 1), (1, 1)])
def test_budget_chooses_the_level(
    profile: Profile, budget_ms: float | None, scales: int, caplog: pytest.LogCaptureFixture
) -> None:
    networks = ColourNetworks(*NAMES)  # 1, 1 and 4 s
    one = predictor(profile, networks=networks, budget_ms=budget_ms)
    with caplog.at_level(logging.WARNING):
        predictions = [one.predict(good_part(0), "lid") for _ in range(2)]
    assert networks.looked == [*NAMES[:scales]] * 2
    assert predictions[0].scale == profile.levels[scales - 1].scale
    assert [record.message for record in caplog.records if "too short" in record.message] == (
        [caplog.messages[0]] if budget_ms == 1 else []
    )


def test_memories_of_the_last_products_are_kept(profile: Profile) -> None:
    several = [replace(profile, product=name, sha256=name * 64) for name in "abc"]
    one = predictor(*several, loaded=2)
    for name in "abca":
        one.prepare(name)
    assert list(one._ready) == ["c" * 64, "a" * 64]
    before = one._ready["a" * 64]
    one.predict(good_part(0), "a")
    assert one._ready["a" * 64] is before


def test_a_prepared_product_compiles_nothing_at_its_first_picture(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = predictor(profile, replace(profile, product="other", sha256="ef" * 32), loaded=2)
    one.prepare("lid")

    def refuse(rows: int, width: int, queries: int) -> None:
        raise AssertionError("a search is compiled")

    monkeypatch.setattr(observe_module, "_compile", refuse)
    one.predict(good_part(0), "lid")
    one.prepare("other")
    assert one.predict(good_part(0), "other").profile is not None


def test_profile_of_another_bundle_is_refused_and_never_ignored(profile: Profile) -> None:
    wider = ScaleMemory(vectors=np.ones((3, 9), np.float16), spread=Spread(mean=0.0, deviation=1.0))
    for scales in ({"vit-whole": wider}, {"dino-whole": profile.scales["vit-whole"]}):
        with pytest.raises(ProfileError, match=r"made with the bundle colours 1.0.0, which has other feature networks"):
            predictor(replace(profile, scales=scales)).predict(good_part(0), "lid")


def test_tokens_that_are_nan_are_an_error(profile: Profile) -> None:
    networks = ColourNetworks(*NAMES)
    networks.broken = True
    with pytest.raises(DeviceError, match="NaN"):
        predictor(profile, networks=networks).predict(good_part(0), "lid")


def test_self_test_finds_a_memory_that_has_changed(profile: Profile) -> None:
    one = predictor(profile)
    one.predict(good_part(0), "lid")
    one.self_test()
    one._ready[profile.sha256].memories["vit-whole"].vectors[3, 2] += 1e-3
    for _ in range(2):
        with pytest.raises(DeviceError, match="taught about lid has changed in memory"):
            one.self_test()
        with pytest.raises(DeviceError, match="taught about lid has changed in memory"):
            one.predict(good_part(0), "lid")


def test_self_test_is_that_of_all_networks(profile: Profile) -> None:
    detector = PlainDetector()
    networks = ColourNetworks(*NAMES)

    def fail() -> None:
        raise DeviceError("other answer")

    networks.self_test = fail  # type: ignore[method-assign]
    with pytest.raises(DeviceError, match="other answer"):
        predictor(profile, networks=networks, detector=detector).self_test()
    assert detector.tests == 1
