"""The base class of sources that OpenCV's VideoCapture reads."""

from collections.abc import Sequence

import cv2
import numpy as np

from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import decode_image, to_bgr8

MOST_ENCODED_BYTES = 100_000_000  # of one JPEG or PNG: a byte per pixel of the largest picture
# OpenCV gives these for all names that containers have for motion JPEG and motion PNG.
ENCODED_FORMATS = frozenset(cv2.VideoWriter.fourcc(*name) for name in ("MJPG", "JPEG", "MPNG"))


class OpenCvSource:
    """Opens, reads and closes one VideoCapture; its errors become SourceError. A subclass opens it in `__enter__`."""

    _capture: cv2.VideoCapture  # set by `_open`
    _white: int | None = None  # of a 16-bit frame, as of `to_bgr8`
    _gives_encoded = False  # True: the capture gives whole image files, not decoded

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

    def _image_of(self, array: np.ndarray, name: str, *, strict: bool = False) -> np.ndarray:
        """uint8 BGR [H, W, 3] of what `_next_array` gave. `strict`: as of `decode_image`.

        Raises:
            ImageError: the picture is damaged. Its text begins with `name`.
        """
        if not self._gives_encoded:
            return to_bgr8(array, self._white)
        if array.size > MOST_ENCODED_BYTES:
            raise ImageError(f"{name}: {array.size} bytes, at most {MOST_ENCODED_BYTES} are decoded")
        return decode_image(array.reshape(-1), name, strict=strict)


def ask_for_encoded(capture: cv2.VideoCapture, setting: int, value: int) -> bool:
    """Makes an opened capture give its JPEGs or PNGs undecoded, uint8 [1, bytes]. False if it has none or cannot.

    FFmpeg would fill the missing part of a cut picture and report no error. `setting` and `value` select this in the
    capture's backend.
    """
    comes_encoded = int(capture.get(cv2.CAP_PROP_FOURCC)) in ENCODED_FORMATS
    return comes_encoded and bool(capture.set(setting, value))
