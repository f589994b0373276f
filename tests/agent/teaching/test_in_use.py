"""The predictor of the agent: a taught product never falls back to the bundle alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from taught_fakes import MAP_HW, good_part
from taught_line import CONFIG, Line
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, FeatureNetworks
from zsad_agent.teaching import (
    ProductPredictor,
    ProfileStore,
    TaughtPredictor,
    make_predictor,
)
from zsad_agent.teaching import in_use as in_use_module
from zsad_core.bundle import Bundle, load_bundle
from zsad_core.errors import ProductError, ProfileError


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
