"""What a person says about a part: the memory learns it, or loses it, at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taught_fakes import MAP_HW, ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.learning import Feedback, RecentPart, marked
from zsad_agent.learning.recent import PartFacts
from zsad_agent.teaching import KeptPicture, Networks, Profile, ProfileStore, teach, teach_again
from zsad_core.errors import ProfileError
from zsad_core.types import Verdict


class Device:
    """A device with a product that was taught from 20 parts."""

    def __init__(self, folder: Path, goods: dict[str, np.ndarray] | None = None) -> None:
        detector: Any = PlainDetector()
        networks: Any = ColourNetworks()
        self.networks = Networks(detector=detector, features=networks, config=InferenceConfig())
        self.store = ProfileStore(folder / "profiles")
        self.prepared: list[str] = []
        self.feedback = Feedback(self.store, lambda: self.networks, self.prepared.append)
        goods = goods or {f"{seed}": good_part(seed) for seed in range(20)}
        taught = teach(list(goods.items()), product="nut", networks=networks, detector=detector, unchecked=True)
        self.store.add(taught.profile)

    @property
    def profile(self) -> Profile:
        return self.store.current("nut")

    def score(self, image: np.ndarray) -> float:
        return self.networks.score(self.profile, image)[0]

    def part(self, part_id: str, image: np.ndarray) -> RecentPart:
        score = self.score(image)
        verdict = Verdict.ANOMALOUS if score >= 0.5 else Verdict.OK
        facts = PartFacts(camera="cam0", product="nut", verdict=verdict, score=score, taught=self.profile.sha256)
        picture = KeptPicture.of(part_id, image)
        return RecentPart(id=part_id, facts=facts, picture=picture, anomaly_map=np.zeros(MAP_HW, np.float16))


STAINED = good_part(30, stain=24)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_good_part_that_was_rejected_is_never_rejected_again(device: Device) -> None:
    before = device.profile
    assert device.score(STAINED) >= 0.5
    text = device.feedback.give(device.part("a", STAINED), good=True)
    assert "learned as good" in text and "still be rejected" not in text
    assert device.score(STAINED) < 0.5
    after = device.profile
    assert after.sha256 != before.sha256 and device.prepared == ["nut"]
    assert len(after.goods_scores) == len(before.goods_scores) + 1
    assert [good.name for good in after.goods][-1] == "a"
    assert device.store.roll_back("nut").sha256 == before.sha256


def test_other_defects_are_still_rejected_after_a_good_mark(device: Device) -> None:
    device.feedback.give(device.part("a", STAINED), good=True)
    assert device.score(good_part(31, stain=24, colour=(20, 200, 220))) >= 0.5
    assert sum(device.score(good_part(seed)) >= 0.5 for seed in range(40, 60)) <= 2  # of 20, taught from 20


def test_a_mark_changes_no_profile_of_another_bundle(device: Device) -> None:
    part = device.part("a", STAINED)
    before = device.profile
    device.networks.features.bundle.sha256 = "cd" * 32
    with pytest.raises(ProfileError, match="is being made again for this bundle"):
        device.feedback.give(part, good=True)
    assert device.profile.sha256 == before.sha256


def test_a_mark_given_twice_counts_once(device: Device) -> None:
    device.feedback.give(device.part("a", STAINED), good=True)
    scores = device.profile.goods_scores
    assert "already" in device.feedback.give(device.part("a", STAINED), good=True)
    assert device.profile.goods_scores == scores


def test_a_bad_part_gives_the_recall_and_the_most_similar_goods(device: Device) -> None:
    text = device.feedback.give(device.part("b", STAINED), good=False)
    assert "is rejected" in text and "Of 1 parts marked as bad 1 are found" in text
    weak = good_part(3)  # looks like a good part
    text = device.feedback.give(device.part("c", weak), good=False)
    assert "passes" in text and "most similar good parts are 3," in text
    assert "Of 2 parts marked as bad 1 are found (90 % confidence: 3% to 97%)" in text
    recall = device.profile.levels[-1].recall
    assert recall is not None and (recall.found, recall.total) == (1, 2)
    assert [picture.name for picture in marked(device.store, "nut", good=False)] == ["b", "c"]


def test_a_bad_part_that_was_learned_leaves_the_memory(tmp_path: Path) -> None:
    goods = {f"{seed}": good_part(seed) for seed in range(20)}
    device = Device(tmp_path, goods)
    device.feedback.give(device.part("a", STAINED), good=True)
    assert device.score(STAINED) < 0.5
    text = device.feedback.give(device.part("a", STAINED), good=False)
    assert "was removed" in text
    assert device.score(STAINED) >= 0.5
    assert "a" not in [good.name for good in device.profile.goods]
    assert marked(device.store, "nut", good=True) == []


def test_a_part_that_the_bundle_itself_rejects_is_said_to_be_rejected_still(device: Device) -> None:
    class SeesDefect(PlainDetector):
        def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Any:
            found = super().predict(image_bgr)
            if float(image_bgr[..., 0].max()) > 195:
                found.anomaly_map[10:20, 10:20] = 0.999
            return found

    object.__setattr__(device.networks, "detector", SeesDefect())
    text = device.feedback.give(device.part("a", STAINED), good=True)
    assert "still be rejected" in text and "the bundle's own map sees a defect" in text


def test_a_mark_of_a_product_that_was_not_taught_is_kept(device: Device) -> None:
    part = device.part("a", STAINED)
    other = RecentPart(
        id="a",
        facts=part.facts.model_copy(update={"product": "screw"}),
        picture=part.picture,
        anomaly_map=part.anomaly_map,
    )
    assert "Nothing was taught about screw yet" in device.feedback.give(other, good=True)
    assert [picture.name for picture in marked(device.store, "screw", good=True)] == ["a"]


@pytest.mark.parametrize("good", [True, False])
def test_a_mark_of_an_outlier_takes_it_out_of_the_promise(tmp_path: Path, good: bool) -> None:
    device = Device(tmp_path, {f"{seed}": good_part(seed) for seed in range(20)} | {"odd": STAINED})
    assert device.profile.apart == ("odd",)  # also after it was written and read
    assert device.profile.levels[-1].false_reject_rate == pytest.approx(2 / 22)
    device.feedback.give(device.part("odd", STAINED), good=good)
    assert device.profile.apart == ()
    assert device.profile.levels[-1].false_reject_rate == pytest.approx(1 / 22 if good else 1 / 21)
    assert (device.score(STAINED) < 0.5) == good


def test_removing_a_bad_part_names_what_is_left_out_instead(tmp_path: Path) -> None:
    device = Device(tmp_path)
    goods = (*device.profile.goods, KeptPicture.of("odd", STAINED))
    device.store.add(replace(device.profile, goods=goods))
    text = device.feedback.give(device.part("3", good_part(3)), good=False)
    assert text.count("Left out now, because they look different: odd") == 1
    assert device.profile.apart == ("odd",)


def test_removing_a_bad_part_keeps_what_a_person_kept(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.feedback.give(device.part("odd", STAINED), good=True)
    device.feedback.give(device.part("bad", good_part(3)), good=True)
    text = device.feedback.give(device.part("bad", good_part(3)), good=False)
    assert "was removed" in text and "Left out now" not in text
    assert device.score(STAINED) < 0.5
    assert (device.profile.apart, device.profile.kept) == ((), ("odd",))


def test_many_kept_parts_do_not_stop_a_profile_from_being_made_again(tmp_path: Path) -> None:
    device = Device(tmp_path, {f"{seed}": good_part(seed) for seed in range(12)})
    stained = [good_part(seed, stain=24) for seed in range(30, 36)]
    for seed, image in enumerate(stained):
        device.feedback.give(device.part(f"odd{seed}", image), good=True)
    again = teach_again(device.profile, device.networks).profile
    assert again.kept == device.profile.kept == tuple(f"odd{seed}" for seed in range(6))
    assert all(device.networks.score(again, image)[0] < 0.5 for image in stained)


def test_a_mark_of_a_part_that_passes_uses_its_own_score(device: Device) -> None:
    """A part that is refused as a whole has a score of its own, which must not raise the threshold."""
    levels = tuple(level.model_copy(update={"other_above": -1e6}) for level in device.profile.levels)
    device.store.add(replace(device.profile, levels=levels))
    before = device.profile.levels[-1].scale
    device.feedback.give(device.part("a", good_part(99)), good=True)
    assert device.profile.levels[-1].scale <= before + 0.5
