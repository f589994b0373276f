"""Addresses that answer one picture per request, from a local server."""

import base64
import hashlib
import http.server
import re
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from zsad_agent.cameras import SnapshotCamera
from zsad_agent.config import SourceConfig
from zsad_agent.sources import make_source
from zsad_core.errors import ImageError, SourceError

USER, PASSWORD = "line", "p@ss:word"


class SnapshotServer:
    """Answers each GET with a new picture. The attributes can be changed at any time."""

    def __init__(self) -> None:
        self.status = 200
        self.kind = "image/jpeg"
        self.auth: str | None = None  # Basic, Digest or Digest SHA-256
        self.cut = False  # half of each picture, with the whole length stated
        self.stalled = False
        self.content: bytes | None = None  # instead of a made picture
        self.requests = 0  # that were answered with a picture
        self._stop = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.stalled:
                    outer._stop.wait(30)
                    return
                if outer.auth is not None and not outer._knows(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    scheme, _, algorithm = outer.auth.partition(" ")
                    challenge = 'realm="camera"' + (', nonce="abc", qop="auth"' if scheme == "Digest" else "")
                    challenge += f", algorithm={algorithm}" if algorithm else ""
                    self.send_header("WWW-Authenticate", f"{scheme} {challenge}")
                    self.end_headers()
                    return
                outer.requests += 1
                body = outer._picture()
                self.send_response(outer.status)
                self.send_header("Content-Type", outer.kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if outer.cut else body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}/snap.jpg?channel=1"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def close(self) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def _picture(self) -> bytes:
        if self.content is not None:
            return self.content
        image = np.full((48, 64, 3), 100, np.uint8)
        image[:24] = 10 * (self.requests % 20)
        return cv2.imencode(".png" if "png" in self.kind else ".jpg", image)[1].tobytes()

    def _knows(self, header: str) -> bool:
        scheme, _, rest = header.partition(" ")
        if self.auth is None or scheme != self.auth.partition(" ")[0]:
            return False
        if scheme == "Basic":
            return base64.b64decode(rest).decode() == f"{USER}:{PASSWORD}"
        given = {key: quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', rest)}

        algorithm = "sha256" if self.auth.endswith("SHA-256") else "md5"

        def digest(text: str) -> str:
            return hashlib.new(algorithm, text.encode()).hexdigest()

        secret, what = digest(f"{USER}:camera:{PASSWORD}"), digest(f"GET:{given['uri']}")
        return given["response"] == digest(f"{secret}:abc:{given['nc']}:{given['cnonce']}:auth:{what}")


@pytest.fixture
def server() -> Iterator[SnapshotServer]:
    server = SnapshotServer()
    yield server
    server.close()


def snapshots(url: str, every_s: float = 0.0, timeout_s: float = 60.0) -> SnapshotCamera:
    camera = SnapshotCamera(url, every_s=every_s, timeout_s=timeout_s)
    camera.open()
    return camera


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png"])
def test_each_frame_is_a_new_request(server: SnapshotServer, kind: str) -> None:
    server.kind = kind
    camera = snapshots(server.url)
    levels = [round(float(camera.next_frame().image[0].mean()), -1) for _ in range(4)]
    assert levels == [10, 20, 30, 40]
    assert server.requests == 4


def test_requests_keep_their_distance(server: SnapshotServer) -> None:
    camera = snapshots(server.url, every_s=0.2)
    began_s = time.monotonic()
    for _ in range(4):
        camera.next_frame()
    assert time.monotonic() - began_s > 0.5
    assert server.requests == 4


@pytest.mark.parametrize("auth", ["Basic", "Digest", "Digest SHA-256"])
def test_user_and_password_are_sent_and_never_shown(server: SnapshotServer, auth: str) -> None:
    server.auth = auth
    camera = snapshots(f"http://{USER}:p%40ss%3Aword@{server.address}")
    assert camera.next_frame().image.shape == (48, 64, 3)
    assert "word" not in camera.description
    with pytest.raises(SourceError, match="401: wrong user name or password") as caught:
        snapshots(f"http://{USER}:wrongsecret@{server.address}")
    assert "wrongsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 404}, "the server answers 404: there is no such path"),
        ({"status": 500}, "the server answers 500: it cannot give"),
        ({"auth": "Basic"}, "the server answers 401: wrong user name or password, or none given"),
        ({"kind": "text/html"}, "answers text/html, not a picture: check its path"),
        ({"kind": "multipart/x-mixed-replace"}, "not a picture: without snapshot: true if this is a video"),
        ({"stalled": True}, "no answer from 127.0.0.1, port .*, for 1 s"),
    ],
)
def test_why_there_is_no_picture_is_named(server: SnapshotServer, changes: dict[str, object], message: str) -> None:
    for name, value in changes.items():
        setattr(server, name, value)
    with pytest.raises(SourceError, match=message):
        snapshots(server.url, timeout_s=1.0 if "1 s" in message else 60.0)


def test_refused_connection_is_named(server: SnapshotServer) -> None:
    url = server.url
    server.close()
    with pytest.raises(SourceError, match=r"cannot be opened: refused: nothing listens on port"):
        snapshots(url)


def test_damaged_picture_is_refused_and_the_next_one_is_read(server: SnapshotServer) -> None:
    camera = snapshots(server.url)
    camera.next_frame()
    server.cut = True
    with pytest.raises(ImageError, match=r"\d+ of \d+ bytes arrived"):
        camera.next_frame()
    server.cut = False
    whole = server._picture()
    server.content = whole[:-200]
    with pytest.raises(ImageError, match="truncated"):
        camera.next_frame()
    server.content = b"no picture"
    with pytest.raises(ImageError, match="not an image"):
        camera.next_frame()
    server.content = None
    assert camera.next_frame().image.shape == (48, 64, 3)


def test_camera_that_answers_again_is_read_by_the_source_of_the_config(server: SnapshotServer) -> None:
    source = make_source(SourceConfig(source=server.url, snapshot=True, fps=50.0, stale_after_s=10.0))
    with source:
        assert source.read() is not None
        server.status = 503
        with pytest.raises(SourceError, match="503"):
            for _ in range(1000):
                source.read()
    server.status = 200
    with source:
        picture = source.read()
        assert picture is not None
        assert picture.image.shape == (48, 64, 3)


def test_address_that_answers_a_picture_is_asked_again_without_the_setting(server: SnapshotServer) -> None:
    with make_source(SourceConfig(source=server.url, fps=50.0, stale_after_s=10.0)) as source:
        levels = {round(float(source.read().image[0].mean()), -1) for _ in range(4)}
    assert len(levels) == 4
