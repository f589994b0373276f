"""Live sources: a V4L2 camera and a network stream."""

import glob
import os
from pathlib import Path

import cv2
import numpy as np

from zsad_agent.opencv_source import OpenCvSource
from zsad_core.errors import SourceError
from zsad_core.redaction import redacted


class _LiveSource(OpenCvSource):
    lossless = False

    def read(self) -> np.ndarray | None:
        """The newest frame; never None, since what is live has no end: it is lost (SourceError)."""
        frame = self._next_frame()
        if frame is None:
            raise SourceError(f"{self.description}: gives no more frames")
        return frame


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
    """An RTSP or HTTP stream, decoded by FFmpeg."""

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
