"""The feature networks of a bundle: what they take and give. Teach-in compares their tokens with those of good parts.

A scale is one way to look at a view: the whole view or its 2 x 2 tiles, with one network. The network gives a unit
vector for each cell of a grid.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from zsad_core.bundle.proof import TokenParity
from zsad_core.config import RecordModel

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]  # without a path
Side = Annotated[int, Field(gt=0, le=8192)]  # pixels; the largest input then has 200 MB
MAX_CELLS = 256  # along one side of a grid
MAX_WIDTH = 8192
MAX_MEMORY = 20_000  # vectors; a distance to each is computed for each cell of each image


class FeatureScale(RecordModel):
    """A network's graph takes `image` uint8 BGR [1, H, W, 3] and gives `tokens` float32 [1, h * w, width]."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    file: Annotated[str, Field(pattern=r"^features-[a-z0-9-]{1,60}\.xml$")]  # the graph; its constants: model.bin
    own: bool = False  # the main model has the output `tokens` too, with the same values
    input_hw: tuple[Side, Side]  # of one tile
    grid_hw: tuple[Annotated[int, Field(gt=0, le=MAX_CELLS)], Annotated[int, Field(gt=0, le=MAX_CELLS)]]
    width: Annotated[int, Field(gt=0, le=MAX_WIDTH)]
    tiles: Literal[1, 2]  # along each side of the view
    memory: Annotated[int, Field(gt=0, le=MAX_MEMORY)]  # most vectors of good parts that a profile keeps
    parity: TokenParity | None = None

    def as_network_of(self, other: "FeatureScale") -> bool:
        """Whether both scales have networks of the same input and output."""
        return (self.input_hw, self.grid_hw, self.width) == (other.input_hw, other.grid_hw, other.width)


def scales_fault(scales: Sequence[FeatureScale], main_hw: tuple[int, int]) -> str | None:
    """Why these scales do not fit together in a bundle whose main model takes `main_hw`; None if they do."""
    name, count = next(iter(Counter(scale.name for scale in scales).most_common(1)), ("", 0))
    if count > 1:
        return f"{name!r} occurs {count} times"
    if sum(scale.own for scale in scales) > 1:
        return "the main model can have the output tokens of one scale only"
    for scale in scales:
        if scale.own and (scale.tiles, scale.input_hw) != (1, main_hw):
            return f"{scale.name}: an output of the main model takes its input {main_hw} as one tile"
        if any(one.file == scale.file and not one.as_network_of(scale) for one in scales):
            return f"{scale.name}: another scale says that {scale.file} has another input or output"
    return None
