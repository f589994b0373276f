"""What shows that an exported graph answers as the model that it was made from, as a bundle's manifest records it."""

from typing import Annotated, Literal

from pydantic import Field

from zsad_core.config import RecordModel
from zsad_core.facts import Unit

Precision = Literal["fp32", "fp16", "int8"]  # of the weights; in int8 most of the arithmetic too
Difference = Annotated[float, Field(ge=0)]
Tolerance = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Parity(RecordModel):
    """Largest differences between the torch model and the IR, over the pictures of `images`."""

    images: Count
    source: str
    max_map_difference: Difference
    max_score_difference: Difference
    map_tolerance: Tolerance
    score_tolerance: Tolerance


class GateRow(RecordModel):
    """One labelled data set, answered by the torch model in float32 and by the IR; means over its categories."""

    dataset: str
    images: Count
    image_auroc_torch: Unit
    image_auroc_ir: Unit
    pixel_ap_torch: Unit | None  # None: no masks
    pixel_ap_ir: Unit | None
    changed_verdicts: Annotated[int, Field(ge=0)]  # pictures on the other side of the bundle's threshold


class Gate(RecordModel):
    """Differences of the metrics that are allowed, either way, on each data set, and what was measured."""

    image_auroc_tolerance: Tolerance  # absolute
    pixel_ap_tolerance: Tolerance  # relative to torch's
    rows: tuple[GateRow, ...]


class Calibration(RecordModel):
    """The pictures that the ranges of int8 activations were taken from."""

    source: str  # folders
    images: Count
    seed: int


class Variant(RecordModel):
    """One model of a bundle: its precision, and what shows that it may run."""

    precision: Precision
    parity: Parity
    gate: Gate | Literal["left out"] | None = None  # left out: by a flag; None: not asked of this precision
    calibration: Calibration | None = None  # of int8
    accepted_loss: tuple[str, ...] = ()  # what was above its tolerance and shipped all the same, by a flag
