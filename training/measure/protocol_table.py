"""The table of a protocol: mean and standard deviation over seeds for each method and set left out, and overall."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zsad_core.bundle import Evaluation
from zsad_training.measure.predict import METRICS, mean_row

MEAN = "mean"  # the name of `evaluate`'s last row, and of the overall row here
_SHOWN = [name for name in METRICS if name not in ("recall", "false_reject_rate")]


@dataclass(frozen=True, kw_only=True)
class Result:
    method: str
    held_out: str
    seed: int
    evaluation: Evaluation

    def value(self, metric: str) -> float | None:
        """In [0, 1], the mean over the set's products."""
        return getattr(mean_row([row for row in self.evaluation.rows if row.dataset != MEAN], MEAN), metric)


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and sample standard deviation (over n - 1; None of a single value).

    Raises:
        ValueError: no values.
    """
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in values) / (len(values) - 1)) if values[1:] else None
    return {"mean": mean, "std": deviation}


def as_json(results: list[Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` and `rows`: method, held_out, seeds, metrics -> mean, std and values by seed, all in [0, 1].

    The rows named "mean" average first the data sets of each seed, then the seeds. They leave out seeds with unfinished
    runs, and data sets without truth for a metric.
    """
    rows = []
    for method in dict.fromkeys(result.method for result in results):
        own = [result for result in results if result.method == method]
        sets = list(dict.fromkeys(result.held_out for result in own))
        by_seed: dict[int, list[Result]] = {}
        for result in own:
            by_seed.setdefault(result.seed, []).append(result)
        whole = {seed: members for seed, members in by_seed.items() if len(members) == len(sets)}
        for name in sets:
            members = {result.seed: [result] for result in own if result.held_out == name}
            rows.append(_row(method, name, members))
        if whole and len(sets) > 1:
            rows.append(_row(method, MEAN, whole))
    return {**facts, "rows": rows}


def _row(method: str, held_out: str, by_seed: Mapping[int, list[Result]]) -> dict[str, Any]:
    metrics: dict[str, Any] = {}
    for metric in METRICS:
        values: dict[int, float] = {}
        for seed, members in by_seed.items():
            known = [value for member in members if (value := member.value(metric)) is not None]
            if known:
                values[seed] = math.fsum(known) / len(known)
        metrics[metric] = {**spread(list(values.values())), "by_seed": values} if values else None
    return {"method": method, "held_out": held_out, "seeds": list(by_seed), "metrics": metrics}


def as_markdown(results: list[Result], facts: Mapping[str, Any]) -> str:
    """The table in percent, mean ± standard deviation over seeds, below the facts of the protocol."""
    lines = [f"Protocol {facts['protocol']}, runs done: {facts['runs']}. Nothing was chosen on a set left out.", ""]
    lines += [
        f"- {method}: backbone {fact['backbone']} from {fact['weights']}, text {fact['text_encoder']}, input "
        f"{fact['input_hw'][0]}x{fact['input_hw'][1]}, trained on: {fact['train_split']} splits"
        for method, fact in facts["methods"].items()
    ]
    seeds = sorted({result.seed for result in results})
    lines += [f"- seeds: {', '.join(map(str, seeds))}; mean ± sample standard deviation over them, percent"]
    lines += [f"- `{facts['command']}`", ""]
    lines += ["| method | left out | seeds | " + " | ".join(name.replace("_", " ") for name in _SHOWN) + " |"]
    lines += ["|---|---|---|" + "---|" * len(_SHOWN)]
    for row in as_json(results, facts)["rows"]:
        cells = [_cell(row["metrics"][metric]) for metric in _SHOWN]
        lines.append(f"| {row['method']} | {row['held_out']} | {len(row['seeds'])} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return "-"
    deviation = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}{deviation}"
