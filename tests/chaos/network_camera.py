"""A scripted network camera: images over HTTP as multipart JPEG, or faulty data."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal, Self

import cv2
import numpy as np

Mode = Literal["good", "hang", "garbage", "half a picture", "another size", "end", "slow", "frozen"]
SLOW_S = 0.25  # between two images
GARBAGE = np.random.default_rng(7).bytes(4000)
HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\nConnection: close\r\n\r\n"


class MjpegServer:
    """Every client gets its own sequence of images, `fps` a second, each different from the one before.

    Args:
        fps: images a second for each client.
        side: of the square image, pixels.
        good: images to show in turn instead of grainy bright ones, uint8 BGR [H, W, 3].
    """

    def __init__(self, *, fps: float = 25.0, side: int = 64, good: Sequence[np.ndarray] | None = None) -> None:
        self.mode: Mode = "good"
        self.alter: Callable[[np.ndarray], np.ndarray] | None = None  # changes a good image
        self.clients = 0  # number of all clients so far
        self._period_s = 1 / fps
        self._pictures = [_picture(side, index) for index in range(32)] if good is None else list(good)
        self._good = [_encode(picture) for picture in self._pictures]
        self._other = [_encode(_picture(side * 3 // 2, index)) for index in range(32)]
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}/video"
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self.clients += 1
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            if self.mode == "end":
                return
            client.sendall(HEADER)
            due_s = time.monotonic()
            for number in itertools.count():
                mode = self.mode
                if self._stopping.is_set() or mode == "end":
                    return
                if mode != "hang":
                    client.sendall(_part(self._body(mode, number)))
                due_s = max(due_s + (SLOW_S if mode == "slow" else self._period_s), time.monotonic() - 1.0)
                self._stopping.wait(max(0.0, due_s - time.monotonic()))

    def _body(self, mode: Mode, number: int) -> bytes:
        alter = self.alter
        if alter is not None:
            return _encode(alter(self._pictures[number % len(self._pictures)]))
        good = self._good[number % len(self._good)]
        if mode == "garbage":
            return GARBAGE
        if mode == "half a picture":
            return good[: len(good) // 2]
        if mode == "another size":
            return self._other[number % len(self._other)]
        return self._good[0] if mode == "frozen" else good


def _part(body: bytes) -> bytes:
    return b"--part\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(body), body)


def _picture(side: int, index: int) -> np.ndarray:
    """A grainy bright part without a defect, uint8 BGR [side, side, 3]."""
    grain = np.random.default_rng(index).integers(0, 40, (side, side, 3), dtype=np.uint8)
    return 250 - grain


def _encode(image_bgr: np.ndarray) -> bytes:
    encoded, jpeg = cv2.imencode(".jpg", image_bgr)
    assert encoded
    return jpeg.tobytes()
