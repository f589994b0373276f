"""The feature networks in a bundle's manifest and files."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_features import FILE, SCALES, add_tiny_features

from zsad_core.bundle import MANIFEST, MODEL_BIN, FeatureScale, load_bundle
from zsad_core.errors import BundleError

SHIPPED = Path(__file__).parents[3] / "agent" / "bundles"


@pytest.fixture
def taught(tiny_bundle: Path, tmp_path: Path) -> Path:
    return add_tiny_features(Path(shutil.copytree(tiny_bundle, tmp_path / "bundle")))


def with_scales(folder: Path, *scales: dict[str, object]) -> Path:
    manifest = json.loads((folder / MANIFEST).read_text())
    base = SCALES[0].model_dump(mode="json")
    (folder / MANIFEST).write_text(json.dumps(manifest | {"features": [base | scale for scale in scales]}))
    return folder


def test_a_bundle_without_the_key_loads(tiny_bundle: Path) -> None:
    assert load_bundle(tiny_bundle).manifest.features is None


def test_graph_and_weights_are_read_when_they_are_needed(taught: Path) -> None:
    bundle = load_bundle(taught)
    assert bundle.manifest.features == SCALES
    without = bundle.without_model()
    assert without.feature_xml(SCALES[0]) == (taught / FILE).read_bytes()
    assert without.feature_weights() == (taught / MODEL_BIN).read_bytes()
    graph = (taught / FILE).read_bytes()
    assert not any(value == graph for value in vars(bundle).values())


def test_a_zip_gives_the_graph_too(taught: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", taught))
    assert load_bundle(archive).feature_xml(SCALES[1]) == (taught / FILE).read_bytes()


def test_damage_of_a_graph_is_found_when_the_bundle_is_loaded(taught: Path) -> None:
    whole = (taught / FILE).read_bytes()
    for damaged in (whole[:-1], b"", bytes([whole[0] ^ 1]) + whole[1:]):
        (taught / FILE).write_bytes(damaged)
        with pytest.raises(BundleError, match=rf"{FILE}: sha256 is .* truncated or was changed"):
            load_bundle(taught)
    (taught / FILE).unlink()
    with pytest.raises(BundleError, match=FILE):
        load_bundle(taught)


@pytest.mark.parametrize("name", [FILE, MODEL_BIN])
def test_damage_after_the_bundle_was_loaded_is_found(taught: Path, name: str) -> None:
    bundle = load_bundle(taught)
    content = (taught / name).read_bytes()
    (taught / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"{name}: sha256 is"):
        bundle.feature_xml(SCALES[0])
        bundle.feature_weights()


def test_a_graph_without_a_hash_is_refused(taught: Path) -> None:
    manifest = json.loads((taught / MANIFEST).read_text())
    del manifest["files"][FILE]
    (taught / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=f"no hash for {FILE}"):
        load_bundle(taught)


@pytest.mark.parametrize(
    ("scales", "said"),
    [
        ([], "features: .* at least 1 item"),
        ([{}, {}], "'colour-whole' occurs 2 times"),
        ([{"file": None}], "features.0.file"),
        ([{"own": True, "tiles": 2}], "takes its input"),
        ([{"own": True, "input_hw": [32, 32]}], "takes its input"),
        ([{"own": True}, {"own": True, "name": "b"}], "of one scale only"),
        ([{}, {"name": "b", "grid_hw": [8, 8]}], "has another input or output"),
        ([{"file": "model.xml"}], "features.0.file"),
        ([{"file": "../features-a.xml"}], "features.0.file"),
        ([{"name": "Whole Part"}], "features.0.name"),
        ([{"tiles": 3}], "features.0.tiles"),
        ([{"grid_hw": [0, 4]}], "features.0.grid_hw"),
        ([{"grid_hw": [4, 100_000]}], "features.0.grid_hw"),
        ([{"memory": 0}], "features.0.memory"),
        ([{"width": 1e9}], "features.0.width"),
    ],
)
def test_scales_that_do_not_fit_are_refused(taught: Path, scales: list[dict[str, object]], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        load_bundle(with_scales(taught, *scales))


def test_shipped_bundles_have_these_scales() -> None:
    def told(scale: FeatureScale) -> tuple[object, ...]:
        return scale.name, scale.input_hw, scale.grid_hw, scale.width, scale.tiles, scale.memory

    cnn = ((256, 256), (32, 32), 152)
    small = load_bundle(SHIPPED / "zsad-small").manifest.features or ()
    assert [told(scale) for scale in small] == [
        ("vit-whole", (224, 224), (14, 14), 576, 1, 3000),
        ("cnn-whole", *cnn, 1, 2000),
        ("cnn-tiles", *cnn, 2, 2000),
    ]
    tiny = load_bundle(SHIPPED / "zsad-tiny").manifest.features or ()
    assert [told(scale) for scale in tiny] == [told(scale) for scale in small[1:]]
    assert [[scale.own for scale in scales] for scales in (small, tiny)] == [[False, True, False], [True, False]]
    for scale in (*small, *tiny):
        assert scale.parity is not None and scale.parity.max_difference <= scale.parity.tolerance <= 0.02
