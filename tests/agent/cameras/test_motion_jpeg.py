"""Motion JPEG over HTTP from servers that write it in all the ways that browsers accept."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from certificate_maker import Authority

from zsad_agent.cameras import motion_jpeg, open_url
from zsad_agent.sources import HttpSource, Picture
from zsad_core.errors import ImageError, SourceError

PATIENT_S = 60.0
GREYS = (40, 120, 200)


def jpeg(grey: int) -> bytes:
    return cv2.imencode(".jpg", np.full((48, 64, 3), grey, np.uint8))[1].tobytes()


def part(content: bytes, *lines: str, delimiter: str = "--frame", newline: str = "\r\n", length: bool = True) -> bytes:
    """A part of the stream with a delimiter in front; `lines`: of its head, without its Content-Length."""
    stated = [f"Content-Length: {len(content)}"] if length else []
    head = newline.join([delimiter, *lines, *stated, "", ""])
    return head.encode() + content + newline.encode()


def parts(*lines: str, last: bytes = b"", **form: object) -> bytes:
    return b"".join(part(jpeg(grey), *lines, **form) for grey in GREYS) + last


def chunked(body: bytes, size: int = 700) -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces)


MIXED = "multipart/x-mixed-replace"
JPEG = "Content-Type: image/jpeg"
PLAIN = f"Content-Type: {MIXED}; boundary=frame"
END = b"--frame\r\n"
# Name -> the head of the answer, and its content, which ends with a picture of the last grey.
ANSWERS: dict[str, tuple[str, bytes]] = {
    "plain": (PLAIN, parts(JPEG)),
    "quoted boundary": (f'Content-Type: {MIXED};boundary="frame"', parts(JPEG)),
    "dashes in the head too": (f"Content-Type: {MIXED}; boundary=--frame", parts(JPEG)),
    "dashes in the head added": (f"Content-Type: {MIXED}; boundary=--frame", parts(JPEG, delimiter="----frame")),
    "no boundary in the head": (f"Content-Type: {MIXED}", parts(JPEG)),
    "another boundary in the head": (f"Content-Type: {MIXED}; boundary=other", parts(JPEG)),
    "other capitals": ("content-type: Multipart/X-Mixed-Replace; Boundary=frame", parts("CONTENT-TYPE:IMAGE/JPEG")),
    "multipart/mixed": ("Content-Type: multipart/mixed; boundary=frame", parts(JPEG)),
    "no length": (PLAIN, parts(JPEG, length=False, last=END)),
    "line feeds": (PLAIN, parts(JPEG, newline="\n")),
    "line feeds, no length": (PLAIN, parts(JPEG, newline="\n", length=False, last=b"--frame\n")),
    "preamble": (PLAIN, b"This is a camera.\r\nhello\r\n\r\n" + parts(JPEG)),
    "empty lines in front": (PLAIN, b"\r\n\r\n" + parts(JPEG)),
    "more head lines": (PLAIN, parts("X-Timestamp: 1.5", JPEG, "X-Motion: a; b=c", "Expires: 0")),
    "no type": (PLAIN, parts()),
    "no type, no length": (PLAIN, parts(length=False, last=END)),
    "no head and no empty line": (PLAIN, b"".join(END + jpeg(grey) for grey in GREYS) + END),
    "unusual type": (PLAIN, parts("Content-Type: application/octet-stream")),
    "no line break at the end": (PLAIN, b"".join(part(jpeg(g), JPEG, length=False)[:-2] for g in GREYS) + END),
    "length too small": (PLAIN, b"".join(part(jpeg(g), JPEG, "Content-Length: 99", length=False) for g in GREYS) + END),
    "length too large": (PLAIN, parts(JPEG, "Content-Length: 99999999", length=False, last=END)),
    "length with the line break": (
        PLAIN,
        b"".join(part(jpeg(g) + b"\r\n", JPEG)[:-2] for g in GREYS),
    ),
    "empty parts": (PLAIN, part(b"", JPEG) + part(b"", length=False) + END + b"\r\n" + parts(JPEG) + part(b"", JPEG)),
    "text parts": (
        PLAIN,
        part(b"motion: 0", "Content-Type: text/plain") + parts(JPEG) + part(b"{}", "Content-Type: application/json"),
    ),
    "every part is the last": (PLAIN, parts(JPEG, delimiter="--frame--", length=False, last=END)),
    "blanks after the delimiter": (PLAIN, parts(JPEG, delimiter="--frame \t")),
    "png": (
        PLAIN,
        part(cv2.imencode(".png", np.full((48, 64, 3), GREYS[-1], np.uint8))[1].tobytes(), "Content-Type: image/png"),
    ),
    "chunked": (f"{PLAIN}\r\nTransfer-Encoding: chunked", chunked(parts(JPEG))),
    "chunked, no length": (f"{PLAIN}\r\nTransfer-Encoding: chunked", chunked(parts(JPEG, length=False, last=END))),
    "ends with the last picture": (f"{PLAIN}\r\nConnection: close", parts(JPEG, length=False) + b"--frame--"),
}


class RawServer:
    """Answers each request with bytes that `answer` gives for its path and its header text, in small pieces."""

    def __init__(self, answer: Callable[[str, str], Iterator[bytes]], tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self._answer = answer
        self._stop = threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self._tls = tls
        self.port = self._server.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}/video"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "RawServer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), self._tls.wrap_socket(client, True) if self._tls else client as client:
            request = client.recv(65_536).decode()
            self.requests.append(request)
            for piece in self._answer((request.split() or ["", ""])[1], request):
                client.sendall(piece)
            if b"Connection: close" not in piece:
                self._stop.wait(PATIENT_S)


def http(head: str, content: bytes = b"", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}\r\n\r\n".encode() + content


def serving(head: str, content: bytes) -> RawServer:
    return RawServer(lambda path, request: iter([http(head, content)]))


def source_of(url: str, timeout_s: float = PATIENT_S) -> HttpSource:
    return HttpSource(url, every_s=0.01, timeout_s=timeout_s)


def read_until(source: HttpSource, grey: int) -> Picture:
    while True:
        picture = source.read()
        assert picture is not None
        if abs(float(picture.image.mean()) - grey) < 4:
            return picture


@pytest.mark.parametrize("name", ANSWERS)
def test_what_browsers_read_is_read(name: str) -> None:
    with serving(*ANSWERS[name]) as server, source_of(server.url) as source:
        assert read_until(source, GREYS[-1]).image.shape == (48, 64, 3)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "bad", [jpeg(10)[:-300], jpeg(10)[: len(jpeg(10)) // 2] + b"\xff\xd9", b"no picture", jpeg(10)[::-1]]
)
@pytest.mark.parametrize("length", [True, False])
def test_damaged_picture_is_refused_and_the_next_one_is_read(bad: bytes, length: bool) -> None:
    gate = threading.Event()

    def answer(path: str, request: str) -> Iterator[bytes]:
        yield http(PLAIN, part(jpeg(GREYS[0]), JPEG) + part(bad, JPEG, length=length) + END)
        gate.wait(PATIENT_S)
        yield f"{JPEG}\r\n\r\n".encode() + jpeg(GREYS[-1]) + END

    with RawServer(answer) as server, source_of(server.url) as source:
        with pytest.raises(ImageError, match="stream http"):
            read_until(source, 0)
        gate.set()
        read_until(source, GREYS[-1])
    assert len(server.requests) == 1


def test_the_newest_picture_counts_and_the_others_are_counted() -> None:
    sent = threading.Event()

    def answer(path: str, request: str) -> Iterator[bytes]:
        yield http(PLAIN)
        for grey in greys:
            yield part(jpeg(grey), JPEG)
        sent.set()

    greys = (*range(0, 196, 4), GREYS[-1])
    with RawServer(answer) as server, source_of(server.url) as source:
        assert sent.wait(PATIENT_S)
        time.sleep(0.3)  # the reader skips meanwhile; the sum below is right without it
        counted = 0
        while counted < len(greys):
            picture = source.read()
            assert picture is not None
            counted += 1 + picture.skipped
    assert counted == len(greys)
    assert abs(float(picture.image.mean()) - greys[-1]) < 4


@pytest.mark.parametrize(
    ("head", "content", "message"),
    [
        (PLAIN, parts(JPEG), "no frame for 1 s"),
        (PLAIN, b"", "no frame for 1 s"),
        (f"{PLAIN}\r\nConnection: close", parts(JPEG), "the connection ended"),
        (f"{PLAIN}\r\nContent-Length: 9\r\nConnection: close", b"--frame\r\n", "the connection ended"),
        (f"Content-Type: {MIXED}", b"hello\r\n" + jpeg(9), "no boundary between its parts"),
        (PLAIN, part(b"", JPEG, length=False) + bytes(400_000), "more than 300000 bytes without a delimiter"),
        (PLAIN, END + b"X: y\r\n" * 20_000, "the head of a part does not end"),
        (PLAIN, b"x" * 100_000, "a line of more than 65536 bytes"),
        (PLAIN, b"\r\n" * 100_000, "more than 65536 bytes without a boundary"),
        (PLAIN, b"hello\r\n" * 20_000, "more than 65536 bytes without a delimiter"),
    ],
)
def test_stream_without_end_or_order_is_lost(
    monkeypatch: pytest.MonkeyPatch, head: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(motion_jpeg, "MOST_BYTES", 300_000)
    with (
        serving(head, content) as server,
        source_of(server.url, timeout_s=1.0 if "1 s" in message else PATIENT_S) as source,
        pytest.raises(SourceError, match=message),
    ):
        for _ in range(1000):
            source.read()


def test_redirect_is_followed_and_another_host_gets_no_password() -> None:
    def answer(path: str, request: str) -> Iterator[bytes]:
        if path == "/video":
            yield http("Location: /live/1", status="302 Found")
        elif path == "/live/1" and "Authorization: Basic bGluZTpzZWNyZXQ=" not in request:
            yield http('WWW-Authenticate: Basic realm="camera"', status="401 Unauthorized")
        elif path == "/live/1":
            yield http(PLAIN, parts(JPEG))
        else:
            yield http(f"Location: http://localhost:{other.port}/video", status="302 Found")
        yield b"Connection: close"

    def stranger(path: str, request: str) -> Iterator[bytes]:
        yield http('WWW-Authenticate: Basic realm="camera"', status="401 Unauthorized") + b"Connection: close"

    with RawServer(answer) as server, RawServer(stranger) as other:
        address = f"http://line:secret@127.0.0.1:{server.port}"
        with source_of(f"{address}/video") as source:
            read_until(source, GREYS[-1])
        with pytest.raises(SourceError, match="the server answers 401") as caught, source_of(f"{address}/away"):
            pass
        assert "secret" not in str(caught.value)
        assert other.requests and not any("Authorization" in request for request in other.requests)


def test_closing_ends_the_thread_of_a_server_that_drips() -> None:
    def answer(path: str, request: str) -> Iterator[bytes]:
        yield http(f"{PLAIN}\r\nTransfer-Encoding: chunked")
        while True:
            time.sleep(0.05)
            yield b"0"  # of the length of a chunk, which never ends

    before = set(threading.enumerate())
    with RawServer(answer) as server, source_of(server.url, timeout_s=1.0) as source:
        with pytest.raises(SourceError, match="no frame for 1 s"):
            source.read()
        (reader,) = [one for one in set(threading.enumerate()) - before if "_read" in one.name]
    reader.join(PATIENT_S)
    assert not reader.is_alive()


@pytest.mark.parametrize("challenge", ["Digest realm=", "Digest", 'Digest realm="a", nonce=', "Other x"])
def test_damaged_challenge_is_an_error_of_the_camera(challenge: str) -> None:
    def answer(path: str, request: str) -> Iterator[bytes]:
        yield http(f"WWW-Authenticate: {challenge}\r\nConnection: close", status="401 Unauthorized")

    with RawServer(answer) as server, pytest.raises(SourceError):
        open_url(server.url.replace("://", "://line:secret@"), "camera", PATIENT_S)


def test_redirect_from_https_to_http_or_to_ftp_is_not_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    targets: list[str] = []

    def answer(path: str, request: str) -> Iterator[bytes]:
        yield http(f"Location: {targets[-1]}\r\nConnection: close", status="302 Found")

    with serving(PLAIN, parts(JPEG)) as plain, RawServer(answer, context) as secure:
        for target in (plain.url, f"ftp://127.0.0.1:{plain.port}/video"):
            targets.append(target)
            with pytest.raises(SourceError, match="its redirect leads nowhere"), source_of(secure.url):
                pass
        assert plain.requests == []


@pytest.mark.parametrize("trusted", [True, False])
def test_https_is_read_with_a_trusted_certificate_and_otherwise_with_ffmpeg(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, trusted: bool
) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("camera")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert))
    with (
        RawServer(lambda path, request: iter([http(PLAIN, parts(JPEG, last=END))]), context) as server,
        source_of(server.url) as source,
    ):
        read_until(source, GREYS[-1])
    assert len(server.requests) == 1
    assert ("zsad-agent" in server.requests[0]) == trusted
