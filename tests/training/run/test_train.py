"""The trainer with a small random ViT and drawn data."""

import csv
import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mvtec_tree import make_mvtec_tree
from one_dataset import read_dataset
from safetensors.torch import load_file
from small_model import TEXT_DIM, record, small_detector, text_embeddings
from small_run import HW, assert_same_but_for_rounding, make_data, small_config, small_trainer

from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.errors import DatasetError, WeightsError
from zsad_core.heads import DecoderConfig
from zsad_core.model import Detector, DetectorConfig, load_checkpoint, save_checkpoint
from zsad_training.config import DatasetSpec, ValidationSpec
from zsad_training.measure import ValidationPictures
from zsad_training.pictures import find_textures
from zsad_training.run import Processes
from zsad_training.run.processes import usual_workers
from zsad_training.train import embed, main, read_parts


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


class KilledInSecondEpoch:
    """Replaces validation; the process dies before the second epoch is saved."""

    def __init__(self, real: ValidationPictures) -> None:
        self._real = real
        self._calls = 0

    def run(self, *args, **kwargs):
        self._calls += 1
        if self._calls == 2:
            raise KeyboardInterrupt
        return self._real.run(*args, **kwargs)


@pytest.mark.parametrize(
    "variant", [{}, {"trainable_blocks": 4, "ema_decay": 0.9, "schedule": "cosine", "loss_stride": 2}]
)
def test_a_resumed_run_ends_with_the_same_weights(data, tmp_path, variant):
    whole = small_config(data, tmp_path / "whole", **variant)
    small_trainer(whole).run()
    cut = small_config(data, tmp_path / "cut", **variant)
    real = small_trainer(cut)._validation
    with pytest.raises(KeyboardInterrupt):
        small_trainer(cut, KilledInSecondEpoch(real)).run()
    small_trainer(cut).run()
    expected = torch.load(tmp_path / "whole" / "resume.pt", weights_only=True)["detector"]
    found = torch.load(tmp_path / "cut" / "resume.pt", weights_only=True)["detector"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_training_lowers_the_loss_and_does_not_change_a_frozen_backbone(data, tmp_path):
    settings = small_config(data, tmp_path, epochs=3, steps_per_epoch=15, lr=3e-3)
    before = {name: value.clone() for name, value in small_detector(HW).backbone.state_dict().items()}
    best = small_trainer(settings).run()
    with (tmp_path / "log.csv").open() as file:
        losses = [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "loss_total"]
    assert len(losses) == 45
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    after = load_checkpoint(best).detector.backbone.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_only_the_last_blocks_train(data, tmp_path):
    small_trainer(small_config(data, tmp_path, trainable_blocks=5, backbone_lr=1e-3)).run()
    before = small_detector(HW).state_dict()
    after = load_file(tmp_path / "best.safetensors")
    changed = [
        block
        for block in range(12)
        if not torch.equal(
            before[f"backbone.vit.blocks.{block}.mlp.fc1.weight"], after[f"backbone.vit.blocks.{block}.mlp.fc1.weight"]
        )
    ]
    assert changed == [7]  # the last five are 7 to 11, and the taps end after the eighth, which is 7 from 0


def test_cached_features_train_to_nearly_the_same_weights(data, tmp_path):
    plain = small_config(data, tmp_path / "plain")
    plain = plain.model_copy(
        update={"sampling": plain.sampling.model_copy(update={"synthetic_fraction": 0.0, "augment": "none"})}
    )
    small_trainer(plain).run()
    cached = plain.model_copy(update={"out": tmp_path / "cached"})
    small_trainer(cached, cache=tmp_path / "cache").run()
    assert list((tmp_path / "cache").rglob("*.npy"))
    expected, found = (load_file(tmp_path / name / "best.safetensors") for name in ("plain", "cached"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3, msg=name)


def test_frozen_weights_are_neither_averaged_nor_saved_for_resuming(data, tmp_path):
    run = small_trainer(small_config(data, tmp_path, ema_decay=0.9))
    best = run.run()
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    trained = sum(one.numel() for one in run._detector.parameters() if one.requires_grad)
    backbone = sum(one.numel() for one in run._detector.backbone.parameters())
    assert trained < backbone / 20
    assert not any(name.startswith("backbone.") for name in saved["detector"])
    assert sum(value.numel() for value in saved["average"].values()) == trained + 1  # and the number of updates
    assert (tmp_path / "resume.pt").stat().st_size < 1.2 * 4 * 4 * trained + 100_000  # weights, average, Adam's two
    assert best.stat().st_size > 4 * backbone  # the checkpoint also has the frozen backbone


def test_the_checkpoint_has_the_averaged_weights_and_training_continues_with_its_own(data, tmp_path):
    run = small_trainer(small_config(data, tmp_path, ema_decay=0.5, epochs=1, lr=1e-2))
    best = load_file(run.run())
    saved = torch.load(tmp_path / "resume.pt", weights_only=True)
    names = [name for name, one in run._detector.named_parameters() if one.requires_grad]
    for index, name in enumerate(names):
        torch.testing.assert_close(best[name], saved["average"][f"module.{index}"], rtol=0, atol=0)
    for name, value in run._detector.named_parameters():
        if name in saved["detector"]:
            torch.testing.assert_close(saved["detector"][name], value.data, rtol=0, atol=0)
    name = "head.text_projection.weight"
    assert not torch.equal(best[name], saved["detector"][name])


def test_a_run_with_other_frozen_weights_is_not_resumed(data, tmp_path):
    small_trainer(small_config(data, tmp_path)).run()
    changed = small_trainer(small_config(data, tmp_path))
    with torch.no_grad():
        changed._detector.backbone.vit.cls_token.add_(1)
    with pytest.raises(ValueError, match="other frozen weights"):
        changed.run()


def test_a_run_with_other_settings_is_not_resumed(data, tmp_path):
    small_trainer(small_config(data, tmp_path)).run()
    with pytest.raises(ValueError, match="other settings"):
        small_trainer(small_config(data, tmp_path, lr=1e-3)).run()


def test_a_nan_loss_ends_the_run_and_names_the_step(data, tmp_path):
    broken = small_trainer(small_config(data, tmp_path))
    with torch.no_grad():
        broken._detector.head.text_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        broken.run()


def test_the_command_line_names_every_wrong_setting(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("datasets:\n  - pth: drawn\noptimisation:\n  epochs: many\n")
    assert main(["--config", str(file), "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert f"{file}:2: datasets.0.pth: unknown key" in text
    assert f"{file}:4: optimisation.epochs: got 'many'" in text


def test_the_command_line_trains_and_evaluates(data, tmp_path, capsys):
    from zsad_training.evaluate import main as evaluate

    flags = ["--data", str(data / "drawn"), "--out", str(tmp_path), "--input-size", "64", "--epochs", "1"]
    assert main([*flags, "--batch-size", "8", "--workers", "0", "--seed", "3"]) == 0
    best = Path(capsys.readouterr().out.strip())
    shutil.copytree(data / "drawn", tmp_path / "copy" / "drawn")
    assert evaluate([str(best), "--data", str(data / "drawn"), str(tmp_path / "copy" / "drawn")]) == 2
    assert "two folders give rows called drawn/plate" in capsys.readouterr().err
    assert load_checkpoint(best).record["trained_on"] == ["drawn"]
    table = tmp_path / "table.json"
    report = tmp_path / "report"
    assert evaluate([str(best), "--data", str(data / "drawn"), "--json", str(table), "--report", str(report)]) == 0
    assert "| drawn/plate | yes | 30 |" in capsys.readouterr().out
    assert '"pixel_ap"' in table.read_text()
    assert {path.name for path in report.iterdir()} == {
        *("metrics.json", "metrics.md"),
        *("drawn-plate.jpg", "drawn-plate-curves.png"),
    }


def test_a_run_may_start_from_one_on_synthetic_images_only(data, tmp_path, capsys):
    recipe = tmp_path / "drawn.yaml"
    recipe.write_text(
        f"textures: {{path: {data / 'textures'}}}\n"
        "model: {input_hw: [64, 64], decoder: {width: 8, detail: 8}, map_stride: 4}\n"
        "sampling: {synthetic_fraction: 1, texture_fraction: 1, printed_fraction: 0.5}\n"
        "optimisation: {epochs: 1, steps_per_epoch: 1, batch_size: 4, loss_stride: 4}\n"
        "validation: {synthetic: 8, fraction: 0.4}\n"
    )
    common = ["--config", str(recipe), "--workers", "0", "--seed", "3"]
    assert main([*common, "--out", str(tmp_path / "seed-3")]) == 0
    first = load_checkpoint(Path(capsys.readouterr().out.strip()))
    assert first.record["trained_on"] == []
    assert set(first.text_embeddings) == {"object"}  # textures are not products
    start = tmp_path / "seed-3" / "best.safetensors"
    flags = ["--data", str(data / "drawn"), "--start", str(start), "--input-size", "96"]  # also of another size
    assert main([*common, "--out", str(tmp_path / "next"), *flags]) == 0
    second = load_checkpoint(Path(capsys.readouterr().out.strip()))
    assert (second.record["trained_on"], set(second.text_embeddings)) == (["drawn"], {"object", "plate"})


def test_a_checkpoint_is_evaluated_with_other_map_weights_and_sizes(data, tmp_path, capsys):
    """The text embeddings are the checkpoint's: no text encoder gives vectors of `TEXT_DIM`."""
    from zsad_training.evaluate import main as evaluate

    torch.manual_seed(0)
    config = DetectorConfig(
        backbone=BackboneConfig(name="test_vit", input_hw=(64, 64), taps=(1, 2)),
        text_dim=TEXT_DIM,
        decoder=DecoderConfig(width=8, detail=8),
    )
    text = {"plate": text_embeddings()["object"]}
    save_checkpoint(tmp_path / "c.safetensors", Detector(config, build_backbone(config.backbone)), text, record())
    test = [str(tmp_path / "c.safetensors"), "--data", str(data / "drawn"), "--skip-data-check"]
    tables = {}
    for changed in ((), ("--distance-weight", "9"), ("--text-weight", "1"), ("--smaller-size", "32")):
        assert evaluate([*test, *changed]) == 0
        tables[changed] = capsys.readouterr().out
    assert "distance_weight 9, masks" in tables["--distance-weight", "9"]
    assert "input (64, 64) and (32, 32)," in tables["--smaller-size", "32"]
    assert len({table.splitlines()[-1] for table in tables.values()}) == 4
    for wrong, said in (
        (("--text-weight", "-1"), "text_weight"),
        (("--smaller-size", "33"), "--smaller-size: input (3"),
    ):
        assert evaluate([*test, *wrong]) == 2
        assert said in capsys.readouterr().err


def test_map_weights_without_a_decoder_are_refused(data, tmp_path, capsys):
    from zsad_training.evaluate import main as evaluate

    best = tmp_path / "best.safetensors"
    save_checkpoint(best, small_detector(HW), text_embeddings(), record())
    assert evaluate([str(best), "--data", str(data / "drawn"), "--skip-data-check", "--text-weight", "1"]) == 1
    assert "text_weight: this checkpoint has no decoder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("model:\n", (), "datasets: got (). there is none. Name one"),
        ("model: 5\n", (), "model: got 5"),
        ("", ("--input-size", "0"), "model.input_hw.0: got 0"),
    ],
)
def test_flags_with_an_invalid_section_give_an_error(tmp_path, capsys, text, flags, said):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["--config", str(file), "--out", str(tmp_path / "out"), "--backbone", "x", *flags]) == 2
    assert said in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    flags = ["--data", str(data / "drawn"), "--out", str(tmp_path / "file"), "--input-size", "64", "--workers", "0"]
    assert main(flags) == 1
    assert f"zsad-train: [Errno 17] File exists: '{tmp_path / 'file'}'" in capsys.readouterr().err


def test_a_truncated_resume_file_is_named(data, tmp_path):
    (tmp_path / "resume.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(WeightsError, match=r"resume\.pt: cannot be read: truncated.*\nRemove it"):
        small_trainer(small_config(data, tmp_path)).run()


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"best\.safetensors: cannot be written"):
        save_checkpoint(tmp_path / "none" / "best.safetensors", small_detector(HW), text_embeddings(), {})


def test_a_folder_without_textures_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no textures here"):
        find_textures(tmp_path / "none")


def test_validation_without_good_images_is_refused_before_training(data):
    defective = [sample for sample in read_dataset(data / "drawn") if sample.is_anomalous]
    with pytest.raises(ValueError, match=r"none of the 20 validation pictures is good.*validation\.fraction"):
        ValidationPictures(defective, [], ValidationSpec(), input_hw=HW, seed=0)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "resume.pt", weights_only=True)["detector"]


def losses(folder: Path) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["split"] == "train"]


def test_a_batch_in_parts_gives_the_same_weights(data, tmp_path):
    whole = {"mixed_precision": "off", "trainable_blocks": 6, "ema_decay": 0.9}
    small_trainer(small_config(data, tmp_path / "whole", **whole)).run()
    small_trainer(small_config(data, tmp_path / "parts", accumulate=4, **whole)).run()
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=2e-5)  # written with 5 decimals
    assert_same_but_for_rounding(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_a_batch_that_cannot_be_shared_evenly_is_named(data, tmp_path):
    with pytest.raises(ValueError, match="batch_size 4 cannot be shared evenly by 1 processes in 3 parts each"):
        small_trainer(small_config(data, tmp_path, accumulate=3))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_works_on_a_cpu(data, tmp_path, precision):
    small_trainer(small_config(data, tmp_path / "off", mixed_precision="off")).run()
    small_trainer(small_config(data, tmp_path / precision, mixed_precision=precision)).run()
    assert losses(tmp_path / precision) == pytest.approx(losses(tmp_path / "off"), rel=0.1, abs=0.02)
    assert not torch.equal(
        weights(tmp_path / precision)["head.text_projection.weight"], small_detector(HW).head.text_projection.weight
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_a_gpu_gives_nearly_the_same_weights_as_a_cpu(data, tmp_path, precision):
    small_trainer(small_config(data, tmp_path / "cpu", mixed_precision="off")).run()
    on_gpu = small_config(data, tmp_path / "gpu", mixed_precision=precision)
    small_trainer(on_gpu.model_copy(update={"device": "cuda"})).run()
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05, abs=0.02)


@pytest.mark.parametrize(("step", "factor"), [(0, 1.0), (3, 0.55), (6, 0.1)])
def test_a_cosine_schedule_ends_at_its_floor(data, tmp_path, step, factor):
    settings = small_config(data, tmp_path, schedule="cosine", warmup_fraction=0.0, lr_floor=0.1, steps_per_epoch=7)
    run = small_trainer(
        settings.model_copy(update={"optimisation": settings.optimisation.model_copy(update={"epochs": 1})})
    )
    assert run._lr_factor(step + 1) == pytest.approx(factor)
    assert run._lr_factor(0) == 1


def test_a_cached_backbone_runs_only_in_the_first_epoch(data, tmp_path):
    settings = small_config(data, tmp_path / "out", epochs=2, steps_per_epoch=40, batch_size=8)
    sampling = settings.sampling.model_copy(update={"synthetic_fraction": 0.0, "augment": "none"})
    run = small_trainer(settings.model_copy(update={"sampling": sampling}), NoValidation(), cache=tmp_path / "cache")
    pictures_by_epoch: list[int] = []
    run._validation.epoch_ends = lambda: pictures_by_epoch.append(0)
    pictures_by_epoch.append(0)

    def count(module, inputs):
        pictures_by_epoch[-1] += len(inputs[0])

    run._detector.backbone.register_forward_pre_hook(count)
    run.run()
    first, *later = pictures_by_epoch
    assert first >= 40  # all images are among 320 draws; more if a batch has one twice
    assert later == [0, 0]


class NoValidation:
    """Replaces validation; reports the end of each epoch."""

    def run(self, *args, **kwargs):
        from zsad_training.measure import Validation

        self.epoch_ends()
        return Validation(rows=[], criterion=0.5, threshold=0.5, false_reject_rate=0.0, region_level=0.5)


def test_every_product_has_both_classes_in_validation_with_equal_file_names(tmp_path):
    products = [f"product{index:02}" for index in range(15)]
    for seed, product in enumerate(products):
        make_mvtec_tree(tmp_path / "mvtec", category=product, good=16, bad=8, seed=seed)
    config = small_config(tmp_path, tmp_path / "out")
    validation = config.validation.model_copy(update={"fraction": 0.15, "max_per_class": 2})
    datasets = (DatasetSpec(path=tmp_path / "mvtec"),)
    changed = {"datasets": datasets, "textures": None, "validation": validation}
    parts = read_parts(config.model_copy(update=changed), check_data=False)
    for part in (parts.fit, parts.held_out):
        classes = {(one.product, one.is_anomalous) for one in part}
        assert classes == {(product, label) for product in products for label in (False, True)}
    assert not {one.image for one in parts.fit} & {one.image for one in parts.held_out}
    assert len({one.key for one in parts.fit + parts.held_out}) == len(parts.fit + parts.held_out)
    assert len(parts.held_out) <= 15 * 2 * 2


def test_an_image_has_the_same_key_in_the_data_set_and_in_one_category(data):
    whole, single = read_dataset(data / "drawn"), read_dataset(data / "drawn" / "plate")
    assert [one.key for one in whole] == [one.key for one in single]
    assert whole[0].key.startswith("drawn/plate/")


def test_missing_textures_of_a_preset_are_reported_first(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").mkdir()  # this data set would also be an error
    flags = ["--preset", "zsad-small", "--data", str(tmp_path / "broken"), "--out", str(tmp_path / "out")]
    assert main(flags) == 1
    said = capsys.readouterr().err
    assert f"{tmp_path / 'cc0_textures'}: no textures here" in said
    assert "--textures" in said and "--data-root" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_weights(data, tmp_path, workers):
    for name, count in (("none", 0), ("some", workers)):
        settings = small_config(data, tmp_path / name, epochs=1, mixed_precision="off")
        small_trainer(settings.model_copy(update={"workers": count})).run()
    expected, found = (load_file(tmp_path / name / "best.safetensors") for name in ("none", "some"))
    assert all(found[name].equal(value) for name, value in expected.items())
    assert losses(tmp_path / "some") == losses(tmp_path / "none")


@pytest.mark.parametrize(("cores", "beside", "expected"), [(1, 1, 1), (2, 1, 1), (12, 1, 6), (64, 1, 16), (16, 4, 2)])
def test_the_default_number_of_workers_depends_on_the_cores(monkeypatch, cores, beside, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(beside))
    assert usual_workers() == expected


def test_the_text_encoder_is_freed_and_embeds_only_new_products(caplog):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    alone = Processes(device=torch.device("cpu"))
    with caplog.at_level("INFO"):
        first = embed("ava_dino", "minilm", {"gear of this test"}, alone)
        again = embed("ava_dino", "minilm", {"gear of this test", "cog of this test"}, alone)
    assert not [one for one in gc.get_objects() if isinstance(one, sentence_transformers.SentenceTransformer)]
    assert again.keys() == {"object", "gear of this test", "cog of this test"}
    assert np.array_equal(again["gear of this test"], first["gear of this test"])
    counts = [one.getMessage() for one in caplog.records if one.name == "zsad_training"]
    assert counts[-1] == "embedding 1 product names with minilm"
    assert embed("visualad", "minilm", {"gear"}, alone) == {}
