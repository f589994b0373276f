"""From a checkpoint to an int8 bundle, on a small real model, with the gate."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
if find_spec("nncf") is None:  # only `import_nncf` imports it: a plain import sends usage data
    pytest.skip("needs nncf", allow_module_level=True)

from mvtec_tree import make_mvtec_tree
from small_model import TEXT_DIM, record, text_embeddings

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector as DeviceDetector
from zsad_convert.bundle import serialise
from zsad_convert.cli import main
from zsad_convert.export import prompt_arrays, to_openvino
from zsad_convert.gate import Metrics, labelled_pictures
from zsad_convert.gate.checks import TOLERANCES
from zsad_convert.gate.gate import gate_faults, measure_gate
from zsad_convert.quantise import AccuracyControl, calibration_set, import_nncf, quantise
from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.bundle import INT8_XML, load_bundle
from zsad_core.errors import ConfigError
from zsad_core.heads import ScoreConfig, Target
from zsad_core.model import Detector, DetectorConfig, load_checkpoint, save_checkpoint
from zsad_core.openvino_offline import import_openvino, openvino_core
from zsad_core.picture import find_images, read_image, resize_to_input

LOOSE = ["--score-tolerance", "0.2", "--map-tolerance", "1"]


def shallow_detector(name: str, **backbone) -> Detector:
    """A detector with random weights, on one of timm's models for tests."""
    torch.manual_seed(5)
    config = BackboneConfig(name=name, input_hw=(64, 96), **backbone)
    detector = DetectorConfig(
        backbone=config, text_dim=TEXT_DIM, hidden_dim=16, score=ScoreConfig(top_fraction=0.01, pool=4)
    )
    return Detector(detector, build_backbone(config)).eval()


def train(detector: Detector, root: Path, steps: int = 30) -> Detector:
    """Trains the head to find dark blots, so that int8 can lose accuracy."""
    loaded = [(one, *one.load()) for one in labelled_pictures(root, 100)]
    images = torch.from_numpy(np.stack([resize_to_input(image, (64, 96)) for _, image, _ in loaded]))
    masks = torch.from_numpy(np.stack([cv2.resize(mask, (96, 64)) for _, _, mask in loaded])).float()
    target = Target(mask=masks, is_anomalous=torch.tensor([float(one.is_anomalous) for one, _, _ in loaded]))
    text = torch.from_numpy(text_embeddings()["object"]).expand(len(loaded), -1, -1)
    optimiser = torch.optim.Adam(detector.head.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        detector.head.loss(detector(images, text), target).total.backward()
        optimiser.step()
    return detector


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set in MVTec layout."""
    return make_mvtec_tree(tmp_path_factory.mktemp("data") / "drawn", good=16, bad=8)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    file = tmp_path_factory.mktemp("vit") / "best.safetensors"
    save_checkpoint(file, train(shallow_detector("test_vit", taps=(1, 2)), data), text_embeddings(), record())
    return file


def flags_of(data, out, *more: str) -> list[str]:
    given = ["--out", str(out), "--name", "small", "--images", str(data / "plate" / "test"), "--max-images", "8"]
    return [*given, "--calibration", str(data), "--calibration-images", "12", *more]


@pytest.fixture(scope="module")
def quantised(checkpoint, data, tmp_path_factory):
    """A bundle with both models, accepted by the gate."""
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
    assert len(bundle.variant_bin) < 0.6 * len(bundle.model_bin)


def test_the_devices_int8_outputs_are_close_to_float(quantised, data, tmp_path):
    bundle = load_bundle(quantised)
    config = InferenceConfig(cache_dir=tmp_path)
    device = {name: DeviceDetector(bundle, config.model_copy(update={"model": name})) for name in bundle.arithmetics}
    for path in find_images(data / "plate" / "test")[:4]:
        answers = [one.predict(read_image(path), "bottle") for one in device.values()]
        assert answers[0].anomaly_score == pytest.approx(answers[1].anomaly_score, abs=0.2)
        assert not np.array_equal(answers[0].anomaly_map, answers[1].anomaly_map)


def test_the_manifest_records_the_variants_calibration_and_gate(quantised):
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
    assert manifest.accepted_loss == ()
    parity = variant.parity
    above = parity.max_map_difference > parity.map_tolerance or parity.max_score_difference > parity.score_tolerance
    assert (parity.map_tolerance, parity.score_tolerance) == TOLERANCES["int8"]
    assert len(variant.accepted_loss) == above  # allowed by `LOOSE`


def test_verify_compares_both_models(quantised, checkpoint, data, capsys):
    flags = ["--images", str(data / "plate" / "test"), "--max-images", "4", *LOOSE]
    assert main(["verify", str(quantised), "--checkpoint", str(checkpoint), *flags]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in told] == ["fp32:", "int8:"]


@pytest.fixture(scope="module")
def darkness(tmp_path_factory):
    """Black images, on which the activations do not show their range."""
    folder = tmp_path_factory.mktemp("dark")
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), np.zeros((64, 96, 3), np.uint8))
    return folder


def ruined(checkpoint, data, darkness, out, *more: str) -> list[str]:
    flags = flags_of(data, out, "--gate-data", str(data), "--calibration", str(darkness), *more)
    return ["quantize", str(checkpoint), *flags]


def test_an_int8_model_with_other_outputs_is_refused(checkpoint, data, darkness, tmp_path, capsys):
    assert main(ruined(checkpoint, data, darkness, tmp_path / "bundle")) == 1
    assert "int8: torch and IR differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_accepted_loss_is_in_the_manifest(checkpoint, data, darkness, tmp_path, capsys):
    assert main(ruined(checkpoint, data, darkness, tmp_path / "bundle", "--accept-loss")) == 0
    assert "int8: accepted: " in capsys.readouterr().out
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert manifest["model"]["precision"] == "int8" and manifest["variant"] is None
    assert any("torch and IR differ" in loss for loss in manifest["accepted_loss"])
    assert not (tmp_path / "bundle" / INT8_XML).exists()


def test_a_loss_allowed_by_wider_tolerances_is_in_the_manifest(checkpoint, data, darkness, tmp_path):
    wider = [word for name in ("map", "score", "auroc", "ap") for word in (f"--{name}-tolerance", "1")]
    assert main(ruined(checkpoint, data, darkness, tmp_path / "bundle", *wider)) == 0
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert any("torch and IR differ" in loss and "(allowed 2e-01)" in loss for loss in manifest.accepted_loss)
    assert (manifest.parity.map_tolerance, manifest.parity.score_tolerance) == TOLERANCES["int8"]
    assert (manifest.gate.image_auroc_tolerance, manifest.gate.pixel_ap_tolerance) == (0.005, 0.05)


def test_the_gate_finds_a_ruined_int8_model(checkpoint, data):
    """With the patch embedding in int8, this model cannot separate good from defective images."""
    loaded = load_checkpoint(checkpoint)
    graph, prompts = to_openvino(loaded.detector), prompt_arrays(loaded.detector.head, loaded.text_embeddings)
    calibration = [{"image": one.load()[0], "prompt": prompts["object"]} for one in labelled_pictures(data, 8)]
    for given in calibration:
        given["image"] = resize_to_input(given["image"], (64, 96))[None]
    nncf = import_nncf()
    broken = nncf.quantize(graph, nncf.Dataset(calibration), model_type=nncf.ModelType.TRANSFORMER)
    irs = {"int8": serialise(broken, "fp16")}
    tolerances = {"image_auroc_tolerance": 0.005, "pixel_ap_tolerance": 0.05}
    text = loaded.text_embeddings
    gate = measure_gate(loaded.detector, text, irs, prompts, [data], max_images=100, threshold=0.5, **tolerances)
    faults = gate_faults(gate["int8"])
    assert ["image AUROC" in faults[0], "pixel AP" in faults[1]] == [True, True]
    assert gate["int8"].rows[0].changed_verdicts > 0


def smoothed_darkness() -> object:
    """A graph whose map is the darkness of each pixel, with two convolutions; int8 can ruin the first."""
    ov = import_openvino()
    ops = ov.opset13
    image = ops.parameter([1, 64, 96, 3], np.uint8, name="image")
    planes = ops.transpose(ops.convert(image, "f32"), np.array([0, 3, 1, 2]))
    dark = ops.subtract(np.float32(1), ops.divide(planes, np.float32(255)))
    for channels in (3, 1):
        kernel = np.full((1, channels, 3, 3), 1 / (9 * channels), np.float32)
        dark = ops.convolution(dark, kernel, [1, 1], [1, 1], [1, 1], [1, 1])
    anomaly_map = ops.squeeze(dark, np.array([1]))
    anomaly_score = ops.reduce_max(anomaly_map, np.array([1, 2]), keep_dims=False)
    for node, name in ((image, "image"), (anomaly_map, "anomaly_map"), (anomaly_score, "anomaly_score")):
        node.output(0).set_names({name})
    return ov.Model([anomaly_map, anomaly_score], [image], "darkness")


def test_layers_that_lose_too_much_accuracy_return_to_float(data, tmp_path):
    """Calibrated on white images only, int8 cannot represent darkness."""
    for index in range(3):
        cv2.imwrite(str(tmp_path / f"{index}.png"), np.full((64, 96, 3), 255, np.uint8))
    calibration, pictures = calibration_set([tmp_path], 3, [], seed=0), labelled_pictures(data, 100)
    apart = {}
    for name, accuracy in (("plain", None), ("aware", AccuracyControl(pictures=pictures, max_drop=0.01))):
        graph = quantise(smoothed_darkness(), calibration, {}, transformer=False, accuracy=accuracy)
        compiled, metrics = openvino_core().compile_model(graph, "CPU"), Metrics()
        for one in pictures:
            image, mask = one.load()
            answer = compiled({"image": resize_to_input(image, (64, 96))[None]})
            metrics.update(one, mask, answer["anomaly_map"][0], float(answer["anomaly_score"][0]))
        apart[name] = metrics.image_auroc()
    assert apart["plain"] < 0.9
    assert apart["aware"] > 0.99


def test_a_cnn_needs_labelled_images_or_no_gate_and_ignored_layers_stay_in_float(data, tmp_path, capsys):
    file = tmp_path / "best.safetensors"
    save_checkpoint(file, shallow_detector("test_efficientnet", taps=(3, 4)), text_embeddings(), record())
    command = ["quantize", str(file), *flags_of(data, tmp_path / "bundle", "--accept-loss")]
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "one of the arguments --gate-data --no-gate is required" in capsys.readouterr().err
    assert main([*command, "--no-gate", "--ignored", "nothing so called"]) == 2
    assert "--ignored nothing so called: no name in the graph matches" in capsys.readouterr().err
    assert main([*command, "--no-gate", "--ignored", ".*head.*"]) == 0
    bundle = load_bundle(tmp_path / "bundle")
    assert (bundle.manifest.gate, bundle.manifest.model.precision) == ("left out", "int8")
    graph = openvino_core().read_model(model=bundle.model_xml, weights=bundle.model_bin)
    in_int8 = {
        op.get_type_name(): "FakeQuantize" in {port.get_node().get_type_name() for port in op.input_values()[:1]}
        for op in graph.get_ordered_ops()
        if op.get_type_name() in ("Convolution", "GroupConvolution") or "head" in op.get_friendly_name()
    }
    assert in_int8["Convolution"] and not in_int8["MatMul"]


def test_accuracy_control_needs_labelled_images(checkpoint, data, tmp_path, capsys):
    flags = flags_of(data, tmp_path / "bundle", "--no-gate", "--accuracy-aware")
    assert main(["quantize", str(checkpoint), *flags]) == 2
    assert "--accuracy-aware measures on labelled images: name a data set with --gate-data" in capsys.readouterr().err


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


def test_calibration_without_images_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"--calibration: no pictures below"):
        calibration_set([tmp_path], 10, ["object"], seed=0)


def test_nncf_finds_no_telemetry():
    program = (
        "import sys; from zsad_convert.quantise import import_nncf; nncf = import_nncf();"
        "from nncf.telemetry.wrapper import telemetry; print(type(telemetry).__name__);"
        "assert sys.modules['openvino_telemetry'] is None"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() != ["NNCFTelemetry"]
