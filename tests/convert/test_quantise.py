"""From a checkpoint to a bundle in int8, on a small real model; the gate that lets it through or does not."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("nncf")

from mvtec_tree import make_mvtec_tree  # noqa: E402
from small_model import TEXT_DIM, record, text_embeddings  # noqa: E402

from zsad_agent.config import InferenceConfig  # noqa: E402
from zsad_agent.inference import Detector as DeviceDetector  # noqa: E402
from zsad_convert.cli import main  # noqa: E402
from zsad_convert.quantise import calibration_set  # noqa: E402
from zsad_core.backbone import BackboneConfig  # noqa: E402
from zsad_core.backbones import build_backbone  # noqa: E402
from zsad_core.bundle import INT8_XML, load_bundle  # noqa: E402
from zsad_core.checkpoint import save_checkpoint  # noqa: E402
from zsad_core.detector import Detector, DetectorConfig  # noqa: E402
from zsad_core.errors import ConfigError  # noqa: E402
from zsad_core.imaging import find_images, read_image  # noqa: E402
from zsad_core.openvino_offline import openvino_core  # noqa: E402
from zsad_core.scoring import ScoreConfig  # noqa: E402

LOOSE = ["--auroc-tolerance", "0.15", "--ap-tolerance", "0.5", "--score-tolerance", "0.2", "--map-tolerance", "1"]


def shallow_detector(name: str, **backbone) -> Detector:
    """Random weights, the first layers of the backbone alone."""
    torch.manual_seed(5)
    config = BackboneConfig(name=name, input_hw=(64, 96), **backbone)
    detector = DetectorConfig(
        backbone=config, text_dim=TEXT_DIM, hidden_dim=16, score=ScoreConfig(top_fraction=0.01, pool=4)
    )
    return Detector(detector, build_backbone(config)).eval()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set in MVTec layout."""
    return make_mvtec_tree(tmp_path_factory.mktemp("data") / "drawn", good=16, bad=8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("vit") / "best.safetensors"
    save_checkpoint(file, shallow_detector("vit_tiny_patch16_224", taps=(1, 2)), text_embeddings(), record())
    return file


def flags_of(data, out, *more: str) -> list[str]:
    given = ["--out", str(out), "--name", "small", "--images", str(data / "plate" / "test"), "--max-images", "8"]
    return [*given, "--calibration", str(data), "--calibration-images", "12", *more]


@pytest.fixture(scope="module")
def quantised(checkpoint, data, tmp_path_factory):
    """A bundle with both models, through the gate."""
    out = tmp_path_factory.mktemp("int8") / "bundle"
    flags = flags_of(data, out, "--beside", "fp32", "--gate-data", str(data), "--seed", "3", *LOOSE)
    assert main(["quantize", str(checkpoint), *flags]) == 0
    return out


def test_most_of_the_graph_computes_in_int8(quantised):
    bundle = load_bundle(quantised)
    float_ops, int8_ops = (
        [op.get_type_name() for op in openvino_core().read_model(model=one.model_xml, weights=one.model_bin).get_ops()]
        for one in (bundle.computing_in("fp"), bundle.computing_in("int8"))
    )
    assert float_ops.count("FakeQuantize") == 0
    assert int8_ops.count("FakeQuantize") >= 8
    assert len(bundle.variant_bin) < 0.4 * len(bundle.model_bin)


def test_the_device_answers_in_int8_nearly_what_it_answers_in_float(quantised, data, tmp_path):
    bundle = load_bundle(quantised)
    config = InferenceConfig(cache_dir=tmp_path)
    device = {name: DeviceDetector(bundle, config.model_copy(update={"model": name})) for name in bundle.arithmetics}
    for path in find_images(data / "plate" / "test")[:4]:
        answers = [one.predict(read_image(path), "bottle") for one in device.values()]
        assert answers[0].anomaly_score == pytest.approx(answers[1].anomaly_score, abs=0.2)
        assert not np.array_equal(answers[0].anomaly_map, answers[1].anomaly_map)


def test_the_manifest_tells_how_the_variant_was_made_and_what_it_showed(quantised):
    manifest = load_bundle(quantised).manifest
    variant = manifest.variant
    assert (manifest.model.precision, variant.precision) == ("fp32", "int8")
    assert manifest.calibration is None
    assert (variant.calibration.source, variant.calibration.images, variant.calibration.seed) == ("drawn", 12, 3)
    assert manifest.parity.max_map_difference < 1e-3 < variant.parity.max_map_difference
    for gate in (manifest.gate, variant.gate):
        (row,) = gate.rows
        assert (row.dataset, row.images) == ("drawn", 16)
        assert abs(row.image_auroc_ir - row.image_auroc_torch) <= gate.image_auroc_tolerance
    assert manifest.accepted_loss == variant.accepted_loss == ()


def test_verify_compares_both_models(quantised, checkpoint, data, capsys):
    flags = ["--images", str(data / "plate" / "test"), "--max-images", "4", *LOOSE[4:]]
    assert main(["verify", str(quantised), "--checkpoint", str(checkpoint), *flags]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in told] == ["fp32:", "int8:"]


@pytest.fixture(scope="module")
def darkness(tmp_path_factory):
    """Pictures on which the activations show nothing of their range."""
    folder = tmp_path_factory.mktemp("dark")
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.zeros((64, 96, 3), np.uint8))
    return folder


def ruined(checkpoint, data, darkness, out, *more: str) -> list[str]:
    flags = flags_of(data, out, "--gate-data", str(data), "--calibration", str(darkness), *more)
    return ["quantize", str(checkpoint), *flags]


def test_an_int8_model_that_answers_otherwise_is_refused(checkpoint, data, darkness, tmp_path, capsys):
    assert main(ruined(checkpoint, data, darkness, tmp_path / "bundle")) == 1
    told = capsys.readouterr().err
    assert "int8: drawn: image AUROC" in told or "int8: drawn: pixel AP" in told
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_was_accepted_is_in_the_manifest(checkpoint, data, darkness, tmp_path, capsys):
    out = tmp_path / "bundle"
    assert main(ruined(checkpoint, data, darkness, out, "--accept-loss")) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["model"]["precision"] == "int8" and manifest["variant"] is None
    assert any("drawn: " in loss for loss in manifest["accepted_loss"])
    assert "int8: accepted: " in capsys.readouterr().out
    assert not (out / INT8_XML).exists()


def test_without_labelled_pictures_the_manifest_says_so(checkpoint, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["quantize", str(checkpoint), *flags_of(data, tmp_path / "bundle")])
    assert caught.value.code == 2
    assert "one of the arguments --gate-data --no-gate is required" in capsys.readouterr().err
    assert main(["quantize", str(checkpoint), *flags_of(data, tmp_path / "bundle", "--no-gate", *LOOSE)]) == 0
    assert load_bundle(tmp_path / "bundle").manifest.gate == "left out"


def test_layers_named_stay_in_float(checkpoint, data, tmp_path, capsys):
    flags = flags_of(data, tmp_path / "bundle", "--no-gate", "--accept-loss")
    assert main(["quantize", str(checkpoint), *flags, "--ignored", "nothing so called"]) == 2
    assert "--ignored nothing so called: nothing in the graph has a name that it matches" in capsys.readouterr().err
    assert main(["quantize", str(checkpoint), *flags, "--ignored", ".*"]) == 0
    bundle = load_bundle(tmp_path / "bundle")
    ops = openvino_core().read_model(model=bundle.model_xml, weights=bundle.model_bin).get_ops()
    assert not [op for op in ops if op.get_type_name() == "FakeQuantize"]


def test_a_cnn_is_quantised_too(data, tmp_path):
    file = tmp_path / "best.safetensors"
    save_checkpoint(file, shallow_detector("mobilenetv3_small_050", taps=(2, 3)), text_embeddings(), record())
    flags = flags_of(data, tmp_path / "bundle", "--no-gate", "--accept-loss")
    assert main(["quantize", str(file), *flags]) == 0
    assert load_bundle(tmp_path / "bundle").manifest.model.precision == "int8"


def test_layers_that_cost_too_much_go_back_to_float(checkpoint, data, darkness, tmp_path):
    flags = ["--accuracy-aware", "--max-drop", "0.001", "--accept-loss"]
    assert main(ruined(checkpoint, data, darkness, tmp_path / "aware", *flags)) == 0
    assert main(ruined(checkpoint, data, darkness, tmp_path / "plain", "--accept-loss")) == 0
    aware, plain = (load_bundle(tmp_path / name).manifest.gate.rows[0] for name in ("aware", "plain"))
    apart = [abs(row.image_auroc_ir - row.image_auroc_torch) for row in (aware, plain)]
    assert apart[0] < apart[1]


def test_calibration_is_evenly_spaced_seeded_and_without_masks(data):
    chosen = calibration_set([data], 10, ["object", "bottle"], seed=1)
    paths = [path for path, _ in chosen.pictures]
    every = [path for path in find_images(data) if "ground_truth" not in str(path)]
    assert len(set(paths)) == 10 and paths == sorted(paths)
    gaps = np.diff([every.index(path) for path in paths])
    assert gaps.max() - gaps.min() <= 1
    assert {product for _, product in chosen.pictures} == {"object", "bottle"}
    assert calibration_set([data], 10, ["object", "bottle"], seed=1) == chosen
    assert calibration_set([data], 10, ["object", "bottle"], seed=2) != chosen
    assert calibration_set([data], 1000, [], seed=1).record.images == len(every)


def test_calibration_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"--calibration: no pictures below"):
        calibration_set([tmp_path], 10, ["object"], seed=0)


def test_nncf_finds_no_telemetry():
    program = (
        "import sys; from zsad_convert.quantise import import_nncf; nncf = import_nncf();"
        "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__);"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["NNCFTelemetryStub"]), done.stderr
