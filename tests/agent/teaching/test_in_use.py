"""The predictor of the agent: a taught product never falls back to the bundle alone."""

import logging
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from taught_fakes import MAP_HW, ColourNetworks, PlainDetector, good_part
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent import teaching
from zsad_agent.config import InferenceConfig
from zsad_agent.messages import BundleName
from zsad_agent.model import Detector, FeatureNetworks
from zsad_agent.teaching import (
    KeptPicture,
    Networks,
    ProductPredictor,
    Profile,
    ProfileStore,
    TaughtPredictor,
    learn_good,
    make_predictor,
    teach,
)
from zsad_agent.teaching import in_use as in_use_module
from zsad_core.bundle import Bundle, load_bundle
from zsad_core.errors import ProductError, ProfileError

CONFIG = InferenceConfig()
GOODS = [(f"{seed}.png", good_part(seed)) for seed in range(20)]


class Line:
    """A device with a store of profiles."""

    def __init__(self, folder: Path) -> None:
        self.store = ProfileStore(folder / "profiles")
        self.detector: Any = PlainDetector()
        self.networks: Any = ColourNetworks()
        self.networks.bundle.manifest.model = type("Facts", (), {"map_hw": MAP_HW})

    def teach(self, product: str = "nut", **changes: Any) -> Profile:
        taught = teach(GOODS, product=product, networks=self.networks, detector=self.detector)
        return self.store.add(replace(taught.profile, **changes))

    def start(self, *, networks: bool = True, **options: Any) -> ProductPredictor:
        return ProductPredictor(
            self.detector,
            self.networks if networks else None,
            self.store,
            CONFIG,
            taught=self.store.products(),
            **options,
        )

    def number(self) -> int | None:
        """Of the profile in use."""
        return self.store.entry("nut").number


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def test_a_product_without_a_profile_is_predicted_by_the_bundle_alone(line: Line) -> None:
    line.teach("nut")
    predictor = line.start()
    prediction = predictor.predict(good_part(0), "object")
    assert (prediction.profile, prediction.threshold, prediction.anomaly_score) == (None, None, 0.2)
    assert not predictor.is_taught("object")
    with pytest.raises(ProductError) as refused:
        predictor.prepare("nuts")
    text = str(refused.value)
    assert text.startswith("product 'nuts' is not in the bundle and was not taught. Near names: nut. Teach it first: ")
    assert "zsad-agent teach GOOD_PICTURES --product nuts. " in text and "Taught: nut." in text


def test_a_new_product_of_a_camera_is_inspected_as_the_generic_one_until_it_is_taught(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.teach("object")
    predictor = line.start(products=("gearbox", "objects"))
    predictor.prepare("gearbox")
    assert "'gearbox' is new: it is inspected as 'object' until it is taught" in caplog.text
    prediction = predictor.predict(good_part(0), "gearbox")
    assert (prediction.profile, prediction.anomaly_score) == (None, 0.2)
    assert not predictor.is_taught("gearbox")
    line.teach("gearbox")
    predictor.prepare("gearbox")
    found = predictor.predict(good_part(0), "gearbox").profile
    assert found is not None and found.product == "gearbox"
    for refused in ("objects", "casing"):  # near a known name; of no camera
        with pytest.raises(ProductError):
            predictor.prepare(refused)


def test_a_taught_product_is_predicted_with_its_profile(line: Line) -> None:
    profile = line.teach("nut")
    predictor = line.start()
    predictor.prepare("nut")
    good, bad = predictor.predict(good_part(50), "nut"), predictor.predict(good_part(51, stain=30), "nut")
    assert good.profile is not None and good.profile.sha256 == profile.sha256
    assert good.threshold == 0.5
    assert good.anomaly_score < 0.5 < bad.anomaly_score
    assert predictor.is_taught("nut")


def test_it_is_known_whether_a_mask_applied_in_teach_in(line: Line) -> None:
    line.teach("nut")
    line.teach("bolt", ignored=np.eye(*MAP_HW) > 0)
    line.teach("pin")
    (line.store.folder / "pin/1.profile").write_bytes(b"PK")
    predictor = line.start()
    for product in ("nut", "bolt"):
        predictor.prepare(product)
    with pytest.raises(ProfileError):
        predictor.prepare("pin")
    assert predictor.taught_with_mask("bolt")
    assert predictor.taught_with_mask("pin") is predictor.taught_with_mask("object") is None
    predictor.prepare("nut")
    assert predictor.taught_with_mask("nut") is False


def test_a_damaged_profile_gives_no_prediction_and_says_why(line: Line) -> None:
    line.teach("nut")
    (line.store.folder / "nut/1.profile").write_bytes(b"PK")
    predictor = line.start()
    with pytest.raises(ProfileError, match=r"1\.profile: the profile was cut"):
        predictor.prepare("nut")
    assert predictor.is_taught("nut")
    for _ in range(2):
        with pytest.raises(ProfileError, match=r"1\.profile: the profile was cut"):
            predictor.predict(good_part(0), "nut")
    assert predictor.predict(good_part(0), "object").anomaly_score == 0.2


def test_products_that_are_not_prepared_are_read_when_they_come(line: Line) -> None:
    profiles = {product: line.teach(product) for product in ("nut", "bolt", "pin")}
    predictor = line.start()
    for _ in range(2):
        for product, profile in profiles.items():
            found = predictor.predict(good_part(0), product).profile
            assert found is not None and found.sha256 == profile.sha256


def test_the_profile_of_a_camera_stays_while_other_products_are_chosen(line: Line) -> None:
    profile = line.teach("nut")
    for other in ("bolt", "pin", "cap"):
        line.store.add(replace(profile, product=other))
    predictor = line.start()
    predictor.prepare("nut")
    shutil.rmtree(line.store.folder / "nut")
    for other in ("bolt", "pin", "cap"):
        predictor.predict(good_part(0), "nut")
        predictor.prepare(other)
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and found.sha256 == profile.sha256


def test_a_profile_of_another_bundle_is_made_again_from_its_pictures(line: Line) -> None:
    other = BundleName(name="before", version="0.9", sha256="cd" * 32)
    old = line.teach("nut", bundle=other, ignored=np.arange(100).reshape(10, 10) < 20)
    predictor = line.start()
    with pytest.raises(ProfileError, match=r"made with the bundle before 0.9. It is made again when"):
        predictor.predict(good_part(0), "nut")
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now is not None
    assert (now.rebuilt_from, now.bundle.sha256) == (other, line.networks.bundle.sha256)
    assert now.ignored is not None and now.ignored.shape == MAP_HW
    assert now.goods == old.goods and now.asked_rate == old.asked_rate
    assert now.levels[-1].recall is None
    assert line.store.entry("nut").numbers == (1, 2)
    found = predictor.predict(good_part(60), "nut").profile
    assert found is not None and found.sha256 == now.sha256


def test_a_part_that_a_person_kept_is_known_to_the_next_bundle(line: Line) -> None:
    odd = good_part(30, stain=24)
    kit = Networks(detector=line.detector, features=line.networks, config=CONFIG)
    profile = line.teach("nut", bundle=OTHER)
    kept = learn_good(profile, KeptPicture.of("odd", odd), kit)
    line.store.add(kept)
    predictor = line.start()
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now.rebuilt_from == OTHER
    assert (now.apart, now.kept) == ((), ("odd",))
    assert predictor.predict(odd, "nut").anomaly_score < 0.5
    line.store.add(replace(kept, kept=()))  # without a person's word it is left out
    predictor = line.start()
    predictor.prepare("nut")
    assert line.store.current("nut").apart == ("odd",)
    assert predictor.predict(odd, "nut").anomaly_score >= 0.5


OTHER = BundleName(name="before", version="0.9", sha256="cd" * 32)


def test_the_bundle_before_uses_its_kept_profile_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = teaching.teach_again
    monkeypatch.setattr(teaching, "teach_again", lambda *args: made.append("again") or make(*args))  # type: ignore[func-returns-value]
    old = line.teach(bundle=OTHER)
    line.start().prepare("nut")
    assert (made, line.number()) == (["again"], 2)
    here = line.networks.bundle.sha256
    for sha256, number in ((OTHER.sha256, 3), (here, 4), (OTHER.sha256, 5)):
        line.networks.bundle.sha256 = sha256
        line.start().prepare("nut")
        assert line.number() == number
    assert made == ["again"]
    now = line.store.current("nut")
    assert now is not None and now.sha256 == old.sha256
    line.teach(bundle=OTHER)  # what a person taught since then is made again
    line.networks.bundle.sha256 = here
    line.start().prepare("nut")
    assert (made, line.number()) == (["again"] * 2, 7)


def test_a_profile_that_is_made_for_a_bundle_on_trial_is_stored_after_its_probation(line: Line) -> None:
    old = line.teach(bundle=OTHER)
    predictor = line.start(read_only=True)
    predictor.prepare("nut")
    found = predictor.predict(good_part(60), "nut").profile
    assert found is not None and found.sha256 != old.sha256
    predictor.prepare("nut")
    assert line.number() == 1
    predictor.keep_made()
    now = line.store.current("nut")
    assert now is not None and now.sha256 == found.sha256


def test_a_profile_that_is_made_again_does_not_replace_what_was_taught_meanwhile(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.teach(bundle=OTHER)
    predictor = line.start(read_only=True)
    predictor.prepare("nut")
    taught = line.teach(asked_rate=0.2)
    predictor.keep_made()
    now = line.store.current("nut")
    assert now is not None and now.sha256 == taught.sha256
    assert "another profile came into use meanwhile" in caplog.text


def test_profiles_are_made_again_after_the_start_while_their_verdicts_are_unknown(line: Line) -> None:
    for product in ("nut", "bolt"):
        line.teach(product, bundle=OTHER)
    predictor = line.start(later=True, products=("nut", "bolt"))
    for product in ("nut", "bolt", "nut"):
        with pytest.raises(ProfileError, match=f"{product} is being made again for this bundle"):
            predictor.prepare(product)
    assert predictor.predict(good_part(0), "object").profile is None
    stops = iter([False, True])
    predictor.make_waiting(lambda: next(stops))
    for number, product in enumerate(("nut", "bolt"), start=1):
        with pytest.raises(ProfileError, match=rf"{product} is being made again for this bundle \({number} of 2\)"):
            predictor.predict(good_part(0), product)
    predictor = line.start(later=True, products=("nut", "bolt"))
    for product in ("nut", "bolt"):
        with pytest.raises(ProfileError):
            predictor.prepare(product)
    predictor.make_waiting(lambda: False)
    assert all(predictor.predict(good_part(0), product).profile is not None for product in ("nut", "bolt"))


@pytest.mark.parametrize("fault", ["damaged", "removed"])
def test_a_refused_choice_of_a_product_leaves_the_camera_that_inspects_it_alone(line: Line, fault: str) -> None:
    profile = line.teach("nut")
    predictor = line.start()
    predictor.prepare("nut")
    if fault == "damaged":
        (line.store.folder / "nut/1.profile").write_bytes(b"PK")
    else:
        line.store.remove("nut")
    with pytest.raises((ProfileError, ProductError)):
        predictor.prepare("nut")
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and found.sha256 == profile.sha256


def test_a_missing_folder_that_the_config_names_is_not_an_empty_store(line: Line) -> None:
    line.teach("object")
    line.store = ProfileStore(line.store.folder, must_exist=True)
    predictor = line.start()
    predictor.prepare("object")
    line.store.folder.rename(line.store.folder.with_name("away"))
    for attempt in (line.start, lambda: predictor.prepare("object"), line.store.check_writable):
        with pytest.raises(ProfileError, match="profiles: no such folder, so what was taught is unknown"):
            attempt()
    assert line.store.has("object")
    assert ProfileStore(line.store.folder).products() == []


def test_a_profile_of_an_earlier_agent_is_made_again_from_its_pictures(line: Line) -> None:
    line.teach("nut", background=None)
    predictor = line.start()
    with pytest.raises(ProfileError, match=r"made by an earlier agent\. It is made again when"):
        predictor.predict(good_part(0), "nut")
    predictor.prepare("nut")
    now = line.store.current("nut")
    assert now is not None and now.background is not None
    assert predictor.predict(good_part(60), "nut").anomaly_score < 0.5


def test_the_inspection_continues_while_a_profile_is_made_again(line: Line) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32))
    predictor = line.start()
    teaching = threading.Thread(target=predictor.prepare, args=["nut"])
    teaching.start()
    inspected = 0
    while teaching.is_alive():
        predictor.predict(good_part(0), "object")
        inspected += 1
    teaching.join()
    assert inspected > 3
    assert predictor.predict(good_part(0), "nut").profile is not None


def test_what_is_taught_while_a_profile_is_made_again_stays_in_use(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.teach("nut", bundle=OTHER)
    predictor, again = line.start(), teaching.teach_again
    begun, let_go = threading.Event(), threading.Event()

    def slowly(*args: Any) -> Any:
        begun.set()
        assert let_go.wait(60)
        return again(*args)

    monkeypatch.setattr(teaching, "teach_again", slowly)
    making = threading.Thread(target=predictor.prepare, args=["nut"])
    making.start()
    assert begun.wait(60)
    taught = line.teach("nut", asked_rate=0.2)
    predictor.prepare("nut")
    let_go.set()
    making.join()
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and found.sha256 == taught.sha256


def test_a_profile_that_cannot_be_prepared_does_not_replace_the_one_in_use(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = line.teach("nut")
    predictor = line.start()
    predictor.prepare("nut")

    def refuse(predictor: TaughtPredictor, product: str) -> None:
        raise ProfileError("vectors of another width")

    line.teach("nut", asked_rate=0.2)
    with monkeypatch.context() as patched:
        patched.setattr(TaughtPredictor, "prepare", refuse)
        with pytest.raises(ProfileError, match="another width"):
            predictor.prepare("nut")
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and found.sha256 == taught.sha256


def test_a_call_that_fails_does_not_stop_one_that_is_still_making_the_profile(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    line.teach("nut", bundle=OTHER)
    predictor, again = line.start(), teaching.teach_again

    def fail_meanwhile(*args: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(line.store, "current", lambda product: None)
            with pytest.raises(ProfileError, match="was removed"):
                predictor.prepare("nut")
        return again(*args)

    monkeypatch.setattr(teaching, "teach_again", fail_meanwhile)
    predictor.prepare("nut")
    assert predictor.predict(good_part(0), "nut").profile is not None


def test_each_camera_may_be_given_a_product_of_its_own(line: Line) -> None:
    profile = line.teach("nut")
    for other in ("bolt", "pin"):
        line.store.add(replace(profile, product=other))
    predictor = line.start(products={"object"}, cameras=3)
    for product in ("nut", "bolt", "pin"):
        predictor.prepare(product)
    shutil.rmtree(line.store.folder)
    for product in ("nut", "bolt", "pin"):
        assert predictor.predict(good_part(0), product).profile is not None


def test_a_profile_that_cannot_be_stored_is_used_all_the_same(
    line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32))
    predictor = line.start()

    def full(profile: Profile, **_: object) -> Profile:
        raise ProfileError("No space left on device")

    monkeypatch.setattr(line.store, "add", full)
    with caplog.at_level(logging.WARNING):
        predictor.prepare("nut")
    assert "the next start makes it again: No space left" in caplog.text
    found = predictor.predict(good_part(0), "nut").profile
    assert found is not None and len(found.sha256) == 64


def test_a_profile_whose_pictures_teach_nothing_is_a_fault(line: Line) -> None:
    line.teach("nut", bundle=BundleName(name="before", version="0.9", sha256="cd" * 32), goods=())
    with pytest.raises(ProfileError, match=r"and cannot be made again: too few pictures.*Teach the product again"):
        line.start().prepare("nut")


def test_a_bundle_without_feature_networks_predicts_no_taught_product(line: Line) -> None:
    line.teach("nut")
    predictor = line.start(networks=False)
    for attempt in (predictor.prepare, lambda product: predictor.predict(good_part(0), product)):
        with pytest.raises(ProfileError, match="nut was taught, but this bundle has no feature networks"):
            attempt("nut")
    assert predictor.predict(good_part(0), "object").anomaly_score == 0.2


def test_what_is_taught_after_the_start_needs_a_reload_if_no_network_is_compiled(line: Line) -> None:
    predictor = line.start(networks=False)
    line.teach("nut")
    with pytest.raises(ProfileError, match=r"was taught after the agent started. Reload the agent"):
        predictor.prepare("nut")


def test_a_product_that_was_removed_is_the_bundles_again_when_it_is_chosen(line: Line) -> None:
    line.teach("object")
    predictor = line.start()
    predictor.prepare("object")
    line.store.remove("object")
    assert predictor.predict(good_part(0), "object").profile is not None
    predictor.prepare("object")
    assert predictor.predict(good_part(0), "object").profile is None


def test_a_store_that_cannot_be_read_gives_no_prediction(line: Line) -> None:
    fault = ProfileError("profiles: cannot be read: Input/output error")
    predictor = ProductPredictor(line.detector, None, line.store, CONFIG, taught=[], unreadable=fault)
    assert predictor.is_taught("object")
    for attempt in (predictor.prepare, lambda product: predictor.predict(good_part(0), product)):
        with pytest.raises(ProfileError, match="Input/output error"):
            attempt("object")


def test_feature_networks_are_compiled_only_if_something_was_taught(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(add_tiny_features(make_tiny_bundle(tmp_path / "bundle")))
    config = InferenceConfig(cache_dir=tmp_path / "cache")
    compiled: list[str] = []

    class Counted(FeatureNetworks):
        def __init__(self, bundle: Bundle, config: InferenceConfig, detector: Detector) -> None:
            compiled.append(bundle.manifest.name)
            super().__init__(bundle, config, detector)

    monkeypatch.setattr(in_use_module, "FeatureNetworks", Counted)
    make_predictor(bundle, config, line.store)
    make_predictor(bundle, config, None)
    assert compiled == []
    line.teach("nut")
    make_predictor(bundle, config, None)
    assert compiled == []
    assert make_predictor(bundle, config, line.store).is_taught("nut")
    assert compiled == ["darkness"]


def test_the_self_test_covers_the_feature_networks(line: Line) -> None:
    line.teach("nut")
    line.start().self_test()
    assert line.detector.tests == 1
