"""Reads a live source in a separate process, which can be killed when a driver or decoder hangs."""

import contextlib
import json
import math
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Self

import numpy as np

from zsad_agent.sources.camera_worker import MESSAGE_BYTES
from zsad_agent.sources.source import Picture, Source
from zsad_core.errors import ImageError, SourceError

START_S = 10.0  # for the process to start from a slow disk; added to `stale_after_s`, the wait for the camera
LEAVE_S = 0.3  # longest wait for the process to close the camera
LOOK_S = 0.1  # between two looks whether the agent stops, while a camera is silent
DIE_S = 0.5  # longest wait for a killed process to end; a driver in uninterruptible sleep can hold it longer


class CameraProcess:
    """One `camera_worker` process, the connection to it, and the file in memory for its frames."""

    def __init__(self, source: Source, stale_after_s: float) -> None:
        """Starts the process, which then opens the source.

        Raises:
            OSError: no process, memory or file descriptor is left.
        """
        self._description = source.description
        with ExitStack() as on_failure, ExitStack() as handed_over:
            self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_failure.callback(self._connection.close)
            handed_over.callback(theirs.close)
            self._memory_fd = os.memfd_create("zsad-frame")
            on_failure.callback(os.close, self._memory_fd)
            self._connection.send(pickle.dumps((stale_after_s, pickle.dumps(source))))
            fds = (theirs.fileno(), self._memory_fd)
            self._popen = subprocess.Popen(
                # -P: do not import from the current folder
                [sys.executable, "-P", "-m", "zsad_agent.sources.camera_worker", *map(str, fds), str(os.getpid())],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders write to it, some of them the URL with its credentials
                env={
                    "OPENBLAS_NUM_THREADS": "1",  # else NumPy starts one thread per core
                    "MALLOC_ARENA_MAX": "1",  # else every thread of FFmpeg reserves 128 MB
                    **os.environ,
                    "OPENCV_FFMPEG_LOGLEVEL": "24",  # FFmpeg also logs why a server refuses the stream
                },
            )
            on_failure.pop_all()

    @property
    def hold(self) -> str:
        """The message for a process that was killed and has not ended."""
        return (
            f"the driver still holds the device: process {self._popen.pid} was killed and does not end. "
            "Unplug the camera, or restart the machine if that does not help"
        )

    def ask(self) -> None:
        """Requests the next frame. Receive the answer before the next request."""
        with contextlib.suppress(OSError):  # the process has ended: `receive` reports why
            self._connection.send(b"next")

    def receive(self, deadline_s: float) -> dict[str, Any]:
        """The next message of the process.

        Raises:
            TimeoutError: none arrived until `deadline_s` of the monotonic clock.
            SourceError: the process reports that the source is lost, or has ended.
        """
        self._connection.settimeout(max(deadline_s - time.monotonic(), 0.001))  # 0 would make the socket non-blocking
        answer: dict[str, Any] = {}
        with contextlib.suppress(ConnectionError):
            if message := self._connection.recv(MESSAGE_BYTES):
                answer = json.loads(message)
        if not answer:
            raise SourceError(f"{self._description}: the camera process {self._cause_of_death()}")
        if "error" in answer:
            raise SourceError(answer["error"])
        return answer

    def frame(self, shape: Sequence[int]) -> np.ndarray:
        """A copy of the latest received frame: uint8 of `shape`, BGR [H, W, 3]."""
        image = np.empty(shape, np.uint8)
        left, offset = image.data.cast("B"), 0
        while offset < len(left):
            taken = os.preadv(self._memory_fd, [left[offset:]], offset)
            if taken == 0:
                raise SourceError(f"{self._description}: the camera process gave {offset} of {len(left)} bytes")
            offset += taken
        return image

    def end(self, grace_s: float) -> bool:
        """Closes the connection, so that the process ends; kills it after `grace_s`. False if it is still running."""
        self._connection.close()
        os.close(self._memory_fd)
        if grace_s > 0 and self.gone_within(grace_s):
            return True
        self._popen.kill()
        return self.gone_within(DIE_S)

    def gone_within(self, seconds: float) -> bool:
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _cause_of_death(self) -> str:
        if not self.gone_within(DIE_S):
            return "closed its connection"
        code = self._popen.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        if code == -signal.SIGKILL:
            return "was killed, for example by the kernel because the machine has too little memory"
        return "was killed by " + next((known.name for known in signal.Signals if known == -code), f"signal {-code}")


class GrabberSource:
    """The newest frames of `source`, read in a process that runs from `__enter__` to `__exit__`.

    One thread must make all calls: the process ends together with the thread that started it.
    """

    lossless, endless = False, True

    def __init__(
        self,
        source: Source,
        *,
        stale_after_s: float,
        stop: threading.Event | None = None,
        may_be_silent: bool = False,
    ) -> None:
        """Starts nothing.

        Args:
            source: is pickled and opened in the process.
            stale_after_s: longest wait for one frame.
            may_be_silent: True: a frame may take any time, because a sensor of the line triggers it. The source itself
                notices that the camera is lost.
            stop: when it is set, an opening or a read that waits for the camera fails soon.
        """
        self.description = source.description
        self._stop = stop or threading.Event()
        self._source = source
        self._stale_after_s = stale_after_s
        self._longest_wait_s = math.inf if may_be_silent else stale_after_s
        self._process: CameraProcess | None = None
        self._undead: CameraProcess | None = None  # killed, but held by a driver
        self._skipped = 0  # frames since the opening that a newer one replaced before they were read
        self._damaged = 0  # frames since the opening that are reported as damaged

    def __enter__(self) -> Self:
        if self._undead is not None and not self._undead.gone_within(0):
            raise SourceError(f"{self.description}: {self._undead.hold}")
        self._undead = None
        self._skipped = self._damaged = 0
        try:
            self._process = CameraProcess(self._source, self._stale_after_s)
        except OSError as error:
            raise SourceError(f"{self.description}: no process can be started for it: {error}") from error
        limit_s = START_S + self._stale_after_s
        try:
            self._receive(self._process, time.monotonic() + limit_s, f"not open after {limit_s:g} s")
        except BaseException:
            self._end(LEAVE_S)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end(LEAVE_S)

    def read(self) -> Picture:
        """The newest frame that was not read yet; waits for one. Never None: a live source has no end.

        Raises:
            ImageError: this frame is damaged.
            SourceError: the source is lost, or no frame came in time and the process was killed.
        """
        process = self._process
        if process is None:
            raise ValueError(f"{self.description}: read while it is not open")
        deadline_s = time.monotonic() + self._longest_wait_s
        while True:
            process.ask()
            answer = self._receive(process, deadline_s, f"no frame for {self._stale_after_s:g} s")
            if "bad_picture" in answer:
                self._damaged += 1
                raise ImageError(answer["bad_picture"])
            if time.monotonic() - answer["at_s"] <= self._stale_after_s:  # else the frame is too old
                break
        image = process.frame(answer["shape"])
        skipped, damaged = answer["skipped"] - self._skipped, answer["damaged"] - self._damaged
        self._skipped, self._damaged = answer["skipped"], answer["damaged"]
        return Picture(
            image=image,
            captured_monotonic_s=answer["at_s"],
            skipped=skipped,
            damaged=damaged,
            damage=answer["damage"] if damaged else None,
        )

    def _receive(self, process: CameraProcess, deadline_s: float, too_late: str) -> dict[str, Any]:
        """As `CameraProcess.receive`; kills the process if it does not answer in time, or at a stop."""
        while True:
            try:
                return process.receive(min(deadline_s, time.monotonic() + LOOK_S))
            except TimeoutError as error:
                if self._stop.is_set():
                    raise SourceError(f"{self.description}: the agent stops") from error
                if time.monotonic() >= deadline_s:
                    self._end(grace_s=0)
                    held = f"; {self._undead.hold}" if self._undead is not None else ""
                    raise SourceError(f"{self.description}: {too_late}{held}") from error

    def _end(self, grace_s: float) -> None:
        process, self._process = self._process, None
        if process is not None and not process.end(grace_s):
            self._undead = process
