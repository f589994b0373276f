"""The papers' protocols: train on some data sets and evaluate on others, for each method and seed, with one table.

A data set that is left out influences nothing in a run: neither training, nor the epoch, nor the threshold.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad_core.bundle import Evaluation
from zsad_core.errors import ConfigError
from zsad_core.methods import METHODS_WITH_TEXT
from zsad_core.whole_file import whole_file
from zsad_training.config import DatasetSpec, TrainConfig
from zsad_training.measure import Result, as_json, as_markdown
from zsad_training.run.processes import Processes
from zsad_training.run.resume import RESUME

logger = logging.getLogger(__name__)

# Folder names of a data set, in lower case
NAMES = {"visa": ("visa",), "mvtec": ("mvtec", "mvtec_ad", "mvtec-ad", "mvtec_anomaly_detection")}
SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training and its evaluations."""

    config: TrainConfig  # its data sets are the training sets
    held_out: tuple[DatasetSpec, ...]

    @property
    def name(self) -> str:
        return f"{self.config.model.method}, seed {self.config.seed}, for {_names(self.held_out)}"

    def table(self, dataset: DatasetSpec) -> Path:
        """The file of the evaluation on a data set left out, a `zsad_core.bundle.format.Evaluation`."""
        return self.config.out / f"evaluation-{dataset.path.name}.json"

    @property
    def is_done(self) -> bool:
        return all(self.table(dataset).is_file() for dataset in self.held_out)


def plan(protocol: str, configs: Mapping[str, TrainConfig], seeds: Sequence[int]) -> list[Run]:
    """The runs of a protocol, in the order of the seeds.

    Args:
        protocol: `leave-one-out`, `visa-to-all` or `mvtec-to-visa`.
        configs: method -> settings with all data sets; the folders of the runs are in their `out`.
        seeds: one run for each.

    Raises:
        ConfigError: there are fewer than two data sets, or two have the same name.
    """
    return [
        Run(config=_for(config, method, seed, train_on, held_out, protocol), held_out=held_out)
        for seed in dict.fromkeys(seeds)
        for method, config in configs.items()
        for train_on, held_out in _folds(protocol, config.datasets)
    ]


def _folds(
    protocol: str, datasets: tuple[DatasetSpec, ...]
) -> list[tuple[tuple[DatasetSpec, ...], tuple[DatasetSpec, ...]]]:
    """(training sets, sets left out) of each fold."""
    names = [dataset.path.name for dataset in datasets]
    if len(datasets) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--protocol {protocol}: needs two or more data sets of different names, got {names}")
    if protocol == "leave-one-out":
        return [(tuple(one for one in datasets if one is not left), (left,)) for left in datasets]
    source, _, target = protocol.partition("-to-")
    trains = _named(source, datasets) or datasets[0]
    others = tuple(dataset for dataset in datasets if dataset is not trains)
    wanted = others if target == "all" else tuple(filter(None, [_named(target, others)])) or others
    if target != "all" and len(wanted) > 1:
        raise ConfigError(f"--protocol {protocol}: which set is {target}? None of {_names(others)} has that name")
    return [((trains,), wanted)]


def _named(name: str, datasets: tuple[DatasetSpec, ...]) -> DatasetSpec | None:
    return next((dataset for dataset in datasets if dataset.path.name.lower() in NAMES[name]), None)


def _names(datasets: tuple[DatasetSpec, ...]) -> str:
    return ", ".join(dataset.path.name for dataset in datasets)


def _for(
    config: TrainConfig,
    method: str,
    seed: int,
    train_on: tuple[DatasetSpec, ...],
    held_out: tuple[DatasetSpec, ...],
    protocol: str,
) -> TrainConfig:
    changed: dict[str, Any] = {"datasets": train_on, "seed": seed}
    if protocol == "leave-one-out":
        changed["out"] = config.out / method / f"without-{held_out[0].path.name}" / f"seed-{seed}"
    else:  # the papers train on one set's test split
        changed |= {"out": config.out / method / f"from-{train_on[0].path.name}" / f"seed-{seed}"}
        changed["train_split"] = "test"
    return config.model_copy(update=changed)


class Protocol:
    """Executes a plan. Finished runs are skipped, killed runs continue."""

    def __init__(
        self,
        runs: list[Run],
        *,
        train: Callable[[TrainConfig, str, Processes], Path],
        evaluate: Callable[..., None],
        processes: Processes,
    ) -> None:
        self._runs = runs
        self._train = train
        self._evaluate = evaluate
        self._processes = processes

    def run(self, out: Path, protocol: str, command: str) -> Path:
        """Executes all runs and updates table.json and table.md in `out`; gives the path of table.md.

        Raises:
            ValueError: a finished run had other settings.
        """
        for number, run in enumerate(self._runs, start=1):
            if self._processes.is_first:
                _claim(run)
            if run.is_done:
                logger.info("run %d of %d, %s: already done", number, len(self._runs), run.name)
                continue
            logger.info("run %d of %d: %s", number, len(self._runs), run.name)
            checkpoint = self._train(run.config, command, self._processes)
            if self._processes.is_first:
                for dataset in run.held_out:
                    self._evaluate(checkpoint, dataset, run.table(dataset), device=str(self._processes.device))
                (run.config.out / RESUME).unlink(missing_ok=True)  # large, and no longer needed
                self._write_tables(out, protocol, command)
            self._processes.wait()
        if self._processes.is_first:
            self._write_tables(out, protocol, command)
        return out / "table.md"

    def _write_tables(self, out: Path, protocol: str, command: str) -> None:
        done = [run for run in self._runs if run.is_done]
        results = [
            Result(
                method=run.config.model.method,
                held_out=dataset.path.name,
                seed=run.config.seed,
                evaluation=Evaluation.model_validate_json(run.table(dataset).read_text()),
            )
            for run in done
            for dataset in run.held_out
        ]
        facts = {
            "protocol": protocol,
            "command": command,
            "runs": f"{len(done)} of {len(self._runs)}",
            "methods": {run.config.model.method: _facts(run.config) for run in self._runs},
        }
        _write(out / "table.json", json.dumps(as_json(results, facts), indent=1) + "\n")
        _write(out / "table.md", as_markdown(results, facts))


def _claim(run: Run) -> None:
    """Writes the run's settings into its folder, so that a table does not mix results of different settings."""
    run.config.out.mkdir(parents=True, exist_ok=True)
    file, identity = run.config.out / SETTINGS, run.config.identity() + "\n"
    if file.is_file() and file.read_text() != identity:
        raise ValueError(f"{run.config.out} is of a run with other settings. Choose another --out, or remove it.")
    _write(file, identity)


def _facts(config: TrainConfig) -> dict[str, Any]:
    model = config.model
    return {
        "backbone": model.backbone,
        "weights": model.weights.name if model.weights else "timm hub" if model.pretrained else "random",
        "text_encoder": model.text_encoder if model.method in METHODS_WITH_TEXT else "none",
        "input_hw": list(model.input_hw),
        "train_split": config.train_split,
    }


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)
