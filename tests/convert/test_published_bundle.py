"""A published checkpoint, in the authors' layout, becomes a bundle and a table with `--published`."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from published_files import AD_MODULES, module_states, visualad_content
from safetensors.torch import save_file
from small_model import write_pictures

from zsad_convert.cli import main as convert
from zsad_core.backbones import Backbone, BackboneConfig
from zsad_core.bundle import load_bundle
from zsad_core.heads import AdDinoV3, MatchingConfig, VisualAd, VisualAdConfig
from zsad_core.model import published_checkpoint
from zsad_training.evaluate import main as evaluate

VIT, WIDTH, TAPS = "vit_tiny_patch16_224", 192, [3, 6, 9, 12]


def ad_dinov3_file(path: Path) -> Path:
    torch.manual_seed(1)
    head = AdDinoV3(MatchingConfig(embed_dim=WIDTH, text_dim=384, num_taps=4))
    torch.save(module_states(head, AD_MODULES), path)
    return path


def vit_file(path: Path) -> Path:
    save_file(Backbone(BackboneConfig(name=VIT, input_hw=(224, 224))).vit.state_dict(), path)
    return path


def visualad_file(path: Path) -> Path:
    torch.manual_seed(2)
    head = VisualAd(VisualAdConfig(embed_dim=WIDTH, num_taps=4, max_positions=40))
    torch.save(visualad_content(head, TAPS, image_size=96, backbone="a ViT of the authors' own"), path)
    return path


def test_a_published_text_method_becomes_a_bundle_with_the_generic_product(tmp_path):
    pictures = write_pictures(tmp_path / "pictures")
    flags = ["--published", "ad_dinov3", str(ad_dinov3_file(tmp_path / "p.pth")), "--text-encoder", "minilm"]
    flags += ["--backbone", VIT, "--weights", str(vit_file(tmp_path / "vit.safetensors"))]
    flags += ["--input-size", "64", "--images", str(pictures)]
    assert convert(["export", *flags, "--precision", "fp32", "--out", str(tmp_path / "b"), "--name", "p"]) == 0
    assert convert(["verify", str(tmp_path / "b"), *flags]) == 0
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.model.method == "ad_dinov3"
    assert manifest.products == ("object",)
    assert manifest.threshold.method == "none was set: calibrate on good parts"
    assert any("published checkpoint p.pth" in licence.what for licence in manifest.licences)


def test_a_published_visualad_is_evaluated_at_its_own_size_without_text(tmp_path):
    for name, level in (("good", 200), ("blot", 30)):
        folder = tmp_path / "set" / "part" / "test" / name
        folder.mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(folder / f"{index}.png"), np.full((40, 40, 3), level + index, np.uint8))
    masks = tmp_path / "set" / "part" / "ground_truth" / "blot"
    masks.mkdir(parents=True)
    for index in range(2):
        cv2.imwrite(str(masks / f"{index}_mask.png"), np.pad(np.full((20, 20), 255, np.uint8), 10))
    flags = ["--published", "visualad", str(visualad_file(tmp_path / "p.pth")), "--backbone", VIT]
    assert evaluate([*flags, "--data", str(tmp_path / "set"), "--json", str(tmp_path / "t.json")]) == 0
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["protocol"].startswith("test split, no prompt, ")
    assert "text none, input (96, 96)" in table["protocol"]
    assert table["rows"][0]["images"] == 4


def test_the_files_final_norm_is_loaded_only_on_request(tmp_path):
    file = visualad_file(tmp_path / "p.pth")
    kept = published_checkpoint("visualad", file, backbone=VIT).detector.backbone.vit.norm
    restored = published_checkpoint("visualad", file, backbone=VIT, restore_norm=True).detector.backbone.vit.norm
    assert torch.equal(kept.weight, torch.ones(WIDTH))
    assert torch.equal(restored.weight, torch.full((WIDTH,), 2.0))


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ([], 2, "name either CHECKPOINT or --published METHOD FILE"),
        (["--published", "winclip", "x"], 2, "--published winclip: no such method. Known: ava_dino, ad_dinov3"),
        (["--published", "visualad", "nowhere.pth"], 1, "nowhere.pth: no such checkpoint"),
        (["--published", "visualad", "FILE"], 2, 'known for its backbone "a ViT of the authors\' own": name one'),
        (["--published", "ad_dinov3", "FILE", "--backbone", VIT], 1, "surplus"),
    ],
)
def test_faults_of_a_published_file_are_named(tmp_path, capsys, flags, code, said):
    file = visualad_file(tmp_path / "p.pth")
    given = [str(file) if flag == "FILE" else flag for flag in flags]
    assert evaluate([*given, "--data", str(tmp_path)]) == code
    assert said in capsys.readouterr().err
