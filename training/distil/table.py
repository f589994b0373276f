"""The table that compares teacher and student on the same validation images."""

import json
from collections.abc import Callable
from pathlib import Path

from zsad_core.facts import EvaluationRow
from zsad_core.whole_file import whole_file
from zsad_training.measure import mean_row

_MEASURES = (("image_auroc", "image AUROC"), ("pixel_ap", "pixel AP"))


def comparison(teacher: list[EvaluationRow], student: list[EvaluationRow]) -> str:
    """A Markdown table in percent: image AUROC and pixel AP of both, and the ratio of student to teacher.

    Args:
        teacher: one row for each data set and product.
        student: rows for the same images.
    """
    students = {row.dataset: row for row in student}
    pairs = [(row, students[row.dataset]) for row in teacher]
    if len(pairs) > 1:
        pairs.append((mean_row(teacher, "mean"), mean_row(student, "mean")))
    heads = [f"{who}{name}" for _, name in _MEASURES for who in ("teacher's ", "student's ", "ratio of ")]
    lines = ["| validation part of | images | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for theirs, own in pairs:
        cells = []
        for measure, _ in _MEASURES:
            first, second = getattr(theirs, measure), getattr(own, measure)
            ratio = None if first is None or second is None or first == 0 else second / first
            cells += ["-" if value is None else f"{100 * value:.1f}" for value in (first, second, ratio)]
        lines.append(f"| {theirs.dataset} | {theirs.images} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def kept_rows(path: Path, identity: str, measure: Callable[[], list[EvaluationRow]]) -> list[EvaluationRow]:
    """The rows in `path` if its identity is `identity`, else those of `measure`, which are then saved there."""
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
            if kept["identity"] == identity:
                return [EvaluationRow.model_validate(row) for row in kept["rows"]]
        except (ValueError, KeyError, TypeError):
            pass  # damaged or another file: measure again
    rows = measure()
    content = json.dumps({"identity": identity, "rows": [row.model_dump() for row in rows]}, indent=1) + "\n"
    with whole_file(path) as partial:
        partial.write_text(content)
    return rows
