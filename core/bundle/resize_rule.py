"""How `zsad_core.picture.resize_to_input` scales an image, in words and numbers, for a bundle's manifest.

Another runtime that follows this rule gives the model the same pixels within one grey level, and so the same scores.
"""

from typing import Literal

from zsad_core.config import RecordModel
from zsad_core.picture import HALVE_FROM

_WORDS = (
    "The whole picture, 8 bits a channel, is scaled to the model's input size. Nothing is cropped or padded, and "
    "the aspect ratio is not kept. A picture of the input size is used as it is. (1) While both sides are even and "
    "at least halve_from times the input's, the picture is halved: each new pixel is the mean of 2 x 2 pixels, "
    "rounded half up. (2) Then one step to the input size, each channel by itself. If no side is smaller than the "
    "input's: area averaging. With s = side / input side, new pixel i is the mean over [i s, (i + 1) s) along each "
    "axis; a pixel that is covered in part counts by that part. If no side is larger than the input's: bilinear. "
    "New pixel i lies at (i + 0.5) s - 0.5, moved to the nearest pixel where that is outside the picture. If one "
    "side is larger and the other smaller: linear along both axes between pixel k = floor(i s) and pixel k + 1 (the "
    "last pixel where there is none), where f = i + 1 - (k + 1) / s and the weight of pixel k + 1 is 0 for f <= 0, "
    "else f - floor(f). Values are rounded to whole levels after each step."
)


class ResizeRule(RecordModel):
    """The only rule that this version knows. A manifest with another value is refused."""

    words: str
    keep_aspect: Literal[False]
    crop: Literal[False]
    halve_from: Literal[4]  # both sides, in multiples of the input's sides; see `HALVE_FROM`
    no_side_smaller: Literal["area"]  # compared with the input, after halving
    no_side_larger: Literal["bilinear"]
    one_larger_one_smaller: Literal["linear"]


RESIZE_RULE = ResizeRule(
    words=_WORDS,
    keep_aspect=False,
    crop=False,
    halve_from=HALVE_FROM,
    no_side_smaller="area",
    no_side_larger="bilinear",
    one_larger_one_smaller="linear",
)
