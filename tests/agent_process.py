"""The agent as a separate process, with its state in a folder of the test."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np

DEVICE = "line3"
STOP_S = 20.0  # for a stop that takes 2 s on a machine without other work. What hangs takes longer or does not end
_RESULT_LINE = re.compile(r"(\d\d:\d\d:\d\d\.\d{3}Z) (\S+) #(\d+) ")


class AgentProcess:
    """Runs `zsad-agent` with the given arguments, and `folder` for config, spool and cache.

    Args:
        settings: further sections of its config, YAML.
        wrapper: start of the command line, e.g. `ip netns exec NAME`.
    """

    def __init__(
        self,
        folder: Path,
        bundle: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        settings: str = "",
        wrapper: Sequence[str] = (),
        device_id: str = DEVICE,
    ) -> None:
        self.folder = folder
        config = folder / "agent.yaml"
        ours = f"device_id: {device_id}\ninference:\n  bundle: {bundle}\n  threads: 1\n"
        if "http:" not in settings:
            ours += 'http:\n  listen: "off"\n'  # several agents would use the same port
        config.write_text(ours + settings)
        self._command = [*wrapper, sys.executable, "-m", "zsad_agent.cli", "--config", str(config), *arguments]
        self._environment = {
            **{name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")},
            "STATE_DIRECTORY": str(folder / "state"),
            "CACHE_DIRECTORY": str(folder / "cache"),
            **(environment or {}),
        }
        self._lines: list[str] = []
        self._arrived = threading.Condition()
        self.printed: list[tuple[str, str, int]] = []  # (time of day, camera, seq) of each line of --print-results

    @property
    def spool(self) -> Path:
        return self.folder / "state" / "spool.sqlite3"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> str:
        """stdout and stderr so far."""
        with self._arrived:
            return "".join(self._lines)

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def wait(self, timeout_s: float = 120.0) -> int:
        """Waits for the end; gives the exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(60)
        return code

    def wait_for_output(self, text: str, timeout_s: float = 120.0) -> None:
        with self._arrived:
            met = self._arrived.wait_for(lambda: text in "".join(self._lines), timeout_s)
        assert met, f"{text!r} did not appear in:\n{self.output}"

    def terminate(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Sends the signal and waits; gives exit code and duration in seconds."""
        started_s = time.monotonic()
        self._process.send_signal(how)
        code = self._process.wait(60)
        spent_s = time.monotonic() - started_s
        self._reader.join(60)
        return code, spent_s

    def kill(self) -> None:
        """kill -9; returns after the process has ended and all its output is read."""
        self._process.kill()
        self._process.wait(60)
        self._reader.join(60)

    def signal(self, how: signal.Signals) -> None:
        """Sends the signal and does not wait."""
        self._process.send_signal(how)

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._arrived:
                if found := _RESULT_LINE.match(line):
                    self.printed.append((found[1], found[2], int(found[3])))
                self._lines.append(line)
                self._arrived.notify_all()


def write_line_video(path: Path, frames: int, defect_every: int = 5) -> Path:
    """White images, every fifth with a black blot, starting with the first."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (320, 240))
    assert writer.isOpened()
    for index in range(frames):
        image = np.full((240, 320, 3), 250, np.uint8)
        cv2.circle(image, (160, 120), 100, (200, 200, 200), 5)  # a picture without structure is unknown
        if index % defect_every == 0:
            image[60:120, 80:160] = 0
        writer.write(image)
    writer.release()
    return path
