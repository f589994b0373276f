"""The other two methods: checkpoint, export, verify, the agent's own runtime."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_model import PRODUCTS, SHALLOW, record, small_detector, text_embeddings, write_pictures

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector as DeviceDetector
from zsad_convert.cli import main
from zsad_core.bundle import load_bundle
from zsad_core.model import load_checkpoint, save_checkpoint
from zsad_core.picture import find_images, read_image, resize_to_input


@pytest.fixture(scope="module", params=["ad_dinov3", "visualad"])
def exported(request, tmp_path_factory):
    """(method, checkpoint file, folder of images, bundle)."""
    folder = tmp_path_factory.mktemp(request.param)
    checkpoint, pictures = folder / "best.safetensors", write_pictures(folder / "pictures")
    text = text_embeddings() if request.param == "ad_dinov3" else {}
    save_checkpoint(checkpoint, small_detector(method=request.param, **SHALLOW), text, record())
    flags = ["--name", "small", "--precision", "fp32", "--images", str(pictures)]
    assert main(["export", str(checkpoint), "--out", str(folder / "bundle"), *flags]) == 0
    return request.param, checkpoint, pictures, folder / "bundle"


def test_the_device_gives_torchs_outputs(exported, tmp_path):
    method, checkpoint, pictures, out = exported
    bundle, detector = load_bundle(out), load_checkpoint(checkpoint).detector
    assert bundle.manifest.model.method == detector.config.method == method
    assert bundle.manifest.products == (tuple(sorted(PRODUCTS)) if method == "ad_dinov3" else ())
    device = DeviceDetector(bundle, InferenceConfig(bundle=out, cache_dir=tmp_path))
    answers = set()
    for product in PRODUCTS:
        text = torch.from_numpy(text_embeddings()[product]).unsqueeze(0)
        for path in find_images(pictures):
            image = read_image(path)
            with torch.no_grad():
                resized = torch.from_numpy(resize_to_input(image, (64, 96))).unsqueeze(0)
                anomaly_map, score = detector.predict(resized, text)
            answer = device.predict(image, product)
            np.testing.assert_allclose(answer.anomaly_map, anomaly_map[0].numpy(), rtol=0, atol=1e-4)
            assert answer.anomaly_score == pytest.approx(score.item(), abs=1e-4)
            answers.add(round(answer.anomaly_score, 6))
    assert len(answers) == len(find_images(pictures)) * (len(PRODUCTS) if method == "ad_dinov3" else 1)


def test_verify_accepts_the_bundles_checkpoint(exported, capsys):
    _, checkpoint, pictures, out = exported
    assert main(["verify", str(out), "--checkpoint", str(checkpoint), "--images", str(pictures)]) == 0
    assert "of torch" in capsys.readouterr().out


def test_verify_names_a_checkpoint_of_another_method(exported, tmp_path, capsys):
    method, _, pictures, out = exported
    save_checkpoint(tmp_path / "other.safetensors", small_detector(**SHALLOW), text_embeddings(), record())
    flags = ["--checkpoint", str(tmp_path / "other.safetensors"), "--images", str(pictures)]
    assert main(["verify", str(out), *flags]) == 1
    assert f"{out}: method {method}, the checkpoint has ava_dino" in capsys.readouterr().err


def test_flags_of_published_files_are_refused_with_a_checkpoint(exported, tmp_path, capsys):
    _, checkpoint, pictures, _ = exported
    flags = ["--out", str(tmp_path / "b"), "--name", "x", "--images", str(pictures)]
    assert main(["export", str(checkpoint), *flags, "--restore-norm", "--input-size", "64"]) == 2
    assert "--input-size, --restore-norm: only for --published files" in capsys.readouterr().err


def test_products_are_refused_for_a_method_without_text(tmp_path, capsys):
    checkpoint = tmp_path / "best.safetensors"
    save_checkpoint(checkpoint, small_detector(method="visualad", **SHALLOW), {}, record())
    flags = [
        "--out",
        str(tmp_path / "b"),
        "--name",
        "x",
        "--images",
        str(write_pictures(tmp_path / "p")),
        "--products",
        "bottle",
    ]
    assert main(["export", str(checkpoint), *flags]) == 1
    assert "visualad uses no text" in capsys.readouterr().err
