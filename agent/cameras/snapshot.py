"""An HTTP address that answers one picture per request, as many network cameras offer it for snapshots."""

import http.client
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

from zsad_agent.cameras.frame import Frame
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import decode_image
from zsad_core.redaction import redacted

MOST_BYTES = 100_000_000  # of one picture
_STATUSES = {
    401: "wrong user name or password, or none given",
    403: "this user may not see the stream",
    404: "there is no such path",
    454: "there is no such session",
    461: "it does not offer RTSP over TCP",
}


def status_text(status: int) -> str:
    """What a status of HTTP or RTSP means for the user."""
    return f"the server answers {status}: {_STATUSES.get(status, 'it cannot give this stream now')}"


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
        try:
            with _opener(self._url).open(_without_user(self._url), timeout=self._timeout_s) as answer:
                content: bytes = answer.read(MOST_BYTES + 1)
                stated = answer.headers.get("Content-Length", "")
                kind = answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            with error:
                raise SourceError(f"{self.description}: {status_text(error.code)}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(reason, TimeoutError):
                reason = f"no answer for {self._timeout_s:g} s"
            raise SourceError(f"{self.description}: cannot be read: {reason}") from error
        if kind.startswith(("text/", "multipart/")):
            advice = "without snapshot: true if this is a video" if kind.startswith("multipart/") else "check its path"
            raise SourceError(f"{self.description}: answers {kind}, not a picture: {advice}")
        if len(content) > MOST_BYTES:
            raise ImageError(f"{self.description}: more than {MOST_BYTES} bytes")
        if not content or (stated.isdigit() and len(content) < int(stated)):
            raise ImageError(f"{self.description}: {len(content)} of {stated or 'unknown'} bytes arrived")
        return content


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Answers a request for a password as Digest or Basic; uses no proxy."""
    parts = urllib.parse.urlsplit(url)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if parts.username is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        passwords.add_password(None, _without_user(url), user, password)
        handlers += [urllib.request.HTTPDigestAuthHandler(passwords), urllib.request.HTTPBasicAuthHandler(passwords)]
    return urllib.request.build_opener(*handlers)
