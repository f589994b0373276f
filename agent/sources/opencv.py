"""The base class of sources that OpenCV's VideoCapture reads."""

from collections.abc import Sequence

import cv2
import numpy as np

from zsad_core.errors import SourceError


class OpenCvSource:
    """Opens, reads and closes one VideoCapture; its errors become SourceError. A subclass opens it in `__enter__`."""

    _capture: cv2.VideoCapture  # set by `_open`

    def __init__(self, description: str) -> None:
        self.description = description

    def __exit__(self, *_: object) -> None:
        self._capture.release()

    def _open(self, name: str, backend: int, settings: Sequence[int] = (), *, failure: str) -> cv2.VideoCapture:
        """Opens `name`, a path or URL. `failure` is the message if OpenCV gives no reason."""
        try:
            self._capture = cv2.VideoCapture(name, backend, settings)
        except cv2.error as error:
            raise SourceError(f"{self.description}: cannot be opened: {error.err or error.code}") from error
        if not self._capture.isOpened():
            raise SourceError(f"{self.description}: {failure}")
        return self._capture

    def _next_array(self) -> np.ndarray | None:
        """The next frame or encoded frame, as OpenCV gives it; None when there is none."""
        try:
            arrived, array = self._capture.read()
        except cv2.error as error:
            raise SourceError(f"{self.description}: no frame: {error.err or error.code}") from error
        return array if arrived else None
