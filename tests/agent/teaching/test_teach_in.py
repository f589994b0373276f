from typing import Any

import cv2
import numpy as np
import pytest
from drawn_parts import background, images, pin, plate, scenes
from taught_fakes import MAP_HW, ColourNetworks, PlainDetector, good_part

from zsad_agent.config import HealthConfig, InferenceConfig
from zsad_agent.teaching import MAX_GOODS, Taught, TaughtPredictor, teach
from zsad_agent.teaching.observe import Memory, Observer
from zsad_agent.teaching.teacher import OTHER_MARGIN, other_above
from zsad_core.errors import ImageError, ZsadError
from zsad_core.types import Prediction

Pictures = list[tuple[str, Any]]


def goods(count: int = 12, first: int = 0) -> Pictures:
    return [(f"good-{seed:03}", good_part(seed)) for seed in range(first, first + count)]


def bads(*stains: int) -> Pictures:
    return [(f"bad-{stain:02}", good_part(900 + stain, stain=stain)) for stain in stains]


def taught(images: Pictures, networks: ColourNetworks | None = None, **settings: Any) -> Taught:
    parts: Any = {"networks": networks or ColourNetworks(), "detector": PlainDetector()}
    return teach(images, product="lid", **(parts | settings))


def scores_of(outcome: Taught, pictures: Pictures, networks: ColourNetworks | None = None) -> list[float]:
    predictor = TaughtPredictor(
        PlainDetector(),  # type: ignore[arg-type]
        networks or ColourNetworks(),  # type: ignore[arg-type]
        lambda product: outcome.profile,
        InferenceConfig(),
    )
    return [predictor.predict(picture, "lid").anomaly_score for _, picture in pictures]


def test_other_goods_pass_and_bad_parts_do_not() -> None:
    outcome = taught(goods(20), rate=0.05)
    assert max(outcome.good_scores.values()) < 0.5
    assert np.mean(np.array(scores_of(outcome, goods(40, first=100))) >= 0.5) <= 0.1
    assert min(scores_of(outcome, bads(10, 14, 20))) > 0.5
    profile = outcome.profile
    assert (profile.product, profile.bundle.name, profile.part.mode) == ("lid", "colours", "frame")
    assert [good.name for good in profile.goods] == [name for name, _ in goods(20)]
    assert profile.scales["vit-whole"].vectors.dtype == np.float16
    assert len(profile.goods_scores) == 20
    assert outcome.left_out == () and outcome.notes == ()


def test_good_part_is_not_compared_with_itself() -> None:
    outcome = taught(goods(3))  # the memory holds all their vectors
    again = dict(zip(outcome.good_scores, scores_of(outcome, goods(3)), strict=True))
    assert all(score < outcome.good_scores[name] for name, score in again.items())


def test_good_part_is_compared_with_a_memory_of_the_others_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def count(observer: Observer, name: str, vectors: np.ndarray) -> Memory:
        sizes.append(len(vectors))
        return Memory(vectors, observer.scales[name].memory)

    monkeypatch.setattr(Observer, "memory", count)
    monkeypatch.setattr(Observer, "distances", lambda observer, seen, name, memory: np.ones(seen.grid_hw, np.float32))
    taught(goods(8))  # 512 vectors, 200 fit
    assert set(sizes) == {200} and len(sizes) >= 8


def test_each_level_has_its_threshold_and_the_recall_of_the_bad_parts() -> None:
    networks = ColourNetworks("vit-whole", "cnn-whole", "vit-tiles")
    networks.blind = {"vit-whole"}
    outcome = taught(goods(20), networks, bad=bads(1, 10, 14, 20), rate=0.1)
    levels = outcome.profile.levels
    assert [level.scales for level in levels] == [1, 2, 3]
    assert levels[0].scale != levels[2].scale
    found = [level.recall.found for level in levels if level.recall is not None]
    assert len(found) == 3 and found[0] < found[2] == 3
    assert outcome.missed == ("bad-01",)
    assert outcome.bad_scores["bad-01"] < 0.5 < outcome.bad_scores["bad-20"]
    assert all(level.false_reject_rate <= 0.1 and level.needed == 9 for level in levels)


def test_too_few_goods_for_the_rate_are_stated() -> None:
    (level,) = taught(goods(12), rate=0.01).profile.levels
    assert level.false_reject_rate == pytest.approx(1 / 13)
    assert level.needed == 99
    assert level.false_reject_rate_90 == pytest.approx(1 - 0.1 ** (1 / 12))


def test_of_many_goods_60_are_learned_and_the_others_set_the_threshold() -> None:
    outcome = taught([*goods(89), *bads(16)], rate=0.07)
    learned, judged = {good.name for good in outcome.profile.goods}, set(outcome.good_scores)
    outliers = {outlier.name for outlier in outcome.outliers}
    assert MAX_GOODS - 2 <= len(learned) <= MAX_GOODS and 27 <= len(judged) <= 30
    assert not learned & judged and len(learned | judged | outliers) == 90
    assert "bad-16" in outliers
    assert outcome.profile.apart == ("bad-16",)  # one of the others
    assert outcome.profile.levels[0].false_reject_rate == pytest.approx(2 / 31)
    finer = taught([*goods(89), *bads(16)], rate=0.05)  # 29 others and an outlier cannot support it
    assert len(finer.good_scores) == 89 and 0.04 < finer.profile.levels[0].false_reject_rate <= 0.05
    both = taught(goods(70), rate=0.05)  # 10 others alone cannot support the rate
    assert len(both.good_scores) + len(both.outliers) == 70


def test_outlier_is_named_and_not_learned() -> None:
    outcome = taught([*goods(14), *bads(40)])
    (outlier,) = outcome.outliers
    assert outlier.name == "bad-40" and outlier.score is not None and outlier.score > 2
    assert outcome.profile.apart == ("bad-40",)  # and the promise counts it as rejected
    again = taught([*goods(14), *bads(40)], apart=["bad-40", "earlier"])
    assert again.profile.apart == ("bad-40", "earlier")
    assert taught([*goods(14), *bads(40)], trusted=False).profile.levels[-1].false_reject_rate == pytest.approx(1 / 15)
    assert outcome.profile.levels[-1].false_reject_rate == pytest.approx(2 / 16)
    assert "times their median" in outlier.reason
    assert "bad-40" not in [good.name for good in outcome.profile.goods]
    assert scores_of(outcome, bads(40))[0] > 0.5


def test_pictures_of_two_products_are_refused() -> None:
    others = [(f"other-{seed}", good_part(seed, hue=0.2)) for seed in range(4)]
    with pytest.raises(ZsadError, match="more than one product: 4 of 14"):
        taught([*goods(10), *others])


def test_two_products_in_equal_numbers_are_noted() -> None:
    (note,) = taught([*goods(10), *((f"other-{seed}", good_part(seed, hue=0.2)) for seed in range(9))]).notes
    assert note.startswith("the pictures may show two products: 9 of 19 differ from the others, for example other-0.")


class StainDetector(PlainDetector):
    """Suspects what is red."""

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        super().predict(image_bgr, product)
        red = (image_bgr[..., 2].astype(int) - image_bgr[..., 0] > 90).astype(np.float32)
        shares = 0.1 + 0.8 * cv2.resize(red, MAP_HW, interpolation=cv2.INTER_AREA)
        return Prediction(anomaly_map=shares, anomaly_score=float(shares.max()))


def test_several_parts_with_the_same_defect_are_named() -> None:
    same = [(f"same-{seed}", good_part(seed, stain=20, at=(48, 24), colour=(60, 90, 220))) for seed in range(50, 53)]
    outcome = taught([*goods(13), *same], detector=StainDetector())
    (note,) = (note for note in outcome.notes if note.startswith("look at "))
    left_out = [entry.name for entry in outcome.left_out]
    assert all(name in note or name in left_out for name, _ in same) and len(left_out) <= 1
    assert "good-" not in note
    assert "If the parts are not good, teach again without them" in note
    assert taught(goods(16), detector=StainDetector()).notes == ()


def test_too_few_different_goods_are_refused() -> None:
    with pytest.raises(ZsadError, match=r"good parts can be learned: 2\. At least 3"):
        taught([("1", good_part(1)), ("2", good_part(2)), ("again", good_part(2))])


def test_pictures_are_read_when_they_are_needed_and_the_unreadable_are_named() -> None:
    reads: list[int] = []

    def reading(seed: int) -> Any:
        def read() -> np.ndarray:
            reads.append(seed)
            if seed == 3:
                raise ImageError("good-3: the file is empty")
            return good_part(seed)

        return read

    outcome = taught([(f"good-{seed}", reading(seed)) for seed in range(12)], bad=[("bad", reading(3))])
    assert reads.count(0) <= 3
    assert [(entry.name, entry.reason) for entry in outcome.left_out] == [
        ("good-3", "the file is empty"),
        ("bad", "good-3: the file is empty"),
    ]
    assert outcome.profile.levels[0].recall is None


def test_what_the_mask_ignores_is_neither_learned_nor_scored() -> None:
    ignored = np.zeros(MAP_HW, bool)
    ignored[5:30, 15:40] = True
    images = [
        (name, good_part(seed, stain=20 if seed % 2 else 0)) for seed, (name, _) in enumerate(goods(16, first=40), 40)
    ]
    outcome = taught(images, ignored=ignored)
    plain = taught(goods(16, first=40), ignored=ignored)
    assert outcome.outliers == plain.outliers == ()
    assert len(taught(images[:4], ignored=ignored).profile.scales["vit-whole"].vectors) == 4 * 39  # of 64 cells
    assert outcome.profile.levels[0].scale == pytest.approx(plain.profile.levels[0].scale, rel=0.5)
    assert outcome.profile.ignored is ignored
    with pytest.raises(ZsadError, match="the mask ignores the whole part"):
        taught(goods(5), ignored=np.ones(MAP_HW, bool))


def test_same_seed_gives_the_same_profile_and_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    one = taught(goods(9), progress=lambda *step: told.append(step))
    two = taught(goods(9))
    assert one.profile.levels == two.profile.levels
    assert np.array_equal(one.profile.scales["vit-whole"].vectors, two.profile.scales["vit-whole"].vectors)
    assert told[0] == ("checking pictures", 1, 9) and ("learning good parts", 9, 9) in told


def test_mode_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ZsadError, match="mode strip does not fit these good parts"):
        taught(goods(6), mode="strip")


def test_limits_of_exposure_are_those_of_the_config() -> None:
    dark = [(name, picture // 12) for name, picture in goods(6)]
    with pytest.raises(ZsadError, match="black picture"):
        taught(dark)
    assert taught(dark, health=HealthConfig(dark_below=0, plain_below=0), unchecked=True).profile.goods


def test_elongated_part_at_any_rotation_is_learned_in_its_strip() -> None:
    import cv2

    images = []
    for seed in range(10):
        surface = np.clip(good_part(0) + np.random.default_rng(seed).normal(0, 6, (96, 96, 3)), 0, 255).astype(np.uint8)
        part = np.full((320, 320, 3), 245, np.uint8)
        part[144:176, 60:260] = cv2.resize(surface[:16, :], (200, 32))
        turn = cv2.getRotationMatrix2D((160, 160), 36 * seed, 1)
        images.append((f"{seed}", cv2.warpAffine(part, turn, (320, 320), borderMode=cv2.BORDER_REPLICATE)))
    outcome = taught(images, ColourNetworks("vit-whole", "vit-tiles"), mode="strip")
    assert outcome.profile.part.mode == "strip"
    assert list(outcome.profile.scales) == ["vit-whole"]
    assert outcome.profile.foreign_above is None
    prediction_map = (
        TaughtPredictor(
            PlainDetector(),  # type: ignore[arg-type]
            ColourNetworks("vit-whole", "vit-tiles"),  # type: ignore[arg-type]
            lambda product: outcome.profile,
            InferenceConfig(),
        )
        .predict(images[0][1], "lid")
        .anomaly_map
    )
    assert prediction_map.shape == MAP_HW
    assert prediction_map[0, 0] == 0 < prediction_map[20, 20]  # nothing is claimed beside the part


@pytest.mark.parametrize("other", ["empty tray", "another part"])
def test_one_picture_without_the_part_is_left_out_and_named(other: str) -> None:
    goods = [(f"pin-{number}", image) for number, image in enumerate(images(scenes(pin(), 12, turn=20.0)))]
    odd = background(99) if other == "empty tray" else images(scenes(plate(), 1, seed=9))[0]
    outcome = taught([*goods, ("odd", odd)])
    assert [one.name for one in outcome.left_out] == ["odd"] and outcome.profile.apart == ()
    assert outcome.profile.part.mode == taught(goods).profile.part.mode


def test_one_odd_good_part_hardly_widens_what_may_pass() -> None:
    assert other_above([-0.6, -0.5, -0.4]) == pytest.approx(OTHER_MARGIN)
    assert other_above([-0.6, 0.2, 0.3]) == pytest.approx(0.2 + OTHER_MARGIN)
    assert other_above([-0.6, -0.5, 1.5]) == 1.5  # the odd part itself passes


def test_every_good_part_passes_as_a_whole() -> None:
    outcome = taught([*goods(20), ("odd", good_part(30, hue=0.004))])
    predictor = TaughtPredictor(PlainDetector(), ColourNetworks(), lambda product: outcome.profile, InferenceConfig())  # type: ignore[arg-type]
    assert all(predictor.predict(image, "lid").other is None for _, image in goods(20))
    assert outcome.profile.levels[-1].other_above is not None
