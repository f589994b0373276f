import json
import logging
from pathlib import Path

import numpy as np
import pytest
from agent_process import AgentProcess, write_line_video
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, keep_faster
from zsad_agent.model.precision_choice import MAX_KEPT, choose_model
from zsad_core.bundle import Bundle, load_bundle
from zsad_core.errors import BundleError

BLACK = np.zeros((64, 64, 3), np.uint8)
FASTER_INT8 = {"fp": 10.0, "int8": 5.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose int8 variant gives half the score of its main model, so that a test can distinguish them."""
    return make_tiny_bundle(tmp_path_factory.mktemp("two") / "bundle", int8_scale=0.5)


@pytest.fixture
def bundle(folder: Path) -> Bundle:
    return load_bundle(folder)


@pytest.fixture
def config(tmp_path: Path) -> InferenceConfig:
    return InferenceConfig(cache_dir=tmp_path / "cache", threads=1)


def score(bundle: Bundle, config: InferenceConfig) -> float:
    return Detector(bundle, config).predict(BLACK).anomaly_score


def test_without_a_choice_the_main_model_is_used_and_logged_with_its_reason(
    bundle: Bundle, config: InferenceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert score(bundle, config) == pytest.approx(1.0, abs=1e-6)
    assert "using its fp model: the bundle's main model" in caplog.text


def test_stored_choice_is_used_and_logged_with_its_reason(
    bundle: Bundle, config: InferenceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert keep_faster(bundle, config, FASTER_INT8) == "int8"
    assert score(bundle, config) == pytest.approx(0.5, abs=1e-6)
    assert "its int8 model: zsad-agent bench chose it for this machine: fp 10.0 ms, int8 5.0 ms" in caplog.text


def test_daemon_uses_the_stored_choice(folder: Path, tmp_path: Path) -> None:
    config = InferenceConfig(cache_dir=tmp_path / "cache" / "compiled")
    keep_faster(load_bundle(folder), config, FASTER_INT8)
    video = write_line_video(tmp_path / "line.avi", frames=3)
    with AgentProcess(tmp_path, folder, "--source", str(video), "--broker", "mqtt://127.0.0.1:1") as agent:
        agent.wait_for_output("using its int8 model: zsad-agent bench chose it")


@pytest.mark.parametrize(("median_ms", "kept"), [({"fp": 10.0, "int8": 9.6}, "fp"), ({"fp": 5.0, "int8": 9.0}, "fp")])
def test_int8_is_kept_only_where_it_is_clearly_faster(
    bundle: Bundle, config: InferenceConfig, median_ms: dict, kept: str
) -> None:
    keep_faster(bundle, config, FASTER_INT8)
    assert keep_faster(bundle, config, median_ms) == kept
    assert choose_model(bundle, config) == kept  # instead of the earlier choice


def test_choice_belongs_to_one_bundle_on_one_machine(bundle: Bundle, config: InferenceConfig, tmp_path: Path) -> None:
    keep_faster(bundle, config, FASTER_INT8)
    other = load_bundle(make_tiny_bundle(tmp_path / "other", int8_scale=0.25))
    assert choose_model(other, config) == "fp"
    file = config.cache_dir / "model-choice.json"  # type: ignore[operator]
    choices = json.loads(file.read_text())
    choices["kept"][0]["device"] = "CPU on another"
    file.write_text(json.dumps(choices))
    assert choose_model(bundle, config) == "fp"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kept": [{"model": "int4"}]}', b"\xff\xfe", b" " * 70_000])
def test_damaged_choice_is_ignored_with_a_warning_and_written_again(
    bundle: Bundle, config: InferenceConfig, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    keep_faster(bundle, config, FASTER_INT8)
    file = config.cache_dir / "model-choice.json"  # type: ignore[operator]
    file.write_bytes(content)
    assert choose_model(bundle, config) == "fp"
    assert "ignored until zsad-agent bench writes it again" in caplog.text
    assert keep_faster(bundle, config, FASTER_INT8) == choose_model(bundle, config) == "int8"


def test_the_config_overrides_the_choice(bundle: Bundle, config: InferenceConfig) -> None:
    assert score(bundle, config.model_copy(update={"model": "int8"})) == pytest.approx(0.5, abs=1e-6)
    keep_faster(bundle, config, FASTER_INT8)
    assert score(bundle, config.model_copy(update={"model": "fp"})) == pytest.approx(1.0, abs=1e-6)


def test_a_model_that_is_not_in_the_bundle_is_refused(tiny_bundle: Path, config: InferenceConfig) -> None:
    with pytest.raises(BundleError, match=r"inference\.model is int8, but the bundle has only fp\. Set it to auto"):
        Detector(load_bundle(tiny_bundle), config.model_copy(update={"model": "int8"}))


def test_a_cache_that_cannot_be_written_is_a_warning(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    config = InferenceConfig(cache_dir=tmp_path / "file" / "cache")
    assert keep_faster(bundle, config, FASTER_INT8) == "int8"
    assert "the choice of the int8 model is not stored" in caplog.text
    assert choose_model(bundle, config) == "fp"


def test_old_choices_are_deleted(bundle: Bundle, config: InferenceConfig) -> None:
    for number in range(MAX_KEPT + 3):
        keep_faster(bundle, config.model_copy(update={"device": f"GPU.{number}"}), FASTER_INT8)
    file = config.cache_dir / "model-choice.json"  # type: ignore[operator]
    kept = json.loads(file.read_text())["kept"]
    assert (len(kept), kept[-1]["device"].split()[0]) == (MAX_KEPT, f"GPU.{MAX_KEPT + 2}")
