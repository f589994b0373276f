"""Requests to cameras over HTTP: user and password, redirects, and what a failure means."""

import hashlib
import http.client
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import IO

from zsad_core.errors import SourceError

PORTS = {"http": 80, "https": 443}
_HEADERS = [("User-Agent", "Mozilla/5.0 (compatible; zsad-agent)"), ("Accept", "*/*")]  # as browsers have
_STATUSES = {
    **dict.fromkeys((301, 302, 303, 307, 308), "its redirect leads nowhere, in a circle, or from https to http"),
    401: "wrong user name or password, or none given",
    403: "this user may not see the stream",
    404: "there is no such path",
    454: "there is no such session",
    461: "it does not offer RTSP over TCP",
}


class NotReadError(SourceError):
    """The answer is not HTTP as Python reads it, or the server's certificate is not trusted."""


class _Digest(urllib.request.HTTPDigestAuthHandler):
    """With SHA-256 (RFC 7616), which Python 3.11 does not have."""

    def get_algorithm_impls(self, algorithm: str) -> tuple[Callable[[str], str], Callable[[str, str], str]]:
        if algorithm != "SHA-256":
            return super().get_algorithm_impls(algorithm)

        def digest(text: str) -> str:
            return hashlib.sha256(text.encode()).hexdigest()

        return digest, lambda secret, data: digest(f"{secret}:{data}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows them to the same scheme and to https: a password must not leave TLS, and FTP is no stream."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme not in (req.type, "https"):
            return None  # which ends as an HTTPError
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def status_text(status: int) -> str:
    """What a status of HTTP or RTSP means for the user."""
    return f"the server answers {status}: {_STATUSES.get(status, 'it cannot give this stream now')}"


def connection_fault(error: OSError, host: str, port: int, timeout_s: float) -> str:
    """Why there is no connection to a server, or no answer from it."""
    if isinstance(error, socket.gaierror):
        return f"no address is known for the host {host!r}: check its spelling and the name server"
    if isinstance(error, ConnectionRefusedError):
        return f"refused: nothing listens on port {port} of {host}"
    if isinstance(error, TimeoutError):
        return f"no answer from {host}, port {port}, for {timeout_s:g} s"
    if isinstance(error, ConnectionError):
        return f"{host} ended the connection without an answer"
    return f"no route to {host}: {error.strerror or error}"


def open_url(url: str, description: str, timeout_s: float) -> http.client.HTTPResponse:
    """The answer to a GET, with its content unread.

    Args:
        url: http or https; may contain a user and password, for Basic or Digest. They go to its host alone.
        description: of the camera; errors begin with it.
        timeout_s: longest wait for the connection and for the next bytes.

    Raises:
        SourceError: no connection, or the server refuses.
        NotReadError: as it says.
    """
    try:
        return _opener(url).open(_without_user(url), timeout=timeout_s)
    except urllib.error.HTTPError as error:
        with error:
            raise SourceError(f"{description}: cannot be opened: {status_text(error.code)}") from error
    except (OSError, ValueError, IndexError, http.client.HTTPException) as error:  # IndexError: of a damaged challenge
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLError) or not isinstance(reason, OSError):
            raise NotReadError(f"{description}: cannot be opened: {reason}") from error
        parts = urllib.parse.urlsplit(url)
        fault = connection_fault(reason, parts.hostname or "", parts.port or PORTS[parts.scheme], timeout_s)
        raise SourceError(f"{description}: cannot be opened: {fault}") from error


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Answers a request for a password of the URL's host as Digest or Basic; uses no proxy."""
    parts = urllib.parse.urlsplit(url)
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _Redirects()]
    if parts.username is not None:
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        user, password = (urllib.parse.unquote(text or "") for text in (parts.username, parts.password))
        netloc = parts.netloc.rpartition("@")[2]
        # Also for the redirect of a camera to its own https.
        origins = [f"{parts.scheme}://{netloc}/", f"https://{netloc.removesuffix(f':{parts.port}')}/"]
        passwords.add_password(None, origins, user, password)
        handlers += [_Digest(passwords), urllib.request.HTTPBasicAuthHandler(passwords)]
    opener = urllib.request.build_opener(*handlers)
    opener.addheaders = _HEADERS
    return opener
