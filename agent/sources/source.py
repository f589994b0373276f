"""Where pictures come from: the one seam between the outside and the pipeline."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from zsad_core.errors import ImageError, SourceError

Receipt = Callable[[], None]  # raises ReceiptError, or SourceError as `Source.read` does


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """What a source gives."""

    image: np.ndarray  # uint8 BGR [H, W, 3]
    captured_monotonic_s: float = field(default_factory=time.monotonic)  # the clock that all processes share
    skipped: int = 0  # pictures of a live source that came since the one before, and that nobody fetched in time
    receipt: Receipt | None = None  # to be called in the thread that reads the source, once the result is safe


class DamagedPicture(ImageError):
    """A picture that cannot be decoded, with the receipt that it would have had."""

    def __init__(self, text: str, receipt: Receipt) -> None:
        super().__init__(text)
        self.receipt = receipt


class ReceiptError(SourceError):
    """A picture whose result is safe cannot be put away. The source goes on, and the receipt can be called again."""


class Source(Protocol):
    """A camera, stream, video or set of pictures. Entered to open, left to close; it can be entered again.

    `__enter__` and `read` raise SourceError when it cannot be opened or is lost. Its texts show no URL credentials.
    An endless source does so in a bounded time, whatever hangs behind it. One thread is to make all calls.
    """

    @property
    def description(self) -> str:
        """What it is, for logs and messages."""

    @property
    def lossless(self) -> bool:
        """True for files and folders: every picture is inspected. False for what is live: the newest one is."""

    @property
    def endless(self) -> bool:
        """True for cameras, streams and watched folders, which are opened again when they are lost."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def read(self) -> Picture | None:
        """The next picture; None at the end, and while a watched folder has none.

        Raises:
            ImageError: this one picture is bad; the next call gives the next one. DamagedPicture if it has a receipt.
            SourceError: nothing more can be had without opening again.
        """
