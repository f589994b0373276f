"""Fetches one file over HTTPS into bounded memory, disk and time. Continues a download that was cut off.

Only http.client is used, so there is no other scheme, no proxy and no credential. A redirect keeps the scheme.
"""

import contextlib
import hashlib
import http.client
import logging
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

from zsad_agent.config import Address, UpdateConfig, is_loopback, parse_address
from zsad_agent.system import Backoff
from zsad_core.errors import ZsadError
from zsad_core.redaction import redacted

logger = logging.getLogger(__name__)

SOCKET_S = 30.0  # without a byte
CHUNK_BYTES = 1 << 18
MAX_REDIRECTS = 5
TRY_AGAIN = (408, 425, 429)  # further statuses that may pass, as 5xx do
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
FREE_BYTES = 100_000_000  # left on the disk for results


class DownloadError(ZsadError):
    """The file is not fetched, and a retry cannot change it."""


class _Retry(Exception):
    """This attempt failed, the next one may not."""


def check_url(url: str, *, plain_http: bool) -> Address:
    """The parts of a URL from which a device fetches.

    Raises:
        DownloadError: it is not fetched from. The text says why.
    """
    try:
        if not url.isascii():
            raise ValueError("a character that is not ASCII: percent-encode it")
        address = parse_address(url, ("http", "https"))
    except ValueError as error:
        raise DownloadError(f"url: {error}") from error
    if address.user:
        raise DownloadError("url: a user or password in a command is read by everybody: the store must not need one")
    if address.scheme == "http" and not plain_http and not is_loopback(address.host):
        raise DownloadError("url: http:// is only fetched from this machine: use https://, or set update.plain_http")
    return address


class Download:
    """One file, of which hash and size are known. `run` it once; any thread may `cancel` it."""

    def __init__(
        self,
        url: str,
        path: Path,
        *,
        size: int,
        sha256: str,
        config: UpdateConfig,
        progress: Callable[[int], object] = lambda done: None,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
    ) -> None:
        """Fetches nothing yet. What an earlier process has left in `path` or `<path>.part` is used.

        `progress` is called with the bytes so far. `free_bytes`: of the disk of a folder.
        """
        self._url, self._path, self._size, self._sha256, self._config = url, path, size, sha256, config
        self._part = path.with_name(f"{path.name}.part")
        self._progress, self._free_bytes = progress, free_bytes
        self._shown = redacted(url)
        self._end_s = 0.0
        self._cancelled = threading.Event()
        self._socket: socket.socket | None = None

    def cancel(self) -> None:
        """Ends `run` soon with an error."""
        self._cancelled.set()
        if (open_socket := self._socket) is not None:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> None:
        """Returns when `path` has the file with this hash.

        Raises:
            DownloadError: it cannot be fetched, or was cancelled; `path` does not exist.
        """
        self._end_s = time.monotonic() + self._config.timeout_s
        limit = threading.Timer(self._config.timeout_s, self.cancel)  # a server can send its header for ever
        limit.daemon = True
        limit.start()
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        with contextlib.suppress(OSError):  # an earlier process has fetched it
            self._path.replace(self._part)
        try:
            while (why := self._try()) is not None:
                if time.monotonic() >= self._end_s:
                    raise DownloadError(f"{self._shown}: not fetched within {self._config.timeout_s:g} s: {why}")
                logger.warning("%s: %s. It is tried again", self._shown, why)
                self._cancelled.wait(min(backoff.next_s(), max(0.0, self._end_s - time.monotonic())))
                if self._cancelled.is_set() and time.monotonic() < self._end_s:
                    raise DownloadError(f"{self._shown}: the download was stopped")
        except DownloadError:
            if not self._cancelled.is_set():  # else another download may continue this one
                with contextlib.suppress(OSError):  # a folder that is read-only by now: the error says so
                    self._part.unlink(missing_ok=True)
            raise
        finally:
            limit.cancel()

    def _try(self) -> str | None:
        """Why this attempt failed; None: the file is there."""
        try:
            have = self._have()
            if have < self._size:
                self._fetch(have)
            self._verify(afresh=have == 0)
        except _Retry as error:
            return str(error)
        except ssl.SSLCertVerificationError as error:
            raise DownloadError(
                f"{self._shown}: the certificate is not trusted: {error.verify_message}. Set update.ca_file if the "
                "store's authority is the plant's own"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        return None

    def _have(self) -> int:
        """Bytes that are here already."""
        self._check_disk(2 * self._size + FREE_BYTES)  # the bundle store makes a copy
        with contextlib.suppress(FileNotFoundError):
            if (size := self._part.stat().st_size) <= self._size:
                return size
            self._part.unlink()
        return 0

    def _check_disk(self, needed: int) -> None:
        if (free := self._free_bytes(self._part.parent)) < needed:
            raise DownloadError(f"the disk has {free // 1_000_000} MB free, {needed // 1_000_000} MB are needed")

    def _fetch(self, have: int) -> None:
        response = self._answer(have)
        try:
            start = self._check_answer(response, have)
            done = start
            if not start:
                self._write(b"", truncate=True)
            while chunk := response.read1(CHUNK_BYTES):
                done += len(chunk)
                if done > self._size:
                    raise DownloadError(f"{self._shown}: more than {self._size} bytes, the size in the command")
                self._check_disk(FREE_BYTES)  # others write too
                self._write(chunk)
                self._progress(done)
                if self._cancelled.is_set():
                    raise _Retry("stopped")
            if done < self._size:
                raise _Retry(f"the connection ended after {done} of {self._size} bytes")
        finally:
            self._socket = None
            response.close()

    def _write(self, chunk: bytes, *, truncate: bool = False) -> None:
        try:
            with self._part.open("wb" if truncate else "ab") as file:
                file.write(chunk)
        except OSError as error:  # the disk is full or broken
            raise DownloadError(f"{self._part.parent}: cannot be written: {error.strerror}") from error

    def _answer(self, have: int) -> http.client.HTTPResponse:
        """The answer after the redirects."""
        url, scheme = self._url, check_url(self._url, plain_http=self._config.plain_http).scheme
        for _ in range(MAX_REDIRECTS + 1):
            address = check_url(url, plain_http=self._config.plain_http)
            if address.scheme != scheme:
                raise DownloadError(f"{self._shown}: a redirect from {scheme} to {address.scheme} is not followed")
            connection = self._connection(address)
            try:
                connection.connect()
                self._socket = connection.sock
                if self._cancelled.is_set():
                    raise _Retry("stopped")
                headers = {"User-Agent": "zsad-agent", "Accept-Encoding": "identity", "Connection": "close"}
                connection.request(
                    "GET", address.rest or "/", headers=headers | ({"Range": f"bytes={have}-"} if have else {})
                )
                response = connection.getresponse()
            except BaseException:
                connection.close()
                raise
            if response.status // 100 != 3:
                return response
            response.close()
            try:
                url = urljoin(url, response.getheader("Location") or "")
            except ValueError as error:
                raise DownloadError(f"{self._shown}: a redirect to an address that is not valid") from error
        raise DownloadError(f"{self._shown}: more than {MAX_REDIRECTS} redirects")

    def _connection(self, address: Address) -> http.client.HTTPConnection:
        if address.scheme == "http":
            return http.client.HTTPConnection(address.host, address.port, timeout=SOCKET_S)
        try:
            context = ssl.create_default_context(cafile=self._config.ca_file)
        except OSError as error:  # also of ssl
            raise DownloadError(f"update.ca_file {self._config.ca_file}: cannot be used: {error}") from error
        return http.client.HTTPSConnection(address.host, address.port, timeout=SOCKET_S, context=context)

    def _check_answer(self, response: http.client.HTTPResponse, have: int) -> int:
        """The offset of the first byte of the body."""
        status = response.status
        if status in (206, 416):
            if response.getheader("Content-Range") == f"bytes {have}-{self._size - 1}/{self._size}":
                return have
            self._part.unlink(missing_ok=True)
            raise _Retry("the store cannot continue the download")
        if status >= 500 or status in TRY_AGAIN:
            raise _Retry(f"the store answered {status}")
        if status != 200:
            raise DownloadError(f"{self._shown}: the store answered {status}")
        length = response.getheader("Content-Length")
        if length is not None and length != str(self._size):
            raise DownloadError(f"{self._shown}: the store has {length[:20]} bytes, the command says {self._size}")
        return 0

    def _verify(self, *, afresh: bool) -> None:
        with self._part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found == self._sha256:
            self._part.replace(self._path)
            return
        self._part.unlink()
        if not afresh:  # the earlier part may be of another file
            raise _Retry("the parts of the download do not fit")
        raise DownloadError(f"{self._shown}: sha256 is {found[:12]}…, the command says {self._sha256[:12]}…")
