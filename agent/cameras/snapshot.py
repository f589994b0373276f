"""An HTTP address that answers one picture per request, as many network cameras offer it for snapshots."""

import http.client
import time

import numpy as np

from zsad_agent.cameras.frame import Frame
from zsad_agent.cameras.http import open_url
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import decode_image
from zsad_core.redaction import redacted

MOST_BYTES = 100_000_000  # of one picture


class SnapshotCamera:
    """Requests a picture at a fixed rate. Can be pickled while it is closed."""

    def __init__(self, url: str, *, every_s: float, timeout_s: float) -> None:
        """Requests nothing yet.

        Args:
            url: http or https; may contain a user and password, for Basic or Digest.
            every_s: time from one request to the next.
            timeout_s: longest wait for the connection and for the next bytes.
        """
        self.description = f"snapshots {redacted(url)}"
        self._url = url
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._due_s = 0.0  # of the next request
        self._first = b""  # the answer to the request at the opening

    def open(self) -> None:
        """Requests the first picture.

        Raises:
            SourceError: as of `next_frame`.
        """
        self._due_s = 0.0
        self._first = self._get()

    def close(self) -> None:
        """Each request has its own connection: none is open between two of them."""

    def next_frame(self) -> Frame:
        """Waits until the next picture is due, and requests it.

        Raises:
            ImageError: the picture is damaged, cut, or not a picture.
            SourceError: no connection, or the server refuses.
        """
        content, self._first = self._first or self._get(), b""
        at_s = time.monotonic()
        return Frame(decode_image(np.frombuffer(content, np.uint8), self.description, strict=True), at_s, 0)

    def _get(self) -> bytes:
        """The content of the next answer, when it is due."""
        time.sleep(max(0.0, self._due_s - time.monotonic()))
        self._due_s = time.monotonic() + self._every_s
        with open_url(self._url, self.description, self._timeout_s) as answer:
            stated = answer.headers.get("Content-Length", "")
            kind = answer.headers.get_content_type()
            try:
                content = answer.read(MOST_BYTES + 1)
            except (OSError, ValueError, http.client.HTTPException) as error:
                raise SourceError(f"{self.description}: the connection is lost: {error}") from error
        if kind.startswith(("text/", "multipart/")):
            advice = "without snapshot: true if this is a video" if kind.startswith("multipart/") else "check its path"
            raise SourceError(f"{self.description}: answers {kind}, not a picture: {advice}")
        if len(content) > MOST_BYTES:
            raise ImageError(f"{self.description}: more than {MOST_BYTES} bytes")
        if not content or (stated.isdigit() and len(content) < int(stated)):
            raise ImageError(f"{self.description}: {len(content)} of {stated or 'unknown'} bytes arrived")
        return content
