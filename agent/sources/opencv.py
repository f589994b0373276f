"""The base class of sources that OpenCV's VideoCapture reads."""

from types import TracebackType
from typing import Self

import cv2
import numpy as np

from zsad_core.errors import SourceError
from zsad_core.picture import to_bgr8


class OpenCvSource:
    """Opens, reads and closes one VideoCapture."""

    def __init__(self, description: str) -> None:
        self.description = description
        self._capture: cv2.VideoCapture | None = None

    def _open(self) -> cv2.VideoCapture:
        """Returns an opened capture, or raises SourceError."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self._capture = self._open()
        except cv2.error as error:
            raise SourceError(f"{self.description}: cannot be opened: {error.err or error.code}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._capture is not None:
            self._capture.release()
            self._capture = None

    def _next_frame(self) -> np.ndarray | None:
        """The next frame, uint8 BGR [H, W, 3]; None when the capture has no frame."""
        frame = self._next_array()
        return to_bgr8(frame) if frame is not None else None

    def _next_array(self) -> np.ndarray | None:
        """The next array of the capture, unchanged, or None."""
        if self._capture is None:
            raise ValueError(f"{self.description}: read before it was opened")
        try:
            arrived, frame = self._capture.read()
        except cv2.error as error:
            raise SourceError(f"{self.description}: no frame: {error.err or error.code}") from error
        return frame if arrived else None
