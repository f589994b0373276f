"""ROC and precision-recall curves of images and of pixels of one category, as a PNG."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from zsad_core.judging import Curve


def draw_curves(path: Path, title: str, curves: dict[str, Curve | None]) -> None:
    """Writes the plot. `curves`: name -> curve; None means that a class is missing, which the legend says.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a screen
    figure.suptitle(title)
    roc, pr = figure.subplots(1, 2)
    roc.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for name, curve in curves.items():
        _plot(roc, pr, name, curve)
    _finish(roc, "ROC", "false-positive rate", "true-positive rate (recall)")
    _finish(pr, "Precision and recall", "recall", "precision")
    figure.savefig(path, dpi=120)


def _plot(roc: Axes, pr: Axes, name: str, curve: Curve | None) -> None:
    if curve is None:
        for axes in (roc, pr):
            axes.plot([], [], label=f"{name}: one class only")
        return
    metrics, recall, precision = curve.metrics(), curve.recall, curve.precision
    roc.plot(
        np.append(0, curve.false_positive_rate),
        np.append(0, recall),
        label=f"{name}, AUROC {100 * metrics.auroc:.1f} %",
    )
    pr.plot(
        np.append(0, recall),
        np.append(precision[0], precision),
        drawstyle="steps-pre",  # each step has the precision of its right end, as in the sum of AP
        label=f"{name}, AP {100 * metrics.ap:.1f} %, best F1 {100 * metrics.f1_max:.1f} %",
    )


def _finish(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.grid(color="0.93")
    axes.legend(loc="best", fontsize="small")
