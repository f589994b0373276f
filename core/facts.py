"""Facts that bundle, weights and evaluation share: a licence, a row of an evaluation, how a score is read."""

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
    recall: float | None  # share of defective pictures at or above the threshold set on validation
    false_reject_rate: float | None  # share of good pictures there


class Licence(RecordModel):
    what: str
    licence: str
    source: str


class ScoreRule(RecordModel):
    """How the score comes from the map: the mean of the highest values, as `zsad_core.heads.ScoreConfig` has it."""

    top_fraction: Unit
    pool: Annotated[int, Field(ge=1, le=64)]  # side of the blocks that are averaged first, map pixels
