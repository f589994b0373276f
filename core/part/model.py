"""What is taught about a product's part: how to find it in a frame, and how much a part may differ."""

import base64
import binascii
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from zsad_core.config import StrictModel
from zsad_core.part.located import Located

TEMPLATE_HW: Final = {"box": (48, 48), "strip": (32, 96)}
MAX_PARTS: Final = 64

Share = Annotated[float, Field(ge=0, le=1)]
Correlation = Annotated[float, Field(ge=-1, le=1)]


class Span(StrictModel):
    """The smallest and the largest value of the goods."""

    low: float
    high: float

    @model_validator(mode="after")
    def _is_ordered(self) -> Self:
        if not 0 <= self.low <= self.high <= 1e6:
            raise ValueError(f"expected 0 <= low <= high, got {self.low} and {self.high}")
        return self


class TaughtPart(StrictModel):
    """How the goods' parts stand out from the background."""

    count: Annotated[int, Field(ge=1, le=MAX_PARTS)]  # equal parts in one frame
    area: Span  # of one part, share of the frame
    elongation: Span  # ratio of the principal axes
    contrast: Annotated[float, Field(gt=0, le=1000)]  # lowest colour distance between part and background


class TaughtView(StrictModel):
    """What the view of a part shows. The template is the goods' median view."""

    size_wh: tuple[Annotated[float, Field(gt=0, le=8)], Annotated[float, Field(gt=0, le=8)]]  # 1 = sqrt(frame area)
    turns: bool  # small rotations are compensated; a strip always is
    template: Annotated[str, Field(max_length=20_000)]  # base64 of uint8 BGR, see `TEMPLATE_HW`
    similarity: Correlation  # lowest correlation of a good with the template

    def pixels(self, mode: str) -> np.ndarray:
        """uint8 [h, w, 3]: the template."""
        return np.frombuffer(base64.b64decode(self.template), np.uint8).reshape(*TEMPLATE_HW[mode], 3)


class PartModel(StrictModel):
    """How the part is found. `frame`: the view is the whole frame; `box`: a crop; `strip`: a crop, rotated, 3:1."""

    mode: Literal["frame", "box", "strip"]
    goods: Annotated[int, Field(ge=1)]  # pictures that it was learnt from
    part: TaughtPart | None = None  # None: no part stands out, the surface fills the frame
    view: TaughtView | None = None  # None: mode `frame`

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if (self.view is None) != (self.mode == "frame"):
            raise ValueError(f"mode {self.mode} {'has no' if self.view is not None else 'needs a'} view")
        if self.view is not None:
            if self.part is None or self.part.count != 1:
                raise ValueError(f"mode {self.mode} needs one taught part")
            height, width = TEMPLATE_HW[self.mode]
            try:
                found = len(base64.b64decode(self.view.template, validate=True))
            except binascii.Error as error:
                raise ValueError(f"template is not base64: {error}") from error
            if found != 3 * height * width:
                raise ValueError(f"template has {found} bytes, expected {3 * height * width}")
        return self

    def locate(self, image_bgr: np.ndarray) -> Located:
        """The view of the part in a frame, uint8 BGR [H, W, 3].

        Raises:
            PartError: the frame shows no part, or another part than taught.
        """
        return Located.whole(image_bgr)
