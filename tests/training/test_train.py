"""The trainer on a random small ViT and drawn data: learns, resumes, refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest
from mvtec_tree import make_mvtec_tree, make_textures

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402
from small_model import TEXT_DIM, small_detector, text_embeddings  # noqa: E402

from zsad_core.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from zsad_core.errors import DatasetError, WeightsError  # noqa: E402
from zsad_training.config import TrainConfig  # noqa: E402
from zsad_training.feature_cache import FeatureCache  # noqa: E402
from zsad_training.reader import read_dataset  # noqa: E402
from zsad_training.sampler import TrainingPictures, find_textures  # noqa: E402
from zsad_training.train import main  # noqa: E402
from zsad_training.trainer import Trainer  # noqa: E402
from zsad_training.validation import ValidationPictures  # noqa: E402

HW = (64, 96)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    make_mvtec_tree(root / "drawn", good=20, bad=20)
    make_textures(root / "textures")
    return root


def config(data: Path, out: Path, **optimisation: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "out": out,
            "datasets": ({"path": data / "drawn"},),
            "textures": {"path": data / "textures"},
            "model": {"input_hw": HW, "hidden_dim": 16},
            "sampling": {"synthetic_fraction": 0.25, "augment": "full"},
            "optimisation": {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, **optimisation},
            "validation": {"synthetic": 4, "fraction": 0.3},
            "workers": 0,
        }
    )


def trainer(settings: TrainConfig, validation: object = None, cache: Path | None = None) -> Trainer:
    samples = read_dataset(settings.datasets[0].path)
    samples = [sample for sample in samples if sample.product == "plate"]
    textures = find_textures(settings.textures.path)
    detector = small_detector(HW)
    detector.backbone.requires_grad_(False)
    text = text_embeddings()
    text |= {name: text["object"] for name in ("plate", "material0", "material1", "material2")}
    pictures = TrainingPictures(
        samples, textures, settings.sampling, input_hw=HW, batch_size=settings.optimisation.batch_size, seed=0
    )
    held_out = ValidationPictures(samples[::3], textures, settings.validation, input_hw=HW, seed=0)
    return Trainer(
        settings,
        detector,
        pictures,
        validation or held_out,
        text,
        steps_per_epoch=settings.optimisation.steps_per_epoch,
        device=torch.device("cpu"),
        record={"command": "test", "seed": 0},
        feature_cache=FeatureCache(cache, detector) if cache else None,
    )


class KilledInSecondEpoch:
    """Stands for validation; the process dies before the second epoch is saved."""

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
def test_a_killed_run_goes_on_to_the_same_weights(data, tmp_path, variant):
    whole = config(data, tmp_path / "whole", **variant)
    trainer(whole).run()
    cut = config(data, tmp_path / "cut", **variant)
    real = trainer(cut)._validation
    with pytest.raises(KeyboardInterrupt):
        trainer(cut, KilledInSecondEpoch(real)).run()
    trainer(cut).run()
    expected = torch.load(tmp_path / "whole" / "resume.pt", weights_only=True)["detector"]
    found = torch.load(tmp_path / "cut" / "resume.pt", weights_only=True)["detector"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_training_lowers_the_loss_and_leaves_a_frozen_backbone_alone(data, tmp_path):
    settings = config(data, tmp_path, epochs=3, steps_per_epoch=15, lr=3e-3)
    before = {name: value.clone() for name, value in small_detector(HW).backbone.state_dict().items()}
    best = trainer(settings).run()
    with (tmp_path / "log.csv").open() as file:
        losses = [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "loss_total"]
    assert len(losses) == 45
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:5])
    after = load_checkpoint(best).detector.backbone.state_dict()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_the_last_blocks_train_and_the_others_do_not(data, tmp_path):
    trainer(config(data, tmp_path, trainable_blocks=5, backbone_lr=1e-3)).run()
    before = small_detector(HW).state_dict()
    after = torch.load(tmp_path / "resume.pt", weights_only=True)["detector"]
    changed = [
        block
        for block in range(12)
        if not torch.equal(
            before[f"backbone.vit.blocks.{block}.mlp.fc1.weight"], after[f"backbone.vit.blocks.{block}.mlp.fc1.weight"]
        )
    ]
    assert changed == [7]  # the last five are 7 to 11, and the taps end after the eighth, which is 7 from 0


def test_cached_features_train_to_nearly_the_same_weights(data, tmp_path):
    plain = config(data, tmp_path / "plain")
    plain = plain.model_copy(
        update={"sampling": plain.sampling.model_copy(update={"synthetic_fraction": 0.0, "augment": "none"})}
    )
    trainer(plain).run()
    cached = plain.model_copy(update={"out": tmp_path / "cached"})
    trainer(cached, cache=tmp_path / "cache").run()
    assert list((tmp_path / "cache").rglob("*.npy"))
    expected, found = (load_file(tmp_path / name / "best.safetensors") for name in ("plain", "cached"))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-3, msg=name)


def test_a_run_with_other_settings_is_not_resumed(data, tmp_path):
    trainer(config(data, tmp_path)).run()
    with pytest.raises(ValueError, match="other settings"):
        trainer(config(data, tmp_path, lr=1e-3)).run()


def test_a_loss_that_is_no_number_stops_with_the_step(data, tmp_path):
    broken = trainer(config(data, tmp_path))
    with torch.no_grad():
        broken._detector.head.text_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the loss is nan at step 0"):
        broken.run()


def test_command_line_names_every_wrong_setting(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("datasets:\n  - pth: drawn\noptimisation:\n  epochs: many\n")
    assert main(["--config", str(file), "--out", str(tmp_path / "out")]) == 2
    text = capsys.readouterr().err
    assert f"{file}:2: datasets.0.pth: unknown key" in text
    assert f"{file}:4: optimisation.epochs: got 'many'" in text


def test_command_line_trains_and_evaluates_for_real(data, tmp_path, capsys):
    from zsad_training.evaluate import main as evaluate

    flags = ["--data", str(data / "drawn"), "--out", str(tmp_path), "--input-size", "64", "--epochs", "1"]
    assert main([*flags, "--batch-size", "8", "--workers", "0", "--seed", "3"]) == 0
    best = Path(capsys.readouterr().out.strip())
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


def test_text_dimension_of_the_stand_in_is_the_heads():
    assert small_detector(HW).config.text_dim == TEXT_DIM


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("model:\n", (), "datasets: missing"),
        ("model: 5\n", (), "model: got 5"),
        ("", ("--input-size", "0"), "model.input_hw.0: got 0"),
    ],
)
def test_flags_over_a_section_that_is_none_are_no_crash(tmp_path, capsys, text, flags, said):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["--config", str(file), "--out", str(tmp_path / "out"), "--backbone", "x", *flags]) == 2
    assert said in capsys.readouterr().err


def test_output_that_cannot_be_written_is_one_line(data, tmp_path, capsys):
    (tmp_path / "file").touch()
    flags = ["--data", str(data / "drawn"), "--out", str(tmp_path / "file"), "--input-size", "64", "--workers", "0"]
    assert main(flags) == 1
    assert f"zsad-train: [Errno 17] File exists: '{tmp_path / 'file'}'" in capsys.readouterr().err


def test_a_cut_resume_file_is_named(data, tmp_path):
    (tmp_path / "resume.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(WeightsError, match=r"resume\.pt: cannot be read, it is cut or foreign"):
        trainer(config(data, tmp_path)).run()


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"best\.safetensors\.partial: cannot be written"):
        save_checkpoint(tmp_path / "none" / "best.safetensors", small_detector(HW), text_embeddings(), {})


def test_a_folder_without_textures_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no textures here"):
        find_textures(tmp_path / "none")
