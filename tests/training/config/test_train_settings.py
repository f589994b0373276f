"""Presets, flags that override them, and settings for each method of a protocol."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from zsad_core.errors import ConfigError
from zsad_core.model.published import TIMM_NAMES
from zsad_training.config import parser, presets, read_config, read_configs
from zsad_training.config.load import METHOD_PRESETS
from zsad_training.train import main


def config(*flags: str):
    return read_config(parser().parse_args(["--data", "visa", "--out", "out", *flags]))


@pytest.mark.parametrize("name", presets())
def test_every_shipped_preset_is_valid(name):
    assert config("--preset", name).datasets[0].path == Path("visa")


@pytest.mark.parametrize(
    ("name", "method", "size", "rates", "batch", "epochs", "schedule"),
    [
        ("ava-dino", "ava_dino", 512, (1e-4, 1e-3), 64, 20, ("constant", 0.03, 0.0)),
        ("ad-dinov3", "ad_dinov3", 512, (1e-5, 1e-3), 16, 10, ("constant", 0.0, 0.0)),
        ("visualad-clip", "visualad", 518, (1e-4, 1e-3), 8, 2, ("cosine", 0.0, 0.1)),
        ("visualad-dinov2", "visualad", 518, (1e-4, 1e-3), 8, 15, ("cosine", 0.0, 0.1)),
    ],
)
def test_presets_have_the_papers_settings(name, method, size, rates, batch, epochs, schedule):
    found = config("--preset", name)
    spec = found.optimisation
    assert (found.model.method, found.model.input_hw, found.train_split) == (method, (size, size), "test")
    assert ((spec.lr, spec.token_lr), spec.batch_size, spec.epochs) == (rates, batch, epochs)
    assert (spec.schedule, spec.warmup_fraction, spec.lr_floor) == schedule
    assert (spec.weight_decay, spec.trainable_blocks, found.sampling.augment) == (0.01, 0, "none")


def test_visualads_clip_preset_has_the_backbone_of_the_published_files():
    assert config("--preset", "visualad-clip").model.backbone == TIMM_NAMES["ViT-L/14@336px"]


def test_gradient_checkpointing_of_a_frozen_backbone_is_refused_at_its_line(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("out: o\noptimisation:\n  gradient_checkpointing: true\ndatasets: [{path: visa}]\n")
    with pytest.raises(ConfigError, match=rf"{file}:2: optimisation: .*gradient_checkpointing saves nothing"):
        read_config(parser().parse_args(["--config", str(file)]))
    for flags in (("--method", "visualad"), ("--trainable-blocks", "1")):
        assert read_config(parser().parse_args(["--config", str(file), *flags])).optimisation.gradient_checkpointing


def test_tensorboard_without_its_package_names_the_command_that_installs_it(monkeypatch):
    assert config("--tensorboard").tensorboard
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'zsad-agent\[tensorboard\]'"):
        config("--tensorboard")


def test_flags_override_a_preset():
    found = config(
        "--preset", "ava-dino", "--batch-size", "32", "--accumulate", "4", "--backbone", "vit_tiny_patch16_224"
    )
    assert (found.optimisation.batch_size, found.optimisation.accumulate, found.optimisation.lr) == (32, 4, 1e-4)
    assert found.model.backbone == "vit_tiny_patch16_224"


def test_any_setting_can_be_set():
    found = config(
        "--set", "optimisation.steps_per_epoch=7", "sampling.train_hw=[[64, 96]]", "--set", "train_split=test"
    )
    assert found.optimisation.steps_per_epoch == 7
    assert found.sampling.train_hw == ((64, 96),)
    assert found.train_split == "test"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preset", "ava"], "--preset ava: no such preset. There are: ad-dinov3, ava-dino"),
        (["--set", "optimisation.lr"], "--set optimisation.lr: expected SECTION.KEY=VALUE"),
        (["--set", "datasets.0.licence=MIT"], "--set datasets.0.licence=MIT: expected SECTION.KEY=VALUE"),
        (["--set", "seed=[1"], "--set seed=[1: the value is not valid YAML"),
        (["--set", "optimisation.steps=3"], "optimisation.steps: unknown key"),
        (["--feature-cache", "c", "--trainable-blocks", "1"], "feature_cache: needs a method that adds no tokens"),
        (["--set", "optimisation.gradient_checkpointing=true"], "optimisation: got"),
        (["--feature-cache", "c", "--method", "visualad"], "feature_cache: needs a method that adds no tokens"),
        (["--feature-cache", "c", "--synthetic-fraction", "0.5"], "feature_cache: needs a method that adds no tokens"),
    ],
)
def test_meaningless_flags_are_named(capsys, flags, said):
    assert main(["--data", "visa", "--out", "out", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--config", "a.yaml", "--preset", "ava-dino"], ["--seeds", "1"], ["--methods", "ava_dino"]]
)
def test_flags_that_exclude_each_other_are_bad_usage(capsys, flags):
    with pytest.raises(SystemExit, match="2"):
        main(["--data", "visa", "--out", "out", *flags])


def configs(*flags: str):
    return read_configs(
        parser().parse_args(["--protocol", "leave-one-out", "--data", "a", "b", "--out", "out", *flags])
    )


def test_each_method_of_a_protocol_has_its_papers_preset_and_the_flags():
    found = configs("--methods", *METHOD_PRESETS, "--input-size", "384", "--feature-cache", "cache")
    assert {name: one.optimisation.lr for name, one in found.items()} == {
        "ava_dino": 1e-4,
        "ad_dinov3": 1e-5,
        "visualad": 1e-4,
    }
    assert {one.model.input_hw for one in found.values()} == {(384, 384)}
    assert {name: one.model.method for name, one in found.items()} == {name: name for name in METHOD_PRESETS}
    assert [name for name, one in found.items() if one.feature_cache] == ["ava_dino", "ad_dinov3"]


def test_a_common_file_or_preset_applies_to_methods_without_their_own(tmp_path):
    file, own = tmp_path / "all.yaml", tmp_path / "own.yaml"
    file.write_text("optimisation: {lr: 0.5}\n")
    own.write_text("optimisation: {lr: 0.25}\n")
    found = configs("--config", str(file), "--methods", "ava_dino", f"ad_dinov3={own}", "visualad=visualad-clip")
    assert [one.optimisation.lr for one in found.values()] == [0.5, 0.25, 1e-4]
    assert list(configs("--config", str(file))) == ["ava_dino"]


@pytest.mark.parametrize(
    ("methods", "said"), [(["ava_dino", "ava_dino=x.yaml"], "given twice"), (["ava"], "model.method: got 'ava'")]
)
def test_invalid_methods_are_named(methods, said):
    with pytest.raises(ConfigError, match=said):
        configs("--methods", *methods)


def test_the_layout_flag_applies_to_every_data_flag():
    config = read_config(parser().parse_args(["--out", "o", "--data", "a", "b", "--layout", "tn3k"]))
    assert [spec.layout for spec in config.datasets] == ["tn3k", "tn3k"]
    config = read_config(parser().parse_args(["--out", "o", "--data", "a"]))
    assert [spec.layout for spec in config.datasets] == ["auto"]


def test_a_folder_with_the_name_of_one_in_the_settings_keeps_its_licence_and_masks():
    found = read_config(
        parser().parse_args(["--preset", "zsad-small", "--data", "my/deeppcb", "b", "--textures", "my/cc0_textures"])
    )
    mine, other = found.datasets
    assert (mine.path, mine.licence, mine.mask_folder) == (Path("my/deeppcb"), "MIT", "ground_truth_xor")
    assert (other.path, other.licence, other.mask_folder) == (Path("b"), "not stated", None)
    assert (found.textures.path, found.textures.licence) == (Path("my/cc0_textures"), "CC0-1.0")


def test_the_layout_flag_without_sets_is_refused():
    with pytest.raises(ConfigError, match="--layout applies to --data only"):
        read_config(parser().parse_args(["--out", "o", "--layout", "tn3k"]))


def test_an_unknown_layout_in_a_config_file_is_named_with_its_line(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("out: o\ndatasets:\n  - path: a\n    layout: coco\n")
    with pytest.raises(ConfigError, match=r"train\.yaml:4: datasets\.0\.layout: got 'coco'.*'visa'"):
        read_config(parser().parse_args(["--config", str(file)]))
