"""What a camera of this room gives."""

from typing import NamedTuple, Protocol

import numpy as np


class Frame(NamedTuple):
    """One picture of a camera."""

    image: np.ndarray  # uint8 BGR [H, W, 3]
    at_s: float  # when it had arrived, of the monotonic clock
    skipped: int = 0  # frames that it replaced since the previous one
    damaged: int = 0  # those of them that were damaged
    damage: str | None = None  # reason of the last of these


class DirectCamera(Protocol):
    """A camera that is opened, read by one thread, and closed."""

    @property
    def description(self) -> str:
        """The camera's name in messages, without credentials."""

    def open(self) -> None:
        """Raises SourceError when the camera cannot be used."""

    def close(self) -> None: ...

    def next_frame(self) -> Frame:
        """Waits for the next frame.

        Raises:
            ImageError: this frame is damaged.
            SourceError: the camera is lost.
        """
