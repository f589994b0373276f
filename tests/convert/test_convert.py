"""From checkpoint to bundle and back, on a small real model and real image files."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_model import PRODUCTS, SHALLOW, record, small_detector, text_embeddings, write_pictures

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector as DeviceDetector
from zsad_convert.bundle import MODEL_CARD, model_card
from zsad_convert.cli import main
from zsad_convert.gate.checks import TOLERANCES
from zsad_core.bundle import RESIZE_RULE, load_bundle
from zsad_core.model import Detector, save_checkpoint
from zsad_core.openvino_offline import openvino_core
from zsad_core.picture import find_images, read_image, resize_to_input


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(checkpoint file, folder of images, detector)."""
    folder = tmp_path_factory.mktemp("convert")
    detector = small_detector(**SHALLOW)
    save_checkpoint(folder / "best.safetensors", detector, text_embeddings(), record())
    return folder / "best.safetensors", write_pictures(folder / "pictures"), detector


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request, made, tmp_path_factory):
    checkpoint, pictures, _ = made
    out = tmp_path_factory.mktemp(request.param) / "bundle"
    flags = ["--out", str(out), "--name", "small", "--precision", request.param, "--images", str(pictures)]
    assert main(["export", str(checkpoint), *flags]) == 0
    return out, request.param


def test_the_device_gives_torchs_outputs(exported, made, tmp_path):
    """Uses the agent's own runtime and an image file of another size, for each product."""
    out, precision = exported
    _, pictures, detector = made
    bundle = load_bundle(out)
    device = DeviceDetector(bundle, InferenceConfig(bundle=out, cache_dir=tmp_path))
    tolerance = 1e-4 if precision == "fp32" else 2e-3
    for product in PRODUCTS:
        text = torch.from_numpy(text_embeddings()[product]).unsqueeze(0)
        for path in find_images(pictures):
            image = read_image(path)
            resized = torch.from_numpy(resize_to_input(image, (64, 96))).unsqueeze(0)
            with torch.no_grad():
                anomaly_map, score = detector.predict(resized, text)
            answer = device.predict(image, product)
            np.testing.assert_allclose(answer.anomaly_map, anomaly_map[0].numpy(), rtol=0, atol=tolerance)
            assert answer.anomaly_score == pytest.approx(score.item(), abs=tolerance)


def test_the_manifest_describes_the_bundle(exported):
    out, precision = exported
    manifest = load_bundle(out).manifest
    assert manifest.model.precision == precision
    assert manifest.model.input_hw == (64, 96)
    assert manifest.model.taps == SHALLOW["taps"]
    assert manifest.products == tuple(sorted(PRODUCTS))
    assert 0 < manifest.parity.max_map_difference <= manifest.parity.map_tolerance
    assert any(licence.licence == "CC0" for licence in manifest.licences)
    assert (out / MODEL_CARD).read_text() == model_card(manifest)


def test_the_manifest_has_the_versions_and_date_of_the_export(exported):
    out, _ = exported
    manifest = load_bundle(out).manifest
    assert (manifest.format_version, manifest.resize) == (2, RESIZE_RULE)
    assert manifest.built_at is not None
    assert timedelta() <= datetime.now(UTC).date() - manifest.built_at <= timedelta(days=1)  # the date may have changed
    assert manifest.built_with is not None
    assert f'value="{manifest.built_with.openvino}"' in (out / "model.xml").read_text()
    assert manifest.built_with.torch == version("torch")
    assert (manifest.built_with.timm, manifest.built_with.zsad_agent) == (version("timm"), version("zsad-agent"))


def test_verify_accepts_the_bundles_checkpoint_and_refuses_another(exported, made, tmp_path, capsys):
    out, _ = exported
    checkpoint, pictures, _ = made
    flags = ["--images", str(pictures)]
    assert main(["verify", str(out), "--checkpoint", str(checkpoint), *flags]) == 0
    other = small_detector(**SHALLOW)
    with torch.no_grad():
        other.head.text_projection.weight.mul_(-1)
    save_checkpoint(tmp_path / "other.safetensors", other, text_embeddings(), record())
    assert main(["verify", str(out), "--checkpoint", str(tmp_path / "other.safetensors"), *flags]) == 1
    assert "torch and IR differ" in capsys.readouterr().err


def test_verify_refuses_a_checkpoint_that_gives_nan(exported, made, tmp_path, monkeypatch, capsys):
    def predict(detector, images, text=None):
        return torch.full((1, *images.shape[1:3]), torch.nan), torch.tensor([0.1])

    monkeypatch.setattr(Detector, "predict", predict)
    assert main(["verify", str(exported[0]), "--checkpoint", str(made[0]), "--images", str(made[1])]) == 1
    assert "the checkpoint gives values that are not finite" in capsys.readouterr().err


def test_verify_names_a_checkpoint_of_another_input_size(exported, made, tmp_path, capsys):
    save_checkpoint(tmp_path / "other.safetensors", small_detector((96, 96), **SHALLOW), text_embeddings(), record())
    flags = ["--checkpoint", str(tmp_path / "other.safetensors"), "--images", str(made[1])]
    assert main(["verify", str(exported[0]), *flags]) == 1
    assert "input (64, 96), the checkpoint has (96, 96): it was not made from it" in capsys.readouterr().err


def test_parity_is_measured_on_images_without_masks(made, tmp_path):
    write_pictures(tmp_path / "set" / "plate" / "ground_truth" / "hole", count=4)
    write_pictures(tmp_path / "set" / "plate" / "test" / "hole", count=3)
    flags = ["--out", str(tmp_path / "bundle"), "--name", "small", "--images", str(tmp_path / "set")]
    assert main(["export", str(made[0]), *flags]) == 0
    assert load_bundle(tmp_path / "bundle").manifest.parity.images == 3


def test_nothing_is_written_when_the_gate_fails(made, tmp_path, capsys):
    checkpoint, pictures, _ = made
    out = tmp_path / "bundle"
    flags = ["--out", str(out), "--name", "small", "--images", str(pictures), "--map-tolerance", "1e-12"]
    assert main(["export", str(checkpoint), *flags]) == 1
    assert "torch and IR differ" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_bundle_is_not_overwritten(made, tmp_path, capsys):
    checkpoint, pictures, _ = made
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.txt").write_text("keep me")
    flags = ["--out", str(tmp_path / "photos"), "--name", "small", "--images", str(pictures)]
    assert main(["export", str(checkpoint), *flags]) == 1
    assert "is not a bundle" in capsys.readouterr().err
    assert (tmp_path / "photos" / "holiday.txt").read_text() == "keep me"


def test_parity_without_images_is_an_error(made, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    flags = ["--out", str(tmp_path / "bundle"), "--name", "small", "--images", str(tmp_path / "empty")]
    assert main(["export", str(made[0]), *flags]) == 2
    assert f"--images {tmp_path / 'empty'}: no pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        ("export", {"--out": "photos"}, "photos: exists and is not a bundle"),
        ("export", {"--out": "file/bundle"}, "file/bundle: cannot be created in"),
        ("export", {"--images": "photos"}, "photos: no pictures in this folder or below it"),
        ("export", {"--images": "masks"}, "masks: no pictures in this folder or below it"),
        ("export", {"--gate-data": "photos"}, "photos: no mvtec_ad layout here"),
        ("quantize", {"--calibration": "photos", "--no-gate": ""}, "--calibration: no pictures below"),
        ("quantize", {"--calibration": "pictures", "--no-gate": "", "--accuracy-aware": ""}, "name a data set with"),
    ],
)
def test_invalid_paths_are_refused_before_the_checkpoint_is_read(made, tmp_path, capsys, command, given, said):
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "file").touch()
    write_pictures(tmp_path / "masks" / "candle" / "Data" / "Masks" / "Anomaly")
    (tmp_path / "pictures").symlink_to(made[1])
    flags = {"--out": "bundle", "--images": "pictures"} | given
    words = [word for flag, value in flags.items() for word in (flag, value and str(tmp_path / value)) if word]
    assert main([command, str(tmp_path / "no checkpoint"), "--name", "small", *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_widened_tolerance_is_recorded_as_an_accepted_loss(made, tmp_path):
    checkpoint, pictures, _ = made
    flags = ["--name", "small", "--images", str(pictures), "--map-tolerance", "0.5", "--score-tolerance", "0.5"]
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "usual"), *flags]) == 0
    usual = load_bundle(tmp_path / "usual").manifest
    assert (usual.parity.map_tolerance, usual.parity.score_tolerance) == TOLERANCES["fp16"]
    assert usual.accepted_loss == ()


def test_the_graph_has_the_inputs_and_outputs_of_the_contract(exported):
    bundle = load_bundle(exported[0])
    model = openvino_core().read_model(model=bundle.model_xml, weights=bundle.model_bin)
    ports = {port.any_name: (list(port.shape), port.element_type.to_string()) for port in model.inputs + model.outputs}
    assert ports == {
        "image": ([1, 64, 96, 3], "u8"),
        "prompt": ([2, 2, 64], "f32"),
        "anomaly_map": ([1, 64, 96], "f32"),
        "anomaly_score": ([1], "f32"),
    }


def test_the_manifest_is_plain_json(exported):
    manifest = json.loads((exported[0] / "manifest.json").read_text())
    assert manifest["model"]["colour_order"] == "BGR"
    assert set(manifest["files"]) == {"model.xml", "model.bin", "prompts.npz", "text_side.safetensors"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-images", "0"], "argument --max-images: '0': expected a whole number from 1"),
        (["--threshold", "7"], "argument --threshold: '7': expected a number from 0 to 1"),
        (["--map-tolerance", "nan"], "argument --map-tolerance: 'nan': expected a number from 0 to 1"),
    ],
)
def test_flags_out_of_range_are_bad_usage(made, tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as caught:
        main(["export", str(made[0]), "--out", str(tmp_path / "b"), "--name", "x", "--images", str(made[1]), *flags])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_an_invalid_table_and_a_missing_device_are_one_line(exported, made, tmp_path, capsys):
    (tmp_path / "table.json").write_text("no table")
    flags = ["--name", "x", "--images", str(made[1]), "--evaluation", str(tmp_path / "table.json")]
    assert main(["export", str(made[0]), "--out", str(tmp_path / "b"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zsad-convert: {tmp_path}/table.json: not a table of zsad-evaluate --json: ")
    flags = ["--checkpoint", str(made[0]), "--images", str(made[1]), "--device", "TPU"]
    assert main(["verify", str(exported[0]), *flags]) == 1
    assert "zsad-convert: device 'TPU' is absent or cannot run the graph. Present: CPU" in capsys.readouterr().err
