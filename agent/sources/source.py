"""Where pictures come from: the one seam between the outside and the pipeline."""

from types import TracebackType
from typing import Protocol, Self

import numpy as np


class Source(Protocol):
    """A camera, stream, video or set of pictures. Entered to open, left to close; it can be entered again.

    `__enter__` and `read` raise SourceError when it cannot be opened or is lost. Its texts show no URL credentials.
    """

    @property
    def description(self) -> str:
        """What it is, for logs and messages."""

    @property
    def lossless(self) -> bool:
        """True for files and folders: every picture is inspected. False for what is live: the newest one is."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self) -> np.ndarray | None:
        """The next picture, uint8 BGR [H, W, 3]; None at the end.

        Raises:
            ImageError: this one picture is bad; the next call gives the next one.
            SourceError: nothing more can be had without opening again.
        """
