"""A line with a network camera or a watched folder, and an agent with the shipped bundle and its page."""

import http.client
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from agent_process import AgentProcess
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker, free_port

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "agent/bundles/zsad-tiny"
FPS = 4.0  # of the camera
START_S = 180.0  # the agent needs 4 s on a machine without other work, and 40 s with twenty other processes
BORDER = 60  # pixels around a picture: what the camera sees beside the part


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Pictures of one product, on disk."""

    product: str
    goods: Sequence[Path]  # to teach
    line: Sequence[Path]  # what passes afterwards: good and bad ones
    as_files: bool = False  # they come into a watched folder, else from a network camera


def framed(path: Path) -> bytes:
    """JPEG of the frame of a camera that sees more than the part."""
    picture = cv2.imread(str(path))
    assert picture is not None, path
    frame = cv2.copyMakeBorder(picture, *[BORDER] * 4, cv2.BORDER_CONSTANT, value=(70, 74, 78))
    noise = np.random.default_rng(len(path.name)).integers(0, 12, frame.shape, np.uint8)
    frame[:BORDER] += noise[:BORDER]
    frame[-BORDER:] += noise[-BORDER:]
    return cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


class Station:
    """Runs from `with` on."""

    def __init__(self, folder: Path, parts: Parts, broker: MosquittoBroker) -> None:
        self._folder, self.parts = folder, parts
        self.camera = MjpegServer()
        self.camera.every_s = 1 / FPS
        self.show(parts.goods)
        self.port = free_port()
        self.origin = f"http://127.0.0.1:{self.port}"
        self._files, self._ended = folder / "parts", threading.Event()
        if parts.as_files:
            self._files.mkdir()
            source = f"  source: {self._files}  # above the belt\n  trigger: folder\n"
        else:
            source = f"  source: {self.camera.url}  # above the belt\n  fps: {FPS}\n"
        web = f"web:\n  listen: 127.0.0.1:{self.port}\n"
        self.agent = AgentProcess(folder, BUNDLE, settings=f"mqtt:\n  broker: {broker.url}\nsource:\n{source}{web}")

    def show(self, pictures: Sequence[Path]) -> None:
        """These parts pass, again and again."""
        self.camera.jpegs = [framed(path) for path in pictures]
        self._names = [path.stem for path in pictures]

    def _feed(self) -> None:
        """Writes the parts into the folder, each file whole."""
        for number in itertools.count(1):
            if self._ended.wait(self.camera.every_s):
                return
            jpegs, names = self.camera.jpegs, self._names
            file = self._files / f"{number:04}-{names[number % len(names)]}.jpg"
            file.with_suffix(".part").write_bytes(jpegs[number % len(jpegs)])
            file.with_suffix(".part").rename(file)

    @property
    def config(self) -> str:
        """The text of the config file."""
        return (self._folder / "agent.yaml").read_text()

    def __enter__(self) -> "Station":
        self.camera.__enter__()
        if self.parts.as_files:
            self._feeder = threading.Thread(target=self._feed, daemon=True)
            self._feeder.start()
        self.agent.__enter__()
        until(self.answers, START_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.agent.__exit__()
        self._ended.set()
        self.camera.__exit__()

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", "/api/v1/session")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


def until(met: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    """Waits for a true value and gives it."""
    end_s = time.monotonic() + timeout_s
    while not (found := met()):
        assert time.monotonic() < end_s, f"not met within {timeout_s} s"
        time.sleep(0.1)
    return found
