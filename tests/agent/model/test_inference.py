import logging
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, check_device
from zsad_agent.model.compiled_cache import KEPT_BUNDLES, alone_in
from zsad_agent.system import give_back_memory
from zsad_core.bundle import load_bundle
from zsad_core.errors import BundleError, DeviceError, ImageError, ProductError

SHIPPED = Path(__file__).parents[3] / "agent" / "bundles"


def white(height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def blotted(height: int = 128, width: int = 128) -> np.ndarray:
    image = white(height, width)
    image[height // 4 : height // 2, width // 4 : width // 2] = 0
    return image


@pytest.fixture
def config(tmp_path: Path) -> InferenceConfig:
    return InferenceConfig(cache_dir=tmp_path / "cache", threads=1)


@pytest.fixture
def detector(tiny_bundle: Path, config: InferenceConfig) -> Detector:
    return Detector(load_bundle(tiny_bundle), config)


def test_blot_scores_high_and_white_part_low(detector: Detector) -> None:
    assert detector.predict(white()).anomaly_score == pytest.approx(0.0, abs=1e-6)
    prediction = detector.predict(blotted())
    assert prediction.anomaly_score == pytest.approx(1.0, abs=1e-6)
    assert prediction.anomaly_map.dtype == np.float32
    assert prediction.anomaly_map.shape == (64, 64)
    assert prediction.anomaly_map[24, 24] == pytest.approx(1.0, abs=1e-6)
    assert prediction.anomaly_map[50, 50] == pytest.approx(0.0, abs=1e-6)


def test_detector_works_after_the_bundle_is_freed(tiny_bundle: Path, config: InferenceConfig) -> None:
    bundle = load_bundle(tiny_bundle)
    held = sys.getrefcount(bundle), sys.getrefcount(bundle.model_bin)
    detector = Detector(bundle, config)
    still_held = (
        sys.getrefcount(bundle),
        sys.getrefcount(bundle.model_bin),
    )  # not inside the assert, which would keep the arrays
    assert still_held == held
    before = detector.predict(blotted(), "bottle")
    del bundle
    give_back_memory()
    after = detector.predict(blotted(), "bottle")
    assert after.anomaly_score == before.anomaly_score
    assert np.array_equal(after.anomaly_map, before.anomaly_map)


def test_bundle_without_text_scores_every_product_alike(tmp_path: Path, config: InferenceConfig) -> None:
    detector = Detector(load_bundle(make_tiny_bundle(tmp_path / "bundle", needs_text=False)), config)
    scores = [detector.predict(blotted(), product).anomaly_score for product in ("object", "pump housing")]
    assert scores == pytest.approx([1.0, 1.0], abs=1e-6)


def test_switching_the_product_changes_the_score_and_stays(detector: Detector) -> None:
    assert detector.predict(blotted(), "bottle").anomaly_score == pytest.approx(0.8, abs=1e-6)
    assert detector.predict(blotted()).anomaly_score == pytest.approx(0.8, abs=1e-6)
    assert detector.predict(blotted(), "object").anomaly_score == pytest.approx(1.0, abs=1e-6)


def test_unknown_product_is_refused_and_the_previous_one_stays(detector: Detector) -> None:
    with pytest.raises(ProductError, match=r"'screw' is not in the bundle\. It has: bottle, object"):
        detector.predict(white(), "screw")
    assert detector.predict(blotted()).anomaly_score == pytest.approx(1.0, abs=1e-6)


def test_answers_do_not_share_memory(detector: Detector) -> None:
    first = detector.predict(blotted()).anomaly_map
    before = first.copy()
    detector.predict(white())
    assert np.array_equal(first, before)


@pytest.mark.parametrize("hw", [(32, 32), (32, 4000), (2000, 33)])
def test_images_of_unusual_sizes_are_scored(detector: Detector, hw: tuple[int, int]) -> None:
    assert detector.predict(white(*hw)).anomaly_map.shape == (64, 64)


@pytest.mark.parametrize("hw", [(1, 1), (1, 500), (500, 31)])
def test_picture_that_is_too_small_is_refused(detector: Detector, hw: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="at least 32x32"):
        detector.predict(white(*hw))


def test_inputs_need_not_be_square(tmp_path: Path, config: InferenceConfig) -> None:
    bundle = load_bundle(make_tiny_bundle(tmp_path / "wide", input_hw=(32, 96)))
    assert Detector(bundle, config).predict(blotted()).anomaly_map.shape == (32, 96)


@pytest.mark.parametrize("scale", [float("nan"), 2.0, -1.0])
def test_model_with_invalid_answers_does_not_start(tmp_path: Path, config: InferenceConfig, scale: float) -> None:
    bundle = load_bundle(make_tiny_bundle(tmp_path / "mad", output_scale=scale))
    with pytest.raises(DeviceError, match=r"no valid anomaly_map: .* expected \[0, 1\]"):
        Detector(bundle, config)


def test_nan_in_one_answer_is_an_error_and_the_next_answer_is_fine(tmp_path: Path, config: InferenceConfig) -> None:
    detector = Detector(load_bundle(make_tiny_bundle(tmp_path / "nan", nan_on_black=True)), config)
    with pytest.raises(DeviceError, match="nan"):
        detector.predict(blotted())
    assert detector.predict(white()).anomaly_score == pytest.approx(0.0, abs=1e-6)


def test_model_that_contradicts_its_manifest_is_refused(tmp_path: Path, config: InferenceConfig) -> None:
    wrong_size = load_bundle(make_tiny_bundle(tmp_path / "size", stated_map_hw=(32, 32)))
    with pytest.raises(BundleError, match=r"anomaly_map: expected f32 \[1, 32, 32\], found f32 \[1, 64, 64\]"):
        Detector(wrong_size, config)
    wrong_name = load_bundle(make_tiny_bundle(tmp_path / "name", map_name="heat"))
    with pytest.raises(BundleError, match=r"anomaly_map: expected .* found none"):
        Detector(wrong_name, config)


@pytest.mark.parametrize("device", ["GPU", "NPU.3", "AUTO:GPU,CPU", "cpu", ""])
def test_absent_device_is_refused_with_a_list_of_the_present_ones(
    tiny_bundle: Path, tmp_path: Path, device: str
) -> None:
    from zsad_core.openvino_offline import openvino_core

    if device != "cpu" and any(name.startswith(("GPU", "NPU")) for name in openvino_core().available_devices):
        pytest.skip("this machine has such a device")
    with pytest.raises(DeviceError, match=r"not present. Present here: .*CPU"):
        Detector(load_bundle(tiny_bundle), InferenceConfig(device=device, cache_dir=tmp_path))
    with pytest.raises(DeviceError, match="not present"):
        check_device(device)


@pytest.mark.parametrize("device", ["AUTO", "AUTO:CPU"])
def test_auto_finds_a_device(tiny_bundle: Path, tmp_path: Path, device: str) -> None:
    detector = Detector(load_bundle(tiny_bundle), InferenceConfig(device=device, cache_dir=tmp_path, threads=1))
    assert detector.predict(blotted()).anomaly_score == pytest.approx(1.0, abs=1e-3)


def test_second_start_reads_the_cache_and_writes_no_file(tiny_bundle: Path, config: InferenceConfig) -> None:
    def start_both() -> dict[str, int]:
        for precision in ("f32", "auto"):
            Detector(load_bundle(tiny_bundle), config.model_copy(update={"precision": precision}))
        return {path.name: path.stat().st_mtime_ns for path in config.cache_dir.rglob("*") if path.is_file()}

    written = start_both()
    assert len(written) >= 5  # the lock, the seal, two answers and at least one compiled model
    assert start_both() == written


@pytest.mark.parametrize("name", ["zsad-small", "zsad-tiny"])
def test_half_precision_weights_are_expanded_once_and_not_for_every_picture(name: str, config: InferenceConfig) -> None:
    bundle = load_bundle(SHIPPED / name)
    assert bundle.manifest.model.precision == "fp16"
    Detector(bundle, config)
    assert config.cache_dir is not None
    (blob,) = config.cache_dir.rglob("*.blob")
    assert blob.stat().st_size > 1.9 * len(bundle.model_bin)


def test_altered_cache_is_compiled_again(tiny_bundle: Path, config: InferenceConfig) -> None:
    Detector(load_bundle(tiny_bundle), config)
    assert config.cache_dir is not None
    (blob,) = config.cache_dir.rglob("*.blob")
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Detector(load_bundle(tiny_bundle), config).predict(blotted()).anomaly_score == pytest.approx(1.0, abs=1e-6)
    assert len(blob.read_bytes()) == len(whole)


def test_old_caches_are_deleted_and_other_folders_are_kept(tmp_path: Path, config: InferenceConfig) -> None:
    assert config.cache_dir is not None
    (config.cache_dir / "photos").mkdir(parents=True)
    for size in (16, 24, 32, 40, 48):
        bundle = load_bundle(make_tiny_bundle(tmp_path / f"b{size}", input_hw=(size, size)))
        Detector(bundle, config)
    assert len(list(config.cache_dir.glob("model-*"))) == KEPT_BUNDLES
    assert (config.cache_dir / "photos").is_dir()


def test_cache_is_not_used_while_another_process_has_locked_it(tiny_bundle: Path, config: InferenceConfig) -> None:
    assert config.cache_dir is not None
    with alone_in(config.cache_dir) as alone:
        assert alone
        compiling = threading.Thread(target=Detector, args=(load_bundle(tiny_bundle), config))
        compiling.start()
        compiling.join(1.0)
        assert compiling.is_alive()
        assert not list(config.cache_dir.glob("model-*"))
    compiling.join(30.0)
    assert not compiling.is_alive()
    assert len(list(config.cache_dir.rglob("*.blob"))) == 1


def test_cache_that_stays_locked_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with alone_in(tmp_path), alone_in(tmp_path, patience_s=0.1) as alone:
        assert not alone
    assert "locked by another process" in caplog.text
    with alone_in(tmp_path, patience_s=0.0) as alone:
        assert alone


def test_unwritable_cache_is_logged_once_and_not_used(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        detector = Detector(load_bundle(tiny_bundle), InferenceConfig(cache_dir=tmp_path / "file" / "cache", threads=1))
    assert detector.predict(blotted()).anomaly_score == pytest.approx(1.0, abs=1e-6)
    assert len(caplog.records) == 1
    assert "compiled at every start" in caplog.text
