"""The interface of a source, and the pictures that it gives."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from zsad_core.errors import ImageError, SourceError
from zsad_core.types import Verdict

Receipt = Callable[[Verdict], None]  # raises ReceiptError, or SourceError as `Source.read` does


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One picture of a source."""

    image: np.ndarray  # uint8 BGR [H, W, 3]
    captured_monotonic_s: float = field(default_factory=time.monotonic)  # the same clock in all processes
    skipped: int = 0  # pictures of a live source that newer ones replaced since the previous `read`
    damaged: int = 0  # those of `skipped` that were damaged
    damage: str | None = None  # reason of the last of these
    source_name: str | None = None  # file name of a picture from a file or folder
    receipt: Receipt | None = None  # call it in the thread that reads the source, once the result is safe


class DamagedPicture(ImageError):
    """A picture file cannot be decoded. It has a name and perhaps a receipt, as a good picture has."""

    def __init__(self, text: str, *, source_name: str, receipt: Receipt | None = None) -> None:
        super().__init__(text)
        self.source_name = source_name
        self.receipt = receipt


def name_of(path: Path) -> str:
    """The file's name as UTF-8: a byte that is not UTF-8 becomes `\ufffd`."""
    return os.fsencode(path.name).decode("utf-8", "replace")


class ReceiptError(SourceError):
    """A picture whose result is safe cannot be moved. The source continues, and the receipt can be called again."""


class Source(Protocol):
    """A camera, stream, video or set of pictures. A context manager that can be entered again.

    `__enter__` and `read` raise SourceError when it cannot be opened or is lost. Messages contain no URL credentials.
    An endless source raises it within a bounded time, even if a driver or network hangs. One thread makes all calls.
    """

    @property
    def description(self) -> str:
        """The source's name in logs and messages."""

    @property
    def lossless(self) -> bool:
        """True for files and folders: every picture is inspected. False for live sources: only the newest is."""

    @property
    def endless(self) -> bool:
        """True for cameras, streams and watched folders, which are reopened when they are lost."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def read(self) -> Picture | None:
        """The next picture; None at the end, and while a watched folder has none.

        Raises:
            ImageError: only this picture is bad; the next call gives the next one. DamagedPicture if it is a file.
            SourceError: the source is lost and must be opened again.
        """
