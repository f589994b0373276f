"""`zsad-convert features`: the networks of teach-in in a bundle."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_model import TEXT_DIM, record, text_embeddings, write_pictures
from tiny_bundle_maker import make_tiny_bundle

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from zsad_convert.bundle import serialise
from zsad_convert.cli import main
from zsad_convert.export import prompt_arrays, to_openvino
from zsad_convert.features import scales
from zsad_convert.features.networks import TokenNetwork
from zsad_convert.features.own_tokens import with_tokens
from zsad_convert.gate import compiled_in_float32
from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.backbones.vit import import_timm
from zsad_core.bundle import MODEL_BIN, MODEL_XML, Bundle, FeatureScale, load_bundle
from zsad_core.errors import BundleError
from zsad_core.model import Detector, DetectorConfig, joined, save_checkpoint
from zsad_core.picture import find_images, read_image, resize_to_input

VIT_FILE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


def write_weights(path: Path, name: str) -> Path:
    torch.manual_seed(3)
    save_file(import_timm().create_model(name, pretrained=False, num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("weights")
    cnn = write_weights(folder / "efficientnet-lite0-1.safetensors", scales.CNN)
    return write_weights(folder / VIT_FILE, scales.VIT), cnn


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 2)


@pytest.fixture(scope="module")
def made(weights, pictures, tmp_path_factory) -> Path:
    folder = make_tiny_bundle(tmp_path_factory.mktemp("made") / "bundle")
    shutil.copytree(folder, folder.with_name("before"))
    assert features(folder, *weights, images=pictures, version="2.0.0") == 0
    return folder


def features(bundle: Path, *weights: Path, images: Path, version: str | None = None) -> int:
    flags = [flag for path in weights for flag in ("--weights", str(path))]
    flags += [] if version is None else ["--version", version]
    return main(["features", str(bundle), *flags, "--images", str(images)])


def scale_of(bundle: Bundle, name: str) -> FeatureScale:
    return next(scale for scale in bundle.manifest.features or () if scale.name == name)


def test_all_scales_are_added_and_everything_else_stays(made, weights):
    before, after = load_bundle(made.with_name("before")), load_bundle(made)
    names = [scale.name for scale in after.manifest.features or ()]
    assert names == ["vit-whole", "cnn-whole", "cnn-tiles"]
    assert after.model_xml == before.model_xml
    assert after.model_bin.startswith(before.model_bin)
    assert after.manifest.version == "2.0.0"
    assert after.manifest.made_by.startswith(f"{before.manifest.made_by}; zsad-convert features ")
    licences = [(one.what, one.licence) for one in after.manifest.licences]
    assert ("backbone weights EfficientNet-Lite", "Apache-2.0") in licences
    assert len(licences) == len(before.manifest.licences) + 2
    assert "cnn-tiles (256 x 256 px, 2 x 2 tiles)" in (made / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize("name", [kind.name for kind in scales.KINDS])
def test_the_graph_gives_torchs_unit_vectors(made, weights, pictures, name):
    bundle = load_bundle(made)
    scale = scale_of(bundle, name)
    kind = next(kind for kind in scales.KINDS if kind.name == name)
    network = scales.token_network(kind, weights[kind.backbone == scales.CNN])
    graph = compiled_in_float32((bundle.feature_xml(scale), bundle.feature_weights()))
    assert scale.parity is not None and scale.parity.images == 2
    for path in find_images(pictures):
        image = resize_to_input(read_image(path), scale.input_hw)[None]
        with torch.no_grad():
            wanted = network(torch.from_numpy(image)).numpy()
        tokens = graph(image)["tokens"]
        assert tokens.shape == (1, scale.grid_hw[0] * scale.grid_hw[1], scale.width)
        np.testing.assert_allclose(np.linalg.norm(tokens, axis=2), 1, atol=1e-4)
        assert np.abs(tokens - wanted).max() <= scale.parity.max_difference + 1e-6
        assert scale.parity.max_difference <= scales.TOLERANCE


def test_whole_frame_and_tiles_of_one_network_use_one_graph(made):
    bundle = load_bundle(made)
    assert scale_of(bundle, "cnn-tiles").file == scale_of(bundle, "cnn-whole").file


def test_a_changed_graph_fails_the_comparison_with_torch(made, weights, pictures, monkeypatch, tmp_path, capsys):
    folder = Path(shutil.copytree(made.with_name("before"), tmp_path / "bundle"))
    monkeypatch.setattr(scales, "TOLERANCE", 1e-9)
    assert features(folder, weights[1], images=pictures) == 1
    assert "tokens of torch and IR differ by" in capsys.readouterr().err
    assert load_bundle(folder).manifest.features is None


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_one_backbone_gives_its_own_scales(made, weights, pictures, tmp_path, kind):
    bundle = Path(shutil.copytree(made.with_name("before"), tmp_path / "bundle"))
    if kind == "zip":
        bundle = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", bundle))
    assert features(bundle, weights[1], images=pictures) == 0
    added = load_bundle(bundle).manifest
    assert [scale.name for scale in added.features or ()] == ["cnn-whole", "cnn-tiles"]
    assert added.version == "0.0.1"


def test_wrong_weights_and_a_second_run_are_refused(made, weights, pictures, tmp_path, capsys):
    before = made.with_name("before")
    save_file({"conv.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    for flags, said in (
        ([before, tmp_path / "other.safetensors"], "weights of neither vit_tiny_patch16_224 nor tf_efficientnet_lite0"),
        ([before, weights[0], weights[0]], "are both of vit_tiny_patch16_224"),
        ([made, weights[0]], "has feature networks already"),
    ):
        assert features(*flags, images=pictures) != 0
        assert said in capsys.readouterr().err


def test_other_changes_of_a_bundle_keep_the_features(made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "bundle"))
    assert main(["prompts", str(folder), "--remove", "bottle"]) == 0
    assert main(["keygen", "--out", str(tmp_path / "line")]) == 0
    assert main(["sign", str(folder), "--key", str(tmp_path / "line.key")]) == 0
    bundle, before = load_bundle(folder), load_bundle(made)
    assert bundle.manifest.products == ("object",)
    assert bundle.manifest.features == before.manifest.features
    for scale in before.manifest.features or ():
        assert bundle.feature_xml(scale) == before.feature_xml(scale)


@pytest.mark.parametrize(("taps", "stride"), [((3, 4), 8), ((4,), 16), ((4,), 8)])
def test_a_cnns_own_model_gives_the_same_tokens_and_the_same_answer(weights, pictures, taps, stride):
    config = BackboneConfig(name=scales.CNN, input_hw=(256, 256), taps=(2, 3, 4))
    torch.manual_seed(0)
    detector = Detector(DetectorConfig(backbone=config, text_dim=24, hidden_dim=16), build_backbone(config)).eval()
    detector.backbone = build_backbone(config, weights=weights[1]).eval()
    ir = serialise(to_openvino(detector), "fp16")
    network = TokenNetwork(scales.CNN, input_hw=(256, 256), taps=taps, stride=stride, weights=weights[1])
    prompt = prompt_arrays(detector.head, text_embeddings())["object"]
    levels = [config.taps.index(tap) for tap in taps]
    before, after = compiled_in_float32(ir), compiled_in_float32(with_tokens(ir, levels, network.grid_hw))
    for path in find_images(pictures):
        image = resize_to_input(read_image(path), (256, 256))[None]
        old, new = (graph({"image": image, "prompt": prompt}) for graph in (before, after))
        assert np.array_equal(old["anomaly_map"], new["anomaly_map"])
        assert np.array_equal(old["anomaly_score"], new["anomaly_score"])
        with torch.no_grad():
            wanted = network(torch.from_numpy(image)).numpy()
        assert np.abs(new["tokens"] - wanted).max() <= scales.TOLERANCE


def test_the_cnn_of_a_joined_model_gives_the_tokens_of_the_whole_view(weights, pictures, tmp_path):
    torch.manual_seed(0)
    detectors = []
    for name, taps, file in ((scales.VIT, (1, 2), weights[0]), (scales.CNN, (2, 3, 4), weights[1])):
        config = BackboneConfig(name=name, input_hw=(256, 256), taps=taps)
        settings = DetectorConfig(
            backbone=config, backbone_weights=file.name, text_dim=TEXT_DIM, hidden_dim=16, map_stride=4
        )
        detectors.append(Detector(settings, build_backbone(config, weights=file)).eval())
    text = torch.from_numpy(text_embeddings()["object"])[None]
    both = joined(*detectors, detectors[1].head.prompt_vectors(text).detach())
    save_checkpoint(tmp_path / "both.safetensors", both, text_embeddings(), record())
    bundle = tmp_path / "bundle"
    flags = ["--out", str(bundle), "--name", "both", "--images", str(pictures)]
    assert main(["export", str(tmp_path / "both.safetensors"), *flags]) == 0
    alone = load_bundle(bundle)
    assert alone.manifest.model.backbone.startswith(f"{scales.VIT} from {VIT_FILE}")
    assert alone.manifest.model.second is not None
    assert alone.manifest.model.second.taps == (2, 3, 4)
    assert "joined with | a second detector: tf_efficientnet_lite0 from" in (bundle / "MODEL_CARD.md").read_text()
    assert features(bundle, weights[1], images=pictures) == 0
    taught = load_bundle(bundle)
    assert [(scale.name, scale.own) for scale in taught.manifest.features or ()] == [
        ("cnn-whole", True), ("cnn-tiles", False),
    ]  # fmt: skip
    prompt = taught.prompt("object")
    before, after = (compiled_in_float32((one.model_xml, one.model_bin)) for one in (alone, taught))
    for path in find_images(pictures):
        image = resize_to_input(read_image(path), (256, 256))[None]
        old, new = (graph({"image": image, "prompt": prompt}) for graph in (before, after))
        assert np.array_equal(old["anomaly_map"], new["anomaly_map"])


def test_a_model_without_levels_of_a_cnn_is_refused(tiny_bundle):
    ir = (tiny_bundle / MODEL_XML).read_bytes(), (tiny_bundle / MODEL_BIN).read_bytes()
    with pytest.raises(BundleError, match=r"has no levels \[1, 2\] of a CNN: found \[\]"):
        with_tokens(ir, (1, 2), (32, 32))
