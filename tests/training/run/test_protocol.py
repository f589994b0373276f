"""Protocols: training sets, held-out sets, skipped runs and tables."""

import json
from pathlib import Path

import pytest
from mvtec_tree import make_mvtec_tree

pytest.importorskip("torch")

import torch

from zsad_core.bundle import Evaluation
from zsad_core.errors import ConfigError
from zsad_core.facts import EvaluationRow
from zsad_training.config import TrainConfig
from zsad_training.measure import Result, as_json, as_markdown
from zsad_training.measure.protocol_table import MEAN, spread
from zsad_training.run import Processes, Protocol, Run, plan
from zsad_training.train import main


def config(*names: str, out: Path = Path("out"), **settings: object) -> TrainConfig:
    return TrainConfig.model_validate(
        {"out": out, "datasets": tuple({"path": Path(name)} for name in names), **settings}
    )


def folds(runs: list[Run]) -> list[tuple[list[str], list[str]]]:
    return [([one.path.name for one in run.config.datasets], [one.path.name for one in run.held_out]) for run in runs]


def test_each_set_is_left_out_once_for_each_method_and_seed():
    runs = plan("leave-one-out", {"ava_dino": config("a", "b"), "ad_dinov3": config("a", "b")}, [3, 4, 3])
    assert folds(runs) == [(["b"], ["a"]), (["a"], ["b"])] * 4
    assert [run.config.seed for run in runs] == [3] * 4 + [4] * 4
    assert len({run.config.out for run in runs}) == 8


@pytest.mark.parametrize(
    ("protocol", "names", "expected"),
    [
        ("visa-to-all", ["mvtec", "VisA", "btad"], [(["VisA"], ["mvtec", "btad"])]),
        ("visa-to-all", ["visa_small", "mvtec"], [(["visa_small"], ["mvtec"])]),
        ("mvtec-to-visa", ["visa", "mvtec_ad", "btad"], [(["mvtec_ad"], ["visa"])]),
        ("mvtec-to-visa", ["first", "second"], [(["first"], ["second"])]),
    ],
)
def test_the_papers_protocols_train_on_one_sets_test_split(protocol, names, expected):
    runs = plan(protocol, {"ava_dino": config(*names)}, [0])
    assert folds(runs) == expected
    assert runs[0].config.train_split == "test"


@pytest.mark.parametrize(
    ("protocol", "names", "said"),
    [
        ("leave-one-out", ["a"], "two or more data sets of different names"),
        ("visa-to-all", ["a/visa", "b/visa"], "two or more data sets of different names"),
        ("mvtec-to-visa", ["mvtec", "a", "b"], "which set is visa"),
    ],
)
def test_a_protocol_without_its_data_sets_is_refused(protocol, names, said):
    with pytest.raises(ConfigError, match=said):
        plan(protocol, {"ava_dino": config(*names)}, [0])


def row(dataset: str, auroc: float | None, pixel: float | None = None) -> EvaluationRow:
    metrics = dict.fromkeys(EvaluationRow.model_fields, None)
    metrics |= {"dataset": dataset, "seen_in_training": False, "images": 2, "image_auroc": auroc, "pixel_auroc": pixel}
    return EvaluationRow(**metrics)


def result(held_out: str, seed: int, *values: float | None) -> Result:
    rows = [row(f"{held_out}/{index}", value) for index, value in enumerate(values)]
    # The last row of `evaluate` is the mean and must not count as a product.
    return Result(
        method="ava_dino",
        held_out=held_out,
        seed=seed,
        evaluation=Evaluation(protocol="test", rows=tuple([*rows, row(MEAN, 0.0)])),
    )


FACTS = {
    "protocol": "leave-one-out",
    "command": "train",
    "runs": "3 of 4",
    "methods": {
        "ava_dino": {
            "backbone": "vit",
            "weights": "random",
            "text_encoder": "minilm",
            "input_hw": [64, 96],
            "train_split": "all",
        }
    },
}


@pytest.mark.parametrize(
    ("values", "mean", "std"), [([0.5], 0.5, None), ([0.5, 0.5], 0.5, 0.0), ([0.2, 0.4, 0.6], 0.4, 0.2)]
)
def test_spread_is_the_sample_standard_deviation(values, mean, std):
    assert spread(values) == {"mean": pytest.approx(mean), "std": None if std is None else pytest.approx(std)}


def test_the_overall_mean_uses_only_seeds_with_all_sets():
    results = [result("a", 0, 0.5, 0.7), result("b", 0, 0.8), result("a", 1, 0.9, 0.7)]
    rows = as_json(results, FACTS)["rows"]
    assert [(one["held_out"], one["seeds"]) for one in rows] == [("a", [0, 1]), ("b", [0]), (MEAN, [0])]
    found = [one["metrics"]["image_auroc"] for one in rows]
    assert [one["mean"] for one in found] == pytest.approx([0.7, 0.8, 0.7])
    assert found[0]["std"] == pytest.approx(0.02**0.5)  # mean of 0.6 and 0.8
    assert found[0]["by_seed"] == pytest.approx({0: 0.6, 1: 0.8})
    assert rows[0]["metrics"]["pixel_auroc"] is None


def test_the_table_has_the_facts_of_the_protocol():
    text = as_markdown([result("a", 0, 0.5, 0.7), result("a", 1, 0.9, 0.7)], FACTS)
    assert "Protocol leave-one-out, runs done: 3 of 4." in text
    assert "ava_dino: backbone vit from random, text minilm, input 64x96, trained on: all splits" in text
    assert "seeds: 0, 1" in text
    assert "| ava_dino | a | 2 | 70.0 ± 14.1 | - |" in text


class Fakes:
    """Replaces training and evaluation; the training of `dies_on` is killed once."""

    def __init__(self, dies_on: int | None = None) -> None:
        self.trained: list[Path] = []
        self._dies_on = dies_on

    def train(self, config: TrainConfig, command: str, processes: Processes) -> Path:
        if len(self.trained) == self._dies_on:
            raise KeyboardInterrupt
        self.trained.append(config.out)
        return config.out / "best.safetensors"

    def evaluate(self, checkpoint: Path, dataset, table: Path, *, device: str) -> None:
        evaluation = Evaluation(protocol="test", rows=(row(f"{dataset.path.name}/x", 0.75),))
        table.write_text(evaluation.model_dump_json())

    def run(self, runs: list[Run], out: Path) -> Path:
        protocol = Protocol(
            runs, train=self.train, evaluate=self.evaluate, processes=Processes(device=torch.device("cpu"))
        )
        return protocol.run(out, "leave-one-out", "train")


def test_a_restarted_protocol_runs_only_unfinished_runs(tmp_path):
    runs = plan("leave-one-out", {"ava_dino": config("a", "b", "c", out=tmp_path)}, [0])
    first, second = Fakes(dies_on=2), Fakes()
    with pytest.raises(KeyboardInterrupt):
        first.run(runs, tmp_path)
    assert json.loads((tmp_path / "table.json").read_text())["runs"] == "2 of 3"
    second.run(runs, tmp_path)
    assert second.trained == [runs[2].config.out]
    assert json.loads((tmp_path / "table.json").read_text())["runs"] == "3 of 3"


def test_results_with_other_settings_are_refused(tmp_path):
    Fakes().run(plan("leave-one-out", {"ava_dino": config("a", "b", out=tmp_path)}, [0]), tmp_path)
    changed = config("a", "b", out=tmp_path, train_split="test")
    with pytest.raises(ValueError, match="of a run with other settings"):
        Fakes().run(plan("leave-one-out", {"ava_dino": changed}, [0]), tmp_path)


def test_leave_one_out_with_real_training(tmp_path, capsys):
    sets = [str(make_mvtec_tree(tmp_path / name, seed=seed)) for seed, name in enumerate(("one", "two"))]
    out = tmp_path / "out"
    flags = ["--protocol", "leave-one-out", "--data", *sets, "--out", str(out), "--seeds", "7"]
    settings = ["optimisation.steps_per_epoch=1", "model.hidden_dim=8", "validation.fraction=0.4"]
    small = ["--input-size", "64", "--epochs", "1", "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    small += ["--backbone", "test_vit"]
    cache = tmp_path / "cache"
    assert main([*flags, *small, "--feature-cache", str(cache), "--set", *settings]) == 0
    assert capsys.readouterr().out.strip() == str(out / "table.md")
    table = json.loads((out / "table.json").read_text())
    assert [(one["held_out"], one["seeds"]) for one in table["rows"]] == [
        ("one", [7]),
        ("two", [7]),
        (MEAN, [7]),
    ]
    fold = Evaluation.model_validate_json((out / "ava_dino/without-one/seed-7/evaluation-one.json").read_text())
    assert [(one.dataset, one.seen_in_training) for one in fold.rows] == [("one/plate", False)]
    assert len(list(cache.iterdir())) == 1  # the folds share the cached tokens
    assert not list(out.rglob("resume.pt"))
