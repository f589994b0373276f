"""The feature networks of a bundle on the device."""

import logging
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import CELLS, SCALES, SIDE, add_tiny_features

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, FeatureNetworks
from zsad_agent.model.compiled_cache import KEPT_BUNDLES
from zsad_agent.model.feature_networks import _Network
from zsad_core.bundle import FeatureScale, load_bundle
from zsad_core.errors import BundleError, DeviceError
from zsad_core.picture import find_images, read_image

ROOT = Path(__file__).parents[3]
WHOLE, TILES = SCALES
COLOURS = np.array([[(200, 20, 20), (20, 200, 20)], [(20, 20, 200), (200, 200, 20)]], np.uint8)


@pytest.fixture
def config(tmp_path: Path) -> InferenceConfig:
    return InferenceConfig(cache_dir=tmp_path / "cache", threads=1)


def loaded(folder: Path, config: InferenceConfig) -> tuple[Detector, FeatureNetworks]:
    bundle = load_bundle(folder)
    detector = Detector(bundle, config)
    return detector, FeatureNetworks(bundle.without_model(), config, detector)


@pytest.fixture
def networks(tmp_path: Path, config: InferenceConfig) -> FeatureNetworks:
    return loaded(add_tiny_features(make_tiny_bundle(tmp_path / "bundle")), config)[1]


def quarters(height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(COLOURS, height // 2, axis=0), width // 2, axis=1)


def direction(colours: np.ndarray) -> np.ndarray:
    """What the tiny network gives for a cell of this colour."""
    raised = colours.astype(np.float32) + 1
    return raised / np.linalg.norm(raised, axis=-1, keepdims=True)


@pytest.mark.parametrize(("scale", "cells"), [(WHOLE, CELLS), (TILES, 2 * CELLS)])
@pytest.mark.parametrize("hw", [(128, 128), (300, 512), (SIDE, SIDE)])
def test_tiles_lie_where_the_view_has_them(
    networks: FeatureNetworks, scale: FeatureScale, cells: int, hw: tuple[int, int]
) -> None:
    tokens = networks.tokens(quarters(*hw), scale)
    assert (tokens.dtype, tokens.shape) == (np.float32, (cells, cells, 3))
    half = cells // 2
    for row in range(2):
        for column in range(2):
            part = tokens[row * half : (row + 1) * half, column * half : (column + 1) * half]
            np.testing.assert_allclose(part, np.broadcast_to(direction(COLOURS[row, column]), part.shape), atol=0.05)


def test_a_strip_is_three_tiles_side_by_side(networks: FeatureNetworks) -> None:
    thirds = np.array([[(200, 20, 20), (20, 200, 20), (20, 20, 200)]], np.uint8)
    tokens = networks.tokens(np.repeat(np.repeat(thirds, 60, axis=0), 70, axis=1), WHOLE, strip=True)
    assert tokens.shape == (CELLS, 3 * CELLS, 3)
    for index in range(3):
        part = tokens[:, index * CELLS : (index + 1) * CELLS]
        np.testing.assert_allclose(part, np.broadcast_to(direction(thirds[0, index]), part.shape), atol=0.05)
    with pytest.raises(ValueError, match="colour-tiles: a strip has tiles of its own"):
        networks.tokens(quarters(64, 192), TILES, strip=True)


def test_answers_do_not_share_memory(networks: FeatureNetworks) -> None:
    first = networks.tokens(quarters(64, 64), WHOLE)
    before = first.copy()
    networks.tokens(np.full((64, 64, 3), 7, np.uint8), WHOLE)
    assert np.array_equal(first, before)


def test_a_scale_of_tiles_takes_the_time_of_its_tiles(networks: FeatureNetworks) -> None:
    assert 0 < networks.time_ms(WHOLE) == networks.time_ms(TILES) / 4


def test_time_is_measured_only_if_it_is_asked_for(
    tmp_path: Path, config: InferenceConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add_tiny_features(make_tiny_bundle(tmp_path / "bundle"))
    loaded(folder, config)  # compiles
    ran: list[object] = []
    infer = _Network._infer
    monkeypatch.setattr(_Network, "_infer", lambda network, request: ran.append(request) or infer(network, request))
    networks = loaded(folder, config)[1]
    assert len(ran) == 1  # the self-test
    networks.time_ms(WHOLE)
    assert len(ran) > 1


def test_a_bundle_without_feature_networks_says_so(tiny_bundle: Path, config: InferenceConfig) -> None:
    with pytest.raises(BundleError, match=r"darkness 0\.0\.1 has no feature networks, which teach-in needs"):
        loaded(tiny_bundle, config)


@pytest.mark.parametrize("length", [0.9, 1.1, 0.0, float("nan")])
def test_vectors_of_another_length_are_refused_at_the_start(
    tmp_path: Path, config: InferenceConfig, length: float
) -> None:
    with pytest.raises(DeviceError, match="features-colour: no valid tokens"):
        loaded(add_tiny_features(make_tiny_bundle(tmp_path / "bundle"), length=length), config)


def test_a_nan_in_one_answer_is_an_error_and_the_next_answer_is_fine(tmp_path: Path, config: InferenceConfig) -> None:
    _, networks = loaded(add_tiny_features(make_tiny_bundle(tmp_path / "bundle"), nan_on_black=True), config)
    view = quarters(128, 128)
    view[96:, 96:] = 0  # one tile, one corner
    with pytest.raises(DeviceError, match="no valid tokens: squared lengths from nan"):
        networks.tokens(view, TILES)
    assert np.isfinite(networks.tokens(quarters(128, 128), TILES)).all()


def test_a_network_that_contradicts_its_manifest_is_refused(tmp_path: Path, config: InferenceConfig) -> None:
    folder = add_tiny_features(make_tiny_bundle(tmp_path / "bundle"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"width": 3', '"width": 5'))
    with pytest.raises(BundleError, match=r"features-colour\.xml: does not match the manifest: tokens: expected"):
        loaded(folder, config)


def test_a_changed_answer_fails_the_self_test_and_ends_all_tokens(networks: FeatureNetworks) -> None:
    networks.self_test()
    (network,) = networks._networks.values()
    network._known = network._known[::-1].copy()
    for _ in range(2):
        with pytest.raises(DeviceError, match="answer to the test picture differs"):
            networks.self_test()
        with pytest.raises(DeviceError, match="answer to the test picture differs"):
            networks.tokens(quarters(64, 64), WHOLE)


def test_the_second_start_reads_the_cache_and_an_altered_one_is_compiled_again(
    tmp_path: Path, config: InferenceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    folder = add_tiny_features(make_tiny_bundle(tmp_path / "bundle"))
    first = loaded(folder, config)[1].tokens(quarters(128, 128), TILES)
    (blob,) = config.cache_dir.glob("model-*--features-colour/*.blob")
    written = blob.stat().st_mtime_ns
    loaded(folder, config)
    assert blob.stat().st_mtime_ns == written
    blob.write_bytes(blob.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(loaded(folder, config)[1].tokens(quarters(128, 128), TILES), first)
    assert len(blob.read_bytes()) > 100
    assert not caplog.records


def test_a_bundles_networks_count_as_one_in_the_cache(tmp_path: Path, config: InferenceConfig) -> None:
    for size in (16, 24, 32, 40):
        loaded(add_tiny_features(make_tiny_bundle(tmp_path / f"b{size}", input_hw=(size, size))), config)
    assert len(list(config.cache_dir.glob("model-*"))) == 2 * KEPT_BUNDLES


def test_zsad_tiny_gives_the_tokens_of_its_last_picture_and_runs_its_network_for_others(
    config: InferenceConfig,
) -> None:
    detector, networks = loaded(ROOT / "agent" / "bundles" / "zsad-tiny", config)
    whole, tiles = networks.scales
    assert (whole.own, tiles.own, tiles.tiles) == (True, False, 2)
    first, second = (read_image(path) for path in sorted(find_images(ROOT / "demo" / "stream"))[:2])
    detector.predict(first)
    from_detector = detector.tokens(first)
    assert from_detector is not None
    own = networks.tokens(first, whole)
    assert own.shape == (32, 32, 152)
    assert np.array_equal(own.reshape(-1, 152), from_detector)
    assert detector.tokens(second) is None
    detector.predict(second)
    from_network = networks.tokens(first, whole)
    np.testing.assert_allclose(from_network, own, rtol=0, atol=1e-4)
    assert np.abs(networks.tokens(second, whole) - own).max() > 0.01
    detector.self_test()
    assert detector.tokens(second) is None  # the request holds the answer to the test picture


def test_zsad_small_lays_out_all_scales(config: InferenceConfig) -> None:
    _, networks = loaded(ROOT / "agent" / "bundles" / "zsad-small", config)
    image = read_image(min(find_images(ROOT / "demo" / "stream")))
    shapes = {scale.name: networks.tokens(image, scale).shape for scale in networks.scales}
    assert shapes == {
        "vit-whole": (14, 14, 576),
        "cnn-whole": (32, 32, 152),
        "cnn-tiles": (64, 64, 152),
    }
    strips = [networks.tokens(image, scale, strip=True).shape for scale in networks.scales if scale.tiles == 1]
    assert strips == [(14, 42, 576), (32, 96, 152)]
    networks.self_test()
