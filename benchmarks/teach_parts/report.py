"""Turns the scores of `teach.py` into rows, and rows into tables. Pure functions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zsad_core.judging import curve_of_scores
from zsad_core.memory import promise

Row = dict[str, Any]
Setting = tuple[int, float]  # number of goods, 0.0; of streams 0, share of defective pictures

COMPARED = ("ksdd", "crackforest", "magnetic_tile", "aws_cookie", "deeppcb")  # the others are shown, but not in a mean
COUNTS = (1, 4, 16, 60)  # goods of a draw; a product with fewer gives all that it has
NO_RESULT = {"refused": "not offered", "error": "did not run"}
AT_RATE = 0.05  # of the test's good parts, for the recall that is comparable between all methods
DOUBT = 0.05  # a promise is broken if so many rejects have a lower probability than this


def summarise(
    facts: Mapping[str, Any],
    defective: Sequence[bool],
    *,
    rates: Sequence[float],
    turns: Sequence[Mapping[str, Any]],
    yardstick: Sequence[Mapping[str, Any]],
) -> Row:
    """The results of one method on one draw.

    Args:
        facts: what the method's process answered: scores of the tests; `promises` if it makes any, or
            `promises_by_scores` if its scores of the goods set thresholds; then also scores of goods and held_out.
        defective: of each test picture.
        rates: the asked rates of false rejects.
        turns: of the method, see `speed_parts.worker.turn`.
        yardstick: of another method in the same rounds, for the ratio of the times.
    """
    if reason := {key: facts[key] for key in ("refused", "error") if key in facts}:
        return reason
    bad, scores = np.array(defective), np.array(facts["tests"]["scores"])
    curve = curve_of_scores(scores[bad], scores[~bad])
    row = {
        "auroc": curve.metrics().auroc if curve else None,
        "pixel_ap": facts["tests"]["pixel_ap"],
        "recall_at_rate": float(curve.recall[curve.false_positive_rate <= AT_RATE].max(initial=0)) if curve else None,
        "unknown": facts["tests"]["unknown"],
        "promises": [_kept(one, facts, bad) for one in _promises(facts, rates)],
        "part": facts.get("part"),
        "left_out": facts.get("left_out", []),
        "level": facts.get("level"),
        "teach_s": facts["teach_s"],
        "teach_cpu_s": facts["teach_cpu_s"],
        "teach_rss_mb": facts["teach_s"] and facts["teach_rss_mb"],
    }
    if turns:
        medians = [float(np.median(turn["loop_ms"])) for turn in turns]
        others = [float(np.median(turn["loop_ms"])) for turn in yardstick]
        row["ms"] = round(float(np.median([ms for turn in turns for ms in turn["loop_ms"]])), 2)
        row["cpu_ms"] = round(float(np.median([turn["cpu_ms"] for turn in turns])), 2)
        if len(others) == len(medians):
            ratios = [own / other for own, other in zip(medians, others, strict=True)]
            row["times_zero_shot"] = round(float(np.median(ratios)), 3)
        row["rss_mb"] = round(turns[-1]["rss_mb"], 1)
    return row


def _promises(facts: Mapping[str, Any], rates: Sequence[float]) -> list[dict[str, float]]:
    """The thresholds of a method and what they promise, for each asked rate."""
    if not facts.get("promises_by_scores"):
        return facts.get("promises", [])
    unit = np.clip(facts["goods"]["scores"], 1e-6, 1 - 1e-6)
    logits = np.log(unit / (1 - unit))
    made = [promise(logits, rate) for rate in rates]
    return [
        {
            "asked": rate,
            "promised": one.rate,
            "promised_90": one.rate_90,
            "threshold": 1 / (1 + math.exp(-one.threshold)),
        }
        for rate, one in zip(rates, made, strict=True)
    ]


def _kept(made: Mapping[str, float], facts: Mapping[str, Any], bad: np.ndarray) -> Row:
    """A promise beside what was found on good parts that were held out, and on the tests."""
    rejected = np.array(facts["held_out"]["scores"]) >= made["threshold"]
    tests = np.array(facts["tests"]["scores"]) >= made["threshold"]
    held, seen = rejected.size, int(rejected.sum())
    return {
        **made,
        "held_out": held,
        "rejected": seen,
        "probability": round(at_least(seen, held, made["promised"]), 4),
        "probability_90": round(at_least(seen, held, made["promised_90"]), 4),
        "recall": float(tests[bad].mean()) if bad.any() else None,
        "tests_rejected": float(tests[~bad].mean()) if (~bad).any() else None,
    }


def at_least(seen: int, count: int, rate: float) -> float:
    """P(X >= seen) for X binomial with `count` trials of probability `rate`."""
    terms = (math.comb(count, n) * rate**n * (1 - rate) ** (count - n) for n in range(seen))
    return min(1.0, max(0.0, 1.0 - math.fsum(terms)))


def as_markdown(rows: Sequence[Row]) -> str:
    """The tables: accuracy for each number of goods, promises, cost, and what did not run."""
    done = [row for row in rows if "auroc" in row]
    lines = []
    if done:
        taught = _settings(done)
        lines += [_protocol(done)]
        for setting in taught:
            lines += ["", *_accuracy(done, setting)]
        lines += ["", *_promised(done, taught), "", *_cost(done, taught), ""]
    return "\n".join([*lines, *_notes(rows)]).strip() or "no results"


def _settings(rows: Sequence[Row]) -> list[Setting]:
    """Numbers of goods, without those that are all goods of a product with few, then streams."""
    clean = [row for row in rows if not row["stream"]]
    drawn = {row["goods"] for row in clean}
    counts = drawn & {*COUNTS, *(row["goods"] for row in clean if row["goods"] < row["most"])} or drawn
    streams = {row["stream"] for row in rows if row["stream"]}
    return [(count, 0.0) for count in sorted(counts)] + [(0, share) for share in sorted(streams)]


def _title(setting: Setting) -> str:
    count, share = setting
    return f"stream with {share:.0%} defects" if share else f"{count} goods"


def _notes(rows: Sequence[Row]) -> list[str]:
    """A line for each reason why a method has no result, or why pictures have none."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        notes = [f"{text}: {row[word]}" for word, text in NO_RESULT.items() if word in row]
        if row.get("left_out"):
            notes.append(f"{len(row['left_out'])} of the pictures were not learned")
        if row.get("unknown"):
            notes.append(f"{row['unknown']} test pictures have no verdict and count as rejects")
        for note in notes:
            title = _title((0 if row["stream"] else row["goods"], row["stream"]))
            where.setdefault((row["method"], title, note), []).append(f"{row['product']} draw {row['draw']}")
    return [f"- {method}, {title}: {note} ({', '.join(on)})" for (method, title, note), on in where.items()]


def _protocol(rows: Sequence[Row]) -> str:
    machines = {f"{row['machine']['cpu']}, {row['machine']['cpu_count']} CPUs" for row in rows}
    openvino = {row["machine"]["openvino"] for row in rows}
    return (
        f"{'; '.join(sorted(machines))}; OpenVINO {', '.join(sorted(openvino))}; "
        f"{', '.join(sorted({str(row['threads']) for row in rows}))} threads; draws "
        f"{', '.join(str(number) for number in sorted({row['draw'] for row in rows}))}; at most "
        f"{', '.join(sorted({str(row['per_folder']) for row in rows}))} test pictures of a folder"
    )


def _accuracy(rows: Sequence[Row], setting: Setting) -> list[str]:
    """Image AUROC / pixel AP / recall at 5 % false rejects in percent, means over the draws."""
    products = _products(rows)
    compared = [name for name in products if name.split("/")[0] in COMPARED]
    lines = [
        f"|{_title(setting)}: image AUROC / pixel AP / recall at {AT_RATE:.0%} of the test's goods rejected|"
        + "|".join(f"{name} ({len(_draws(rows, name, setting))})" for name in products)
        + f"|mean of {len(compared)} compared|",
        "|---" * (len(products) + 2) + "|",
    ]
    for method in _methods(rows):
        cells = [_cell(_chosen(rows, method, [name], setting)) for name in products]
        lines.append(f"|{method}|{'|'.join(cells)}|{_mean_cell(rows, method, compared, setting)}|")
    return lines


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    return " / ".join(_percent(_mean(row[key] for row in rows)) for key in ("auroc", "pixel_ap", "recall_at_rate"))


def _mean_cell(rows: Sequence[Row], method: str, products: Sequence[str], setting: Setting) -> str:
    """The mean of the products' means; only if every product has a result."""
    own = [_chosen(rows, method, [name], setting) for name in products]
    if not own or not all(own):
        return "-"
    means = (_mean(_mean(row[key] for row in one) for one in own) for key in ("auroc", "pixel_ap", "recall_at_rate"))
    return " / ".join(map(_percent, means))


def _promised(rows: Sequence[Row], settings: Sequence[Setting]) -> list[str]:
    """What was promised, and what was found on good parts that were held out; summed over the draws."""
    products = _products(rows)
    lines = [
        "|false rejects: promised (90 %); found of held-out goods; draws that broke the promise (90 %); recall|"
        + "|".join(products)
        + "|",
        "|---" * (len(products) + 1) + "|",
    ]
    for method in _methods(rows):
        for setting in settings:
            for asked in sorted({one["asked"] for row in rows if row["method"] == method for one in row["promises"]}):
                cells = [_promise_cell(_chosen(rows, method, [name], setting), asked) for name in products]
                lines.append(f"|{method}, {_title(setting)}, asked {asked:.0%}|{'|'.join(cells)}|")
    return lines


def _promise_cell(rows: Sequence[Row], asked: float) -> str:
    made = [one for row in rows for one in row["promises"] if one["asked"] == asked]
    if not made:
        return "-"
    rates = "{} % ({} %)".format(*(_percent(_mean(one[key] for one in made)) for key in ("promised", "promised_90")))
    recall = _percent(_mean(one["recall"] for one in made))
    held = sum(one["held_out"] for one in made)
    if not held:
        return f"{rates}; none held out; {recall}"
    broken = [sum(one[key] < DOUBT for one in made) for key in ("probability", "probability_90")]
    seen = sum(one["rejected"] for one in made)
    return f"{rates}; {seen}/{held} = {seen / held:.1%}; {broken[0]} ({broken[1]}) of {len(made)}; {recall}"


def _cost(rows: Sequence[Row], settings: Sequence[Setting]) -> list[str]:
    """Medians over products and draws; a time is from a picture in memory to score and map."""
    keys = ("teach_s", "teach_cpu_s", "ms", "cpu_ms", "times_zero_shot", "rss_mb", "teach_rss_mb")
    lines = [
        "|cost|teach-in, s|CPU, s|a picture, ms|CPU, ms|times the first bundle's zero-shot|RSS, MB|RSS of teach-in|",
        "|---" + "|---:" * len(keys) + "|",
    ]
    for method in _methods(rows):
        for setting in settings:
            own = _chosen(rows, method, _products(rows), setting)
            cells = [_number([row.get(key) for row in own], "{:.2f}" if "times" in key else "{:.1f}") for key in keys]
            if own:
                lines.append(f"|{method}, {_title(setting)}|{'|'.join(cells)}|")
    return lines


def _number(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return form.format(float(np.median(known))) if known else "-"


def _chosen(rows: Sequence[Row], method: str, products: Sequence[str], setting: Setting) -> list[Row]:
    """The rows of a method with so many goods, or with all goods of a product that has fewer; or of the streams."""
    count, share = setting
    own = [row for row in rows if row["method"] == method and row["product"] in products and row["stream"] == share]
    return [row for row in own if share or row["goods"] == min(count, row["most"])]


def _draws(rows: Sequence[Row], product: str, setting: Setting) -> set[int]:
    return {row["draw"] for method in _methods(rows) for row in _chosen(rows, method, [product], setting)}


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _products(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["product"] for row in rows))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
