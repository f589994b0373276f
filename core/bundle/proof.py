"""Records in a bundle's manifest which show that an exported graph gives the same results as the original model."""

from typing import Annotated, Literal

from pydantic import Field

from zsad_core.config import RecordModel
from zsad_core.facts import Unit

Precision = Literal["fp32", "fp16", "int8"]  # of the weights; with int8 also of most arithmetic
Difference = Annotated[float, Field(ge=0)]
Tolerance = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Parity(RecordModel):
    """Largest differences between the torch model and the IR over `images` images."""

    images: Count
    source: str
    max_map_difference: Difference
    max_score_difference: Difference
    map_tolerance: Tolerance
    score_tolerance: Tolerance


class TokenParity(RecordModel):
    """Largest difference between the unit vectors of the torch network and of the IR over `images` images."""

    images: Count
    source: str
    max_difference: Difference  # of one value
    tolerance: Tolerance


class GateRow(RecordModel):
    """Metrics of the torch model in float32 and of the IR on one labelled data set; means over its categories."""

    dataset: str
    images: Count
    image_auroc_torch: Unit
    image_auroc_ir: Unit
    pixel_ap_torch: Unit | None  # None: no masks
    pixel_ap_ir: Unit | None
    changed_verdicts: Annotated[int, Field(ge=0)]  # images that change sides at the bundle's threshold


class Gate(RecordModel):
    """Allowed differences of the metrics on each data set, in both directions, and the measured metrics."""

    image_auroc_tolerance: Tolerance  # absolute
    pixel_ap_tolerance: Tolerance  # relative to torch's value
    rows: tuple[GateRow, ...]


class Calibration(RecordModel):
    """The images that set the ranges of int8 activations."""

    source: str  # folders
    images: Count
    seed: int


class Variant(RecordModel):
    """One model of a bundle: its precision, and the measurements that allow its use."""

    precision: Precision
    parity: Parity
    gate: Gate | Literal["left out"] | None = None  # left out: by a flag; None: not needed for this precision
    calibration: Calibration | None = None  # of int8
    accepted_loss: tuple[str, ...] = ()  # measurements above their tolerance that a flag accepted
