"""Network streams in a camera process, from real servers."""

import contextlib
import errno
import http.server
import re
import socket
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from camera_process_tools import PATIENT_S, children, stream
from cracked_parts import CRACKED, saved
from mjpeg_server import MjpegServer
from PIL import Image
from scripted_camera import SECRET

from zsad_agent.config import SourceConfig
from zsad_agent.sources import GrabberSource, StreamSource, camera, make_source
from zsad_core.errors import ImageError, SourceError


def test_credentials_reach_the_camera_but_not_the_list_of_processes() -> None:
    with MjpegServer() as server:
        server.password = SECRET
        url = f"http://user:{SECRET}@{server.address}"
        with GrabberSource(StreamSource(url, timeout_s=PATIENT_S), stale_after_s=PATIENT_S) as source:
            source.read()
            (child,) = children()
            assert SECRET not in " ".join(child.cmdline()) + str(child.environ())
        with pytest.raises(SourceError, match="cannot be opened"), stream(server):
            pass


def test_escaped_password_reaches_the_camera_as_it_is() -> None:
    with MjpegServer() as server:
        server.password = "p#/?@%:[ä]"
        url = f"http://user:{urllib.parse.quote(server.password, safe='')}@{server.address}"
        with make_source(SourceConfig(source=url, stale_after_s=PATIENT_S)) as source:
            assert source.read() is not None


class Refusal(socketserver.BaseRequestHandler):
    """Answers every HTTP or RTSP request with the status in its path; `silent` gets no answer."""

    def handle(self) -> None:
        while request := self.request.recv(4096).decode():
            url, protocol = request.split()[1:3]
            sequence = re.search(r"CSeq: \d+\r\n", request)
            status = "200 OK" if request.startswith("OPTIONS") else f"{url.rpartition('/')[2]} No"
            if url.endswith("silent"):
                self.request.recv(1)
            ask = 'WWW-Authenticate: Digest realm="x", nonce="y"\r\n' if "401" in status else ""
            self.request.sendall(f"{protocol} {status}\r\n{sequence[0] if sequence else ''}{ask}\r\n".encode())
            if protocol.startswith("HTTP"):
                return


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusal) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("scheme", ["http", "rtsp"])
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("127.0.0.1:{port}/401", "the server answers 401: wrong user name or password"),
        ("127.0.0.1:{port}/403", "the server answers 403: this user may not see the stream"),
        ("127.0.0.1:{port}/404", "the server answers 404: there is no such path"),
        ("127.0.0.1:{port}/503", "the server answers 503: it cannot give this stream now"),
        ("127.0.0.1:{port}/200", "the server can be reached, but gave no video"),
        ("127.0.0.1:{port}/silent", "the server can be reached, but gave no video"),
        ("127.0.0.1:9/x", r"refused: nothing listens on port 9 of 127\.0\.0\.1"),
        ("camera.invalid/x", r"no address is known for the host 'camera\.invalid'"),
    ],
)
def test_error_of_a_stream_that_cannot_be_opened_has_the_reason(
    refusing_port: int, scheme: str, place: str, reason: str
) -> None:
    url = f"{scheme}://user:{SECRET}@{place.format(port=refusing_port)}"
    limit_s = 2.0 if "gave no video" in reason else PATIENT_S
    source = GrabberSource(StreamSource(url, timeout_s=limit_s), stale_after_s=limit_s)
    with pytest.raises(SourceError, match=f"cannot be opened: {reason}") as caught, source:
        pass
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "no answer from cam, port 554, for 2 s"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to cam: No route to host"),
    ],
)
def test_unreachable_host_and_silent_host_have_different_messages(
    monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert camera._why_not_opened("rtsp://cam/x", "", 2.0) == reason


def read_until(source: GrabberSource, done: Callable[[np.ndarray], bool]) -> np.ndarray:
    deadline_s = time.monotonic() + PATIENT_S
    while time.monotonic() < deadline_s:
        if done(frame := source.read().image):
            return frame
    raise AssertionError(f"the frames did not become so in {PATIENT_S} s; the last has {frame.shape}, {frame.mean()}")


def test_stream_that_stalls_is_lost_in_time_and_back_when_it_flows_again() -> None:
    with MjpegServer() as server:
        source = stream(server, stale_after_s=3.0)
        with source:
            source.read()
            server.stalled = True
            with pytest.raises(SourceError, match=r"no frame for 3 s|no more frames"):
                for _ in range(1000):
                    source.read()
        with pytest.raises(SourceError, match=r"cannot be opened|not open"), source:
            pass
        server.stalled = False
        with source:
            source.read()
    assert children() == []


def test_stream_whose_connection_ends_is_lost_and_back() -> None:
    with MjpegServer() as server:
        source = stream(server)
        with source:
            source.read()
            server.cut()
            with pytest.raises(SourceError, match="gives no more frames"):
                for _ in range(1000):
                    source.read()
        server.refusing = True
        with pytest.raises(SourceError, match="cannot be opened"), source:
            pass
        server.refusing = False
        with source:
            source.read()


def test_damaged_pictures_of_a_stream_are_reported_and_later_ones_are_read() -> None:
    with MjpegServer() as server:
        server.grey = 10
        with stream(server) as source:
            source.read()
            server.garbage_frames(5)
            server.grey = 200
            damaged, picture = [], None
            while picture is None or picture.image.mean() < 150:
                try:
                    picture = source.read()
                except ImageError as error:
                    damaged.append(str(error))
                    continue
                damaged += [picture.damage] * picture.damaged  # a newer picture replaced them
            assert 1 <= len(damaged) <= 5 and server.clients == 1
            assert all("not an image that OpenCV can decode" in text for text in damaged)


def test_stream_without_any_valid_picture_is_lost() -> None:
    with MjpegServer() as server, stream(server) as source:
        source.read()
        server.garbage_frames(100_000)
        with pytest.raises(SourceError, match="or damaged, like the 24 frames before it"):
            for _ in range(1000):
                with contextlib.suppress(ImageError):
                    source.read()


class Still(http.server.BaseHTTPRequestHandler):
    """Answers with a picture of the format in its path, or with the first half of one: `/half.gif`."""

    def do_GET(self) -> None:
        share, _, kind = self.path.strip("/").partition(".")
        data = saved(Image.open(CRACKED).convert("P"), kind.upper())
        data = data[: len(data) // 2] if share == "half" else data
        self.send_response(200)
        self.send_header("Content-Type", f"image/{kind}")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("path", ["half.gif", "whole.gif", "whole.bmp", "whole.tiff"])
def test_still_picture_is_checked_like_a_file(path: str) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Still) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path}"
        with make_source(SourceConfig(source=url, stale_after_s=PATIENT_S)) as source:
            damaged = pytest.raises(ImageError, match="half") if "half" in path else contextlib.nullcontext()
            with damaged:
                assert source.read() is not None
        server.shutdown()


def test_motion_jpeg_stream_that_changes_its_size_is_read_at_the_new_one() -> None:
    with MjpegServer() as server, stream(server) as source:
        assert source.read().image.shape == (48, 64, 3)
        server.wh = (320, 240)
        read_until(source, lambda frame: frame.shape == (240, 320, 3))
        assert server.clients == 1
