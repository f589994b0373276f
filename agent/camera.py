"""Live sources: a V4L2 camera and a network stream. Either can hang for ever: `grabber` reads them in a process."""

import glob
import os
from pathlib import Path

import cv2
import numpy as np

from zsad_agent.opencv_source import OpenCvSource
from zsad_core.errors import SourceError
from zsad_core.redaction import redacted

DAMAGED_IN_A_ROW = 25  # more of them are a camera that is lost


class _LiveSource(OpenCvSource):
    lossless = False

    def read(self) -> np.ndarray | None:
        """The next frame; never None, since what is live has no end: it is lost (SourceError).

        Damaged frames are passed over: the camera goes on behind them, and to reopen it would cost more frames. OpenCV
        tells them from the end of a stream in no way but that after the end there is never another.
        """
        for _ in range(DAMAGED_IN_A_ROW):
            if (frame := self._next_frame()) is not None:
                return frame
        raise SourceError(f"{self.description}: gives no more frames")


class V4l2Source(_LiveSource):
    """A camera behind /dev/videoN or a link to it. The link is followed at every opening: numbers change."""

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
        return capture


class StreamSource(_LiveSource):
    """An RTSP or HTTP stream, decoded by FFmpeg.

    Where its resolution changes on the way, OpenCV scales the whole picture to the size that it had at the opening, so
    that regions in pixels keep their place.
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
        return capture


def present_cameras() -> list[str]:
    """Paths of the cameras that the kernel knows, stable names first."""
    return sorted(glob.glob("/dev/v4l/by-id/*")) + sorted(glob.glob("/dev/video*"))  # noqa: PTH207
