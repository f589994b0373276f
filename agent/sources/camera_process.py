"""A live source that is read in a process of its own: what hangs there, in a driver or decoder, can be killed."""

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np

from zsad_agent.sources.camera_worker import MESSAGE_BYTES
from zsad_agent.sources.source import Picture, Source
from zsad_core.errors import ImageError, SourceError

START_S = 10.0  # for the process to start, from a slow disk, beside the wait for the camera itself
LEAVE_S = 0.3  # for the process to close the camera in good order
DIE_S = 0.5  # for the kernel to end a killed process; longer only where a driver holds it in uninterruptible sleep

Kill = Callable[["subprocess.Popen[bytes]"], None]


class CameraProcess:
    """One process of `grabber_child`, the connection to it, and the file in memory that its frames come through."""

    def __init__(self, source: Source, stale_after_s: float) -> None:
        """Starts it, and has it open the source.

        Raises:
            OSError: no process, memory or file number is left.
        """
        with ExitStack() as on_failure, ExitStack() as handed_over:
            self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            on_failure.callback(self._connection.close)
            handed_over.callback(theirs.close)
            self._memory_fd = os.memfd_create("zsad-frame")
            on_failure.callback(os.close, self._memory_fd)
            self._connection.send(pickle.dumps((stale_after_s, pickle.dumps(source))))
            fds = (theirs.fileno(), self._memory_fd)
            self._popen = subprocess.Popen(
                # -P: nothing is imported from the folder that the agent happens to run in
                [sys.executable, "-P", "-m", "zsad_agent.sources.camera_worker", *map(str, fds), str(os.getpid())],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # decoders fill it, some with the address and its credentials
                env={"OPENBLAS_NUM_THREADS": "1", **os.environ},  # NumPy would start a thread for every core
            )
            on_failure.pop_all()

    @property
    def hold(self) -> str:
        """What is the matter when it was killed and is not gone."""
        return (
            f"the driver still holds the device: process {self._popen.pid} was killed and does not end. "
            "Unplug the camera, or restart the machine if this stays"
        )

    def ask(self) -> None:
        """Wants the next frame. Every answer must be received before the next question."""
        with contextlib.suppress(OSError):  # it has died: `receive` tells how
            self._connection.send(b"next")

    def receive(self, deadline_s: float) -> dict[str, Any] | None:
        """What it says next, None when it says nothing until `deadline_s` of the monotonic clock.

        Raises:
            EOFError: it has ended without a word; the text says how.
        """
        self._connection.settimeout(max(deadline_s - time.monotonic(), 0.001))  # 0 would mean not to wait at all
        try:
            message = self._connection.recv(MESSAGE_BYTES)
        except TimeoutError:
            return None
        except ConnectionError:
            message = b""
        if message:
            answer: dict[str, Any] = json.loads(message)
            return answer
        raise EOFError(f"the camera process {self._cause_of_death()}")

    def frame(self, shape: Sequence[int]) -> np.ndarray:
        """A copy of the frame that was received last: uint8 of `shape`, BGR [H, W, 3]."""
        image = np.empty(shape, np.uint8)
        left, offset = image.data.cast("B"), 0
        while offset < len(left):
            taken = os.preadv(self._memory_fd, [left[offset:]], offset)
            if taken == 0:
                raise EOFError(f"the camera process gave {offset} of {len(left)} bytes of a frame")
            offset += taken
        return image

    def end(self, grace_s: float, kill: Kill) -> bool:
        """Has it leave, or kills it after `grace_s`. False when it is not gone even then."""
        self._connection.close()
        os.close(self._memory_fd)
        if grace_s > 0 and self.gone_within(grace_s):
            return True
        kill(self._popen)
        return self.gone_within(DIE_S)

    def gone_within(self, seconds: float) -> bool:
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _cause_of_death(self) -> str:
        if not self.gone_within(DIE_S):
            return "hung up"
        code = self._popen.returncode
        if code >= 0:
            return f"ended with exit code {code}"
        return "died of " + next((known.name for known in signal.Signals if known == -code), f"signal {-code}")


class GrabberSource:
    """The newest frames of `source`, read in a process that lives from `__enter__` to `__exit__`.

    One thread is to call all three: the process also ends with the thread that started it.
    """

    lossless, endless = False, True

    def __init__(
        self, source: Source, *, stale_after_s: float, start_s: float = START_S, kill: Kill = subprocess.Popen.kill
    ) -> None:
        """Starts nothing yet.

        Args:
            source: not opened, and never opened here: it is pickled for the process.
            stale_after_s: longest wait for one frame.
            start_s: longest wait for the process to start and open the source, beyond `stale_after_s`.
            kill: sends SIGKILL.
        """
        self.description = source.description
        self._source = source
        self._stale_after_s = stale_after_s
        self._open_within_s = start_s + stale_after_s
        self._kill = kill
        self._process: CameraProcess | None = None
        self._undead: CameraProcess | None = None  # killed, and held by a driver
        self._skipped = 0  # frames of this opening that a newer one replaced before they were read

    def __enter__(self) -> Self:
        if self._undead is not None and not self._undead.gone_within(0):
            raise SourceError(f"{self.description}: {self._undead.hold}")
        self._undead = None
        self._skipped = 0
        try:
            self._process = CameraProcess(self._source, self._stale_after_s)
        except OSError as error:
            raise SourceError(f"{self.description}: no process can be started for it: {error}") from error
        limit_s = self._open_within_s
        try:
            self._receive(self._process, time.monotonic() + limit_s, f"not open after {limit_s:g} s")
        except BaseException:
            self._end(LEAVE_S)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(LEAVE_S)

    def read(self) -> Picture:
        """The newest frame that was not read yet; waits for one. Never None: what is live is lost, it has no end.

        Raises:
            ImageError: this one is no picture.
            SourceError: lost, or no frame in time, in which case the process has been killed.
        """
        process = self._process
        if process is None:
            raise ValueError(f"{self.description}: read while it is not open")
        deadline_s = time.monotonic() + self._stale_after_s
        while True:
            process.ask()
            answer = self._receive(process, deadline_s, f"no frame for {self._stale_after_s:g} s")
            if "bad_picture" in answer:
                raise ImageError(answer["bad_picture"])
            if time.monotonic() - answer["at_s"] <= self._stale_after_s:  # else it waited for this call for too long
                break
        try:
            image = process.frame(answer["shape"])
        except EOFError as error:
            raise SourceError(f"{self.description}: {error}") from error
        before, self._skipped = self._skipped, answer["skipped"]
        return Picture(image=image, captured_monotonic_s=answer["at_s"], skipped=self._skipped - before)

    def _receive(self, process: CameraProcess, deadline_s: float, too_late: str) -> dict[str, Any]:
        """What the process says next.

        Raises:
            SourceError: that the source is lost, or it is by its silence or end.
        """
        try:
            answer = process.receive(deadline_s)
        except EOFError as error:
            raise SourceError(f"{self.description}: {error}") from error
        if answer is None:
            self._end(grace_s=0)
            held = f"; {self._undead.hold}" if self._undead is not None else ""
            raise SourceError(f"{self.description}: {too_late}{held}")
        if "error" in answer:
            raise SourceError(answer["error"])
        return answer

    def _end(self, grace_s: float) -> None:
        process, self._process = self._process, None
        if process is not None and not process.end(grace_s, self._kill):
            self._undead = process
