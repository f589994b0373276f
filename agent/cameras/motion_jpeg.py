"""Motion JPEG over HTTP (multipart/x-mixed-replace), read as leniently as browsers do."""

import contextlib
import http.client
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zsad_agent.cameras.frame import Frame
from zsad_agent.cameras.snapshot import MOST_BYTES
from zsad_core.errors import SourceError
from zsad_core.picture import HEAD_BYTES, decode_image, format_of

MOST_HEAD_BYTES = 65_536  # of a part, and of what comes before the first one
MOST_LINE_BYTES = 1024  # of a delimiter
READ_BYTES = 65_536
JPEG_END = b"\xff\xd9"


class Part(NamedTuple):
    """A part of the stream that is not empty."""

    content: bytes
    at_s: float  # when its last byte had arrived, of the monotonic clock


class _Parts:
    """Splits the stream. A part ends where the next delimiter begins; its Content-Length only saves the wait for it."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        """Reads nothing yet."""
        self._answer = answer
        self._mark, self._delimiter = b"", re.compile(b"")  # until the boundary is known
        self._buffer = bytearray()
        self._arrived_s = 0.0  # when the buffer grew last
        self._earlier = (0, 0.0)  # its length before, and when that arrived
        self._ended = False

    def read(self) -> Iterator[Part]:
        """The pictures, and parts that should be pictures. Ends when the connection does.

        Raises:
            OSError, http.client.HTTPException: the connection is lost.
            ValueError: this is not such a stream, or a part has too many bytes.
        """
        self._find_boundary()
        found = self._search(MOST_HEAD_BYTES)
        while found is not None:
            self._drop(found.end())
            head = self._read_head()
            stated = self._read_stated(head.get(b"content-length", b""))
            if stated is not None:
                yield stated
            found = self._search(MOST_BYTES)
            end = len(self._buffer) if found is None else found.start()
            content = bytes(self._buffer[:end])
            says_picture = head.get(b"content-type", b"image/").lower().startswith(b"image/")
            if found is None:
                is_picture = _is_whole(content)
            else:
                is_picture = bool(content.strip()) and (says_picture or format_of(content[:HEAD_BYTES]) is not None)
            if stated is None and is_picture:
                yield Part(content, self._earlier[1] if end <= self._earlier[0] else self._arrived_s)

    def _find_boundary(self) -> None:
        """Sets the delimiter: the stream's first line if it looks like one, else as the answer's head names it."""
        start = 0
        while (end := self._find_line_end(start)) is not None and not self._buffer[start:end].strip():
            start = end + 1
            if start > MOST_HEAD_BYTES:
                raise ValueError(f"more than {MOST_HEAD_BYTES} bytes without a boundary")
        line = bytes(self._buffer[start:end]).strip()
        if not line.startswith(b"--"):
            line = (self._answer.headers.get_boundary() or "").encode("latin-1", "replace")
        name = line[:MOST_LINE_BYTES].lstrip(b"-").removesuffix(b"--")
        if not name:
            raise ValueError("no boundary between its parts")
        self._mark = b"--" + name
        # The end of a JPEG may stand in front without a line break.
        self._delimiter = re.compile(rb"(?:^|\r?\n|(?<=\xff\xd9))--+" + re.escape(name) + rb"(?:--)?[ \t]*\r?\n")

    def _read_head(self) -> dict[bytes, bytes]:
        """The header fields of a part, with names in lower case. A picture may begin without the empty line."""
        head: dict[bytes, bytes] = {}
        read_bytes = 0
        while read_bytes < MOST_HEAD_BYTES:
            while len(self._buffer) < 2 and self._more():
                pass
            if self._buffer.startswith((b"\xff\xd8", b"\x89P")) or (end := self._find_line_end(0)) is None:
                return head
            line = bytes(self._buffer[:end]).strip()
            self._drop(end + 1)
            if not line:
                return head
            name, _, value = line.partition(b":")
            head[name.strip().lower()] = value.strip()
            read_bytes += end + 1
        raise ValueError("the head of a part does not end")

    def _find_line_end(self, start: int) -> int | None:
        """Where the line that begins at `start` of the buffer ends; None if the stream ends before."""
        looked = start
        while (end := self._buffer.find(b"\n", looked)) < 0:
            looked = len(self._buffer)
            if looked - start > MOST_HEAD_BYTES:
                raise ValueError(f"a line of more than {MOST_HEAD_BYTES} bytes")
            if not self._more():
                return None
        return end

    def _read_stated(self, length: bytes) -> Part | None:
        """The content with the stated length; None if there is none, or it does not end a picture."""
        count = int(length) if length.isdigit() and len(length) < 10 else 0
        if not 0 < count <= MOST_BYTES:
            return None
        start = 0
        while len(self._buffer) < count:
            if self._delimiter_from(start):  # the length is too large
                return None
            start = max(0, len(self._buffer) - 2 * MOST_LINE_BYTES)
            if not self._more():
                return None
        content = bytes(self._buffer[:count])
        if not _is_whole(content):
            return None
        self._drop(count)
        return Part(content, self._arrived_s)

    def _search(self, most_bytes: int) -> re.Match[bytes] | None:
        """The next delimiter in the stream; None when it ends before."""
        start = 0
        while (found := self._delimiter_from(start)) is None:
            if len(self._buffer) > most_bytes:
                raise ValueError(f"more than {most_bytes} bytes without a delimiter")
            start = max(0, len(self._buffer) - 2 * MOST_LINE_BYTES)
            if not self._more():
                return None
        return found

    def _delimiter_from(self, start: int) -> re.Match[bytes] | None:
        """The first delimiter of the buffer after `start`."""
        place = self._buffer.find(self._mark, start)  # a hundred times faster than the pattern
        return None if place < 0 else self._delimiter.search(self._buffer, max(start, place - MOST_LINE_BYTES))

    def _more(self) -> bool:
        """Reads what has arrived; False at the end of the stream, which ends the last line too."""
        if self._ended:
            return False
        data = self._answer.read1(READ_BYTES)
        self._ended = not data
        self._earlier = (len(self._buffer), self._arrived_s)
        self._arrived_s = time.monotonic()
        self._buffer += data or b"\n"
        return True

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._earlier = (0, 0.0)


def _is_whole(content: bytes) -> bool:
    """Whether content is a picture, and not cut."""
    kind = format_of(content[:HEAD_BYTES])
    return kind is not None and (kind != "JPEG" or content.rstrip(b"\r\n\0").endswith(JPEG_END))


class MotionJpegCamera:
    """The newest picture of an answer; a thread reads it, so that no old ones wait in the connection."""

    def __init__(self, answer: http.client.HTTPResponse, description: str, timeout_s: float) -> None:
        """Reads nothing yet.

        Args:
            answer: of `open_url`; `close` closes it.
            description: of the camera in messages.
            timeout_s: longest wait for one picture.
        """
        self.description = description
        self._answer = answer
        self._timeout_s = timeout_s
        self._changed = threading.Condition()  # guards all below
        self._newest: Part | None = None
        self._skipped = 0  # since the last good one
        self._fault: str | None = None
        self._connection: socket.socket | None = None  # a second handle, which the thread does not close

    def open(self) -> None:
        """Begins to read."""
        if not self._answer.isclosed():  # else there is no content
            self._connection = socket.socket(fileno=os.dup(self._answer.fileno()))
        threading.Thread(target=self._read, daemon=True).start()

    def close(self) -> None:
        """Ends the connection, and so the thread."""
        if self._connection is not None:
            with self._connection, contextlib.suppress(OSError):  # the server has ended it
                self._connection.shutdown(socket.SHUT_RDWR)

    def next_frame(self) -> Frame:
        """The newest picture that was not read yet; waits for one.

        Raises:
            ImageError: it is cut, or not a picture.
            SourceError: the connection is lost, or no picture came in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._newest or self._fault, self._timeout_s):
                raise SourceError(f"{self.description}: no frame for {self._timeout_s:g} s")
            part, self._newest = self._newest, None
            if part is None:
                raise SourceError(f"{self.description}: {self._fault}")
        image = decode_image(np.frombuffer(part.content, np.uint8), self.description)
        with self._changed:
            skipped, self._skipped = self._skipped, 0
        return Frame(image, part.at_s, skipped)

    def _read(self) -> None:
        fault = "the connection ended: gives no more frames"
        try:
            with self._answer:
                for part in _Parts(self._answer).read():
                    with self._changed:
                        self._skipped += self._newest is not None
                        self._newest = part
                        self._changed.notify()
        except TimeoutError:
            fault = f"no frame for {self._timeout_s:g} s"
        except ValueError as error:
            fault = f"not a motion-JPEG stream: {error}"
        except (OSError, http.client.HTTPException) as error:
            fault = f"the connection is lost: {error}"
        with self._changed:
            self._fault = fault
            self._changed.notify()
