"""Live sources: a V4L2 camera and a network stream. Either can hang for ever: `grabber` reads them in a process."""

import glob
import os
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from zsad_agent.sources.opencv import OpenCvSource
from zsad_agent.sources.source import Picture
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import decode_image
from zsad_core.redaction import redacted

DAMAGED_IN_A_ROW = 25  # so many of them are a camera that is lost
JPEG_FORMATS = frozenset(cv2.VideoWriter.fourcc(*name) for name in ("MJPG", "JPEG"))
JPEG_START = (0xFF, 0xD8)


class _LiveSource(OpenCvSource):
    lossless, endless = False, True

    def __init__(self, description: str) -> None:
        super().__init__(description)
        self._damaged = 0  # frames in a row
        self._gives_jpegs = False  # as they came, and not decoded

    def __enter__(self) -> Self:
        self._damaged = 0
        return super().__enter__()

    def read(self) -> Picture:
        """The next frame; never None, since what is live has no end: it is lost (SourceError).

        After a damaged frame the camera goes on, and to reopen it would cost more frames. One that is seen to be
        damaged is an ImageError, since a part may have been in it that no other frame shows. One of which the decoder
        makes nothing is passed over: OpenCV tells it from the end of a stream in no way but that after the end there is
        never another.
        """
        while self._damaged < DAMAGED_IN_A_ROW:
            try:
                frame = self._next_frame()
            except ImageError as error:
                self._damaged += 1
                if self._damaged >= DAMAGED_IN_A_ROW:
                    raise SourceError(f"{error}, as the {DAMAGED_IN_A_ROW - 1} before it") from error
                raise
            if frame is not None:
                self._damaged = 0
                return Picture(image=frame)
            self._damaged += 1
        raise SourceError(f"{self.description}: gives no more frames")

    def _next_frame(self) -> np.ndarray | None:
        if not self._gives_jpegs:
            return super()._next_frame()
        encoded = self._next_array()
        return decode_jpeg(encoded, self.description) if encoded is not None else None


class V4l2Source(_LiveSource):
    """A camera behind /dev/videoN or a link to it. The link is followed at every opening: numbers change.

    JPEGs are decoded here: where one is cut, OpenCV would leave what the picture before had there, and say nothing.
    """

    def __init__(self, path: Path, *, width: int | None, height: int | None) -> None:
        """Opens nothing yet.

        Args:
            path: the device, or a link such as /dev/v4l/by-id/….
            width: asked of the camera, pixels; it may answer with another size. None: OpenCV asks for 640 x 480.
            height: likewise; None when `width` is.
        """
        super().__init__(f"camera {path}")
        self._path = path
        self._size = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height}

    def _open(self) -> cv2.VideoCapture:
        if not self._path.exists():
            raise SourceError(f"{self.description}: not there. Present: {', '.join(present_cameras()) or 'no camera'}")
        if not os.access(self._path, os.R_OK | os.W_OK):
            raise SourceError(f"{self.description}: no permission. Add this user to the group video")
        capture = cv2.VideoCapture(str(self._path.resolve()), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise SourceError(f"{self.description}: cannot be opened: it is no camera, or another program has it")
        for setting, value in self._size.items():
            if value is not None:
                capture.set(setting, value)
        self._gives_jpegs = ask_for_jpegs(capture, cv2.CAP_PROP_CONVERT_RGB, 0)
        return capture


class StreamSource(_LiveSource):
    """An RTSP or HTTP stream, taken apart by FFmpeg.

    JPEGs are decoded here, by the rules that hold for files: FFmpeg would fill the missing part of a cut picture
    with what it likes and call it a frame. Other formats FFmpeg decodes, and conceals what the network has lost without
    a word. Where their resolution changes on the way, OpenCV scales the whole picture to the size that it had at the
    opening.
    """

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Opens nothing yet.

        Args:
            url: with credentials, if any; they never show in a text.
            timeout_s: longest wait for the connection, and for one frame.
        """
        super().__init__(f"stream {redacted(url)}")
        self._url = url
        self._timeout_ms = max(1, int(timeout_s * 1000))

    def _open(self) -> cv2.VideoCapture:
        open_timeout = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self._timeout_ms]
        read_timeout = [cv2.CAP_PROP_READ_TIMEOUT_MSEC, self._timeout_ms]
        capture = cv2.VideoCapture(self._url, cv2.CAP_FFMPEG, open_timeout + read_timeout)
        if not capture.isOpened():
            raise SourceError(
                f"{self.description}: cannot be opened: no answer, refused, wrong credentials, or no video there"
            )
        self._gives_jpegs = ask_for_jpegs(capture, cv2.CAP_PROP_FORMAT, -1)
        return capture


def ask_for_jpegs(capture: cv2.VideoCapture, setting: int, value: int) -> bool:
    """Has an opened capture give pictures as they came, uint8 [1, bytes], if they are JPEGs. Whether it will.

    `setting` and `value` are what its backend wants to hear for that.
    """
    comes_as_jpeg = int(capture.get(cv2.CAP_PROP_FOURCC)) in JPEG_FORMATS
    return comes_as_jpeg and bool(capture.set(setting, value))


def decode_jpeg(encoded: np.ndarray, name: str) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a JPEG, uint8 of any shape. What follows its end marker does not count.

    Raises:
        ImageError: none, truncated, or larger than any picture that is read; the text begins with `name`.
    """
    encoded = encoded.reshape(-1)
    if tuple(encoded[:2]) != JPEG_START:
        raise ImageError(f"{name}: what came is no JPEG")
    return decode_image(encoded, name)


def present_cameras() -> list[str]:
    """Paths of the cameras that the kernel knows, stable names first."""
    return sorted(glob.glob("/dev/v4l/by-id/*")) + sorted(glob.glob("/dev/video*"))  # noqa: PTH207
