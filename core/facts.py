"""Records that bundle, weights and evaluation share: a licence, a row of an evaluation, the rule for the score."""

from typing import Annotated

from pydantic import Field

from zsad_core.config import RecordModel

Unit = Annotated[float, Field(ge=0, le=1)]


class EvaluationRow(RecordModel):
    dataset: str
    seen_in_training: bool
    images: int
    image_auroc: float | None
    image_ap: float | None
    image_f1_max: float | None
    pixel_auroc: float | None
    pixel_ap: float | None
    pixel_f1_max: float | None
    aupro: float | None
    recall: float | None  # share of defective images at or above the threshold that was set on validation images
    false_reject_rate: float | None  # share of good images at or above that threshold


class Licence(RecordModel):
    what: str
    licence: str
    source: str


class ScoreRule(RecordModel):
    """The score is the power mean of the map's highest values. See `zsad_core.heads.ScoreConfig`."""

    top_fraction: Unit
    pool: Annotated[int, Field(ge=1, le=64)]  # the map is first averaged over blocks of this side, map pixels
    power: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the power mean; 1: the usual mean
