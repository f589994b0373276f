"""Live sources: V4L2 cameras, network streams and those of `cameras`. They can hang, so `GrabberSource` reads them."""

import ctypes
import glob
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Self

import cv2

from zsad_agent.cameras import (
    DirectCamera,
    MotionJpegCamera,
    NotReadError,
    SnapshotCamera,
    connection_fault,
    open_url,
    status_text,
)
from zsad_agent.config import STREAM_SCHEMES, parse_address
from zsad_agent.sources.opencv import OpenCvSource, ask_for_encoded
from zsad_agent.sources.source import Picture, Source
from zsad_core.errors import ImageError, SourceError
from zsad_core.redaction import redacted

MOST_LOG_BYTES = 65_536
MOST_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322}
Y16 = cv2.VideoWriter.fourcc(*"Y16 ")
V4L2_EXPOSURE_MANUAL, V4L2_EXPOSURE_UNIT_US = 1, 100  # linux/v4l2-controls.h
DAMAGED_IN_A_ROW = 25  # after so many damaged frames the camera is lost, a direct one only after `stale_after_s` too


class DirectSource:
    """A camera that needs no OpenCV."""

    lossless, endless = False, True

    def __init__(self, camera: DirectCamera, *, stale_after_s: float) -> None:
        """Opens nothing yet. `stale_after_s`: shortest time with damaged frames alone until the camera is lost."""
        self.description = camera.description
        self._camera = camera
        self._stale_after_s = stale_after_s
        self._damaged = 0  # frames in a row
        self._good_s = 0.0  # when the last good frame came, monotonic

    def __enter__(self) -> Self:
        self._damaged = 0
        self._camera.open()
        self._good_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._camera.close()

    def read(self) -> Picture:
        """The next frame. A damaged one does not close the camera.

        Raises:
            ImageError: this frame is damaged.
            SourceError: the camera is lost.
        """
        try:
            frame = self._camera.next_frame()
        except ImageError as error:
            self._damaged += 1
            if self._damaged < DAMAGED_IN_A_ROW or time.monotonic() - self._good_s < self._stale_after_s:
                raise
            raise _all_damaged(error, self._damaged) from error
        self._damaged, self._good_s = 0, time.monotonic()
        return Picture(
            image=frame.image,
            captured_monotonic_s=frame.at_s,
            skipped=frame.skipped,
            damaged=frame.damaged,
            damage=frame.damage,
        )


def _all_damaged(error: ImageError, count: int) -> SourceError:
    return SourceError(f"{error}, like the {count - 1} frames before it")


class _LiveSource(OpenCvSource):
    lossless, endless = False, True
    _damaged = 0  # frames in a row

    def _start(self, setting: int, value: int) -> Self:
        """The last step of the opening: requests undecoded pictures as `ask_for_encoded` does."""
        self._damaged = 0
        self._gives_encoded = ask_for_encoded(self._capture, setting, value)
        return self

    def read(self) -> Picture:
        """The next frame. Never None: a live source does not end, it is lost.

        A damaged frame does not close the camera, because reopening it would lose more frames. A frame that the decoder
        drops is skipped: OpenCV reports it like the end of a stream, and only the frames after it show the difference.

        Raises:
            ImageError: this frame is damaged. A part may be in it that no other frame shows.
            SourceError: the camera is lost.
        """
        while self._damaged < DAMAGED_IN_A_ROW:
            array = self._next_array()
            self._damaged += 1
            if array is None:
                continue
            try:
                image = self._image_of(array, self.description)
            except ImageError as error:
                if self._damaged < DAMAGED_IN_A_ROW:
                    raise
                raise _all_damaged(error, self._damaged) from error
            self._damaged = 0
            return Picture(image=image)
        raise SourceError(f"{self.description}: gives no more frames")


class V4l2Source(_LiveSource):
    """A camera at /dev/videoN or a link to it. The link is resolved at every opening, because the number can change.

    JPEGs are decoded here: OpenCV fills the missing part of a cut JPEG with the previous frame and reports no error.
    """

    def __init__(
        self,
        path: Path,
        *,
        width: int | None,
        height: int | None,
        bit_depth: int | None = None,
        pixel_format: str | None = None,
        exposure_us: float | None = None,
        gain: float | None = None,
    ) -> None:
        """Opens nothing yet. What is None stays as the driver has it.

        Args:
            path: the device, or a link such as /dev/v4l/by-id/….
            width: requested width in pixels. The camera may give another size. None: OpenCV requests 640 x 480.
            height: requested height in pixels; None when `width` is None.
            bit_depth: low bits of a 16-bit grey camera (Y16) that hold the picture. None: all 16. OpenCV scales the
                formats Y10 and Y12 itself.
            pixel_format: the format's four characters, for example MJPG.
            exposure_us: exposure time; the automatic one is switched off.
            gain: in the driver's unit.
        """
        super().__init__(f"camera {path}")
        self._bit_depth = bit_depth
        self._path = path
        self._size = {cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height}
        self._pixel_format = pixel_format
        self._exposure_us = exposure_us
        self._gain = gain

    def __enter__(self) -> Self:
        if not self._path.exists():
            present = sorted(glob.glob("/dev/v4l/by-id/*")) + sorted(glob.glob("/dev/video*"))  # noqa: PTH207
            raise SourceError(f"{self.description}: does not exist. Cameras: {', '.join(present) or 'none'}")
        if not os.access(self._path, os.R_OK | os.W_OK):
            raise SourceError(f"{self.description}: no permission. Add this user to the group video")
        failure = "cannot be opened: it is not a camera, or another program uses it"
        capture = self._open(str(self._path.resolve()), cv2.CAP_V4L2, failure=failure)
        try:
            self._set(capture)
        except SourceError:
            capture.release()
            raise
        if self._bit_depth is not None and int(capture.get(cv2.CAP_PROP_FOURCC)) == Y16:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)  # else OpenCV drops the low 8 bits
            self._white = (1 << self._bit_depth) - 1
        return self._start(cv2.CAP_PROP_CONVERT_RGB, 0)

    def _set(self, capture: cv2.VideoCapture) -> None:
        wanted = self._pixel_format
        if wanted is not None:  # first: which sizes there are depends on it
            code = cv2.VideoWriter.fourcc(*wanted.ljust(4))
            capture.set(cv2.CAP_PROP_FOURCC, code)
            given = int(capture.get(cv2.CAP_PROP_FOURCC))
            if given != code:
                text = given.to_bytes(4, "little").decode("ascii", "replace").strip()
                raise SourceError(
                    f"{self.description}: gives the pixel_format {text} instead of {wanted}. "
                    "`zsad-agent doctor` lists its formats"
                )
        for setting, value in self._size.items():
            if value is not None:
                capture.set(setting, value)
        if self._exposure_us is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L2_EXPOSURE_MANUAL)  # some drivers have no automatic one
            if not capture.set(cv2.CAP_PROP_EXPOSURE, max(1, round(self._exposure_us / V4L2_EXPOSURE_UNIT_US))):
                raise SourceError(f"{self.description}: refuses exposure_us {self._exposure_us:g}")
        if self._gain is not None and not capture.set(cv2.CAP_PROP_GAIN, self._gain):
            raise SourceError(f"{self.description}: refuses gain {self._gain:g}")


class StreamSource(_LiveSource):
    """An RTSP or HTTP stream, demultiplexed by FFmpeg.

    JPEGs are decoded here, as files are: FFmpeg would fill the missing part of a cut picture and report no error.
    FFmpeg decodes all other formats. There it conceals lost network packets and reports no error. If the resolution
    changes, OpenCV scales the picture to the size at opening. Of a still picture it would fill what is missing, so the
    first frame counts only if another one follows.
    """

    _is_video = False  # two frames came, or FFmpeg does not decode them
    _frames = 0  # since the opening, up to 2

    def __init__(self, url: str, *, timeout_s: float) -> None:
        """Opens nothing yet.

        Args:
            url: may contain credentials; they never appear in a message.
            timeout_s: longest wait for the connection, and for one frame.
        """
        super().__init__(f"stream {redacted(url)}")
        self._url = url
        self._timeout_ms = max(1, int(timeout_s * 1000))

    def __enter__(self) -> Self:
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, self._timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, self._timeout_ms]
        with _ffmpeg_log() as read_log:
            try:
                self._open(self._url, cv2.CAP_FFMPEG, timeouts, failure="cannot be opened")
            except SourceError as error:
                reason = _why_not_opened(self._url, read_log(), min(self._timeout_ms / 1000, MOST_CONNECT_S))
                raise SourceError(f"{error}: {reason}") from error
        self._start(cv2.CAP_PROP_FORMAT, -1)
        self._is_video, self._frames = self._gives_encoded, 0
        return self

    def read(self) -> Picture:
        try:
            picture = super().read()
        except SourceError as error:
            if self._frames == 1 and self._url.startswith("http"):
                advice = "one picture and no more. If it gives one for each request, set source.snapshot: true"
                raise SourceError(f"{self.description}: {advice}") from error
            raise
        self._frames = min(2, self._frames + 1)
        if self._is_video:
            return picture
        try:
            picture = super().read()
        except SourceError as error:
            reason = "one picture, so not a video, and not a JPEG or PNG, which are checked for damage"
            raise SourceError(f"{self.description}: {reason}") from error
        self._is_video = True
        return picture


class HttpSource:
    """An HTTP address, read as the server's Content-Type tells: motion JPEG, single pictures, or with FFmpeg."""

    lossless, endless = False, True

    def __init__(self, url: str, *, every_s: float, timeout_s: float) -> None:
        """Opens nothing yet.

        Args:
            url: may contain credentials; they never appear in a message.
            every_s: time from one request to the next, of an address that gives single pictures.
            timeout_s: longest wait for the connection, and for one frame.
        """
        self.description = f"stream {redacted(url)}"
        self._url = url
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._opened: Source | None = None

    def __enter__(self) -> Self:
        source = self._choose()
        source.__enter__()
        self._opened = source
        return self

    def __exit__(self, *_: object) -> None:
        source, self._opened = self._opened, None
        if source is not None:
            source.__exit__(None, None, None)

    def read(self) -> Picture | None:
        """As of the source that was chosen."""
        if self._opened is None:
            raise ValueError(f"{self.description}: read while it is not open")
        return self._opened.read()

    def _choose(self) -> Source:
        camera: DirectCamera
        try:
            answer = open_url(self._url, self.description, self._timeout_s)
        except NotReadError:
            return StreamSource(self._url, timeout_s=self._timeout_s)
        kind = answer.headers.get_content_maintype()
        if kind == "multipart":
            camera = MotionJpegCamera(answer, self.description, self._timeout_s)
            return DirectSource(camera, stale_after_s=self._timeout_s)
        answer.close()
        if kind == "image":
            camera = SnapshotCamera(self._url, every_s=self._every_s, timeout_s=self._timeout_s)
            return DirectSource(camera, stale_after_s=self._timeout_s)
        return StreamSource(self._url, timeout_s=self._timeout_s)


def _why_not_opened(url: str, ffmpeg_log: str, timeout_s: float) -> str:
    """The reason in words: from what FFmpeg logged, or else from a connection that is made for it."""
    found = re.search(r"(?:HTTP error|failed:) ([45][0-9][0-9])\b", ffmpeg_log)
    if found is not None:
        return status_text(int(found[1]))
    address = parse_address(url, STREAM_SCHEMES)
    port = address.port or _PORTS[address.scheme]
    try:
        socket.create_connection((address.host, port), timeout_s).close()
    except OSError as error:
        return connection_fault(error, address.host, port, timeout_s)
    return "the server can be reached, but gave no video that can be read"


@contextmanager
def _ffmpeg_log() -> Iterator[Callable[[], str]]:
    """Gives a function that returns what FFmpeg has logged meanwhile. OpenCV writes it to the process's stdout."""
    flush = ctypes.CDLL(None).fflush
    with ExitStack() as stack:
        log, stdout = os.memfd_create("log"), os.dup(1)
        for action in (partial(os.close, log), partial(os.close, stdout), partial(os.dup2, stdout, 1)):
            stack.callback(action)
        stack.callback(flush, None)
        flush(None)
        os.dup2(log, 1)

        def read() -> str:
            flush(None)
            return os.pread(log, MOST_LOG_BYTES, 0).decode(errors="replace")

        yield read
