"""A network camera: motion JPEG over HTTP that can stall, send bad data, change its size, and refuse clients."""

import base64
import http.server
import threading
from collections.abc import Sequence
from typing import Self

import cv2
import numpy as np

BOUNDARY = "frame"


class MjpegServer:
    """Streams to every client. The attributes control the stream and can be changed at any time."""

    def __init__(self) -> None:
        self.wh = (64, 48)
        self.every_s = 0.02
        self.stalled = False  # keeps connections open and sends nothing
        self.refusing = False  # new connections get 503
        self.grey: int | None = None  # grey level of every frame; None: it counts up
        self.left_grey: int | None = None  # grey level of the left half; None: like the rest
        self.jpegs: Sequence[bytes] = ()  # pictures that are sent in turn in place of the made ones
        self.clients = 0  # number of connections so far
        self.password: str | None = None  # password of any user; None: no password
        self._garbage = 0  # number of next frames that are not JPEG
        self._cut = 0  # number of cuts; each ends all older connections
        self._stop = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.password is not None and not outer._knows_password(self.headers.get("Authorization", "")):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="camera"')
                    self.end_headers()
                    return
                if outer.refusing:
                    self.send_error(503)
                    return
                outer.clients += 1
                self.send_response(200)
                self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
                self.end_headers()
                outer._stream(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._server.server_port}/stream.mjpg"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def cut(self) -> None:
        """Ends all connections."""
        self._cut += 1

    def garbage_frames(self, count: int) -> None:
        """Makes the next `count` frames bytes that are not JPEG."""
        self._garbage = count

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()

    def _knows_password(self, authorization: str) -> bool:
        _, _, encoded = authorization.partition(" ")
        return base64.b64decode(encoded).decode().partition(":")[2] == self.password

    def _stream(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        cut, index = self._cut, 0
        try:
            while not self._stop.wait(self.every_s) and cut == self._cut:
                if self.stalled:
                    continue
                body = self._encode(index)
                if self._garbage > 0:
                    self._garbage -= 1
                    body = body[::-1]
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
                handler.wfile.write(head.encode() + body + b"\r\n")
                index += 1
        except OSError:  # the client has disconnected
            pass

    def _encode(self, index: int) -> bytes:
        if self.jpegs:
            return self.jpegs[index % len(self.jpegs)]
        grey = index % 251 if self.grey is None else self.grey
        image = np.full((self.wh[1], self.wh[0], 3), grey, np.uint8)
        image[self.wh[1] // 3 : self.wh[1] // 2] = min(255, grey + 60)  # a picture without structure is unknown
        if self.left_grey is not None:
            image[:, : self.wh[0] // 2] = self.left_grey
        return cv2.imencode(".jpg", image)[1].tobytes()
