"""Measuring a detector: predictions, metrics, validation, sheets, plots, tables.

May import `pictures`, `config`.
"""

from zsad_training.measure.plots import draw_curves
from zsad_training.measure.predict import (
    METRICS,
    Group,
    Scored,
    Tally,
    evaluate_groups,
    mean_row,
    score_pictures,
    tally_groups,
)
from zsad_training.measure.protocol_table import Result, as_json, as_markdown
from zsad_training.measure.sheet import Sheets, write_sheet
from zsad_training.measure.validation import PixelLevel, Validation, ValidationPictures

__all__ = [
    "METRICS",
    "Group",
    "PixelLevel",
    "Result",
    "Scored",
    "Sheets",
    "Tally",
    "Validation",
    "ValidationPictures",
    "as_json",
    "as_markdown",
    "draw_curves",
    "evaluate_groups",
    "mean_row",
    "score_pictures",
    "tally_groups",
    "write_sheet",
]
