"""The process in which one live source is read. It holds the device and nothing else, so that it can be killed.

Two threads: one reads as fast as pictures come, the other hands the newest over when the parent asks for it. Frames go
through a file in memory, all else as JSON. The file is written between the parent's question and the answer, and read
between the answer and the next question, so no frame is seen half.
"""

import contextlib
import ctypes
import json
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from zsad_agent.sources.source import Picture, Source
from zsad_agent.system import LatestQueue, QueueClosed, prepare_environment
from zsad_core.errors import ImageError, SourceError

MESSAGE_BYTES = 65_536  # longest message either way
TEXT_LENGTH = 4_000  # of an error that is passed on
PR_SET_PDEATHSIG = 1  # linux/prctl.h


_Item = Picture | ImageError | SourceError


def main(argv: Sequence[str] | None = None) -> int:
    """Reads until the parent closes the connection or the source is lost. The exit code.

    Args:
        argv: numbers of the connection (a SOCK_SEQPACKET socket), of the file in memory, and of the parent's process.
            The source comes over the connection: its credentials show in no list of processes.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal and systemd send them to all; the parent ends this one
        signal.signal(number, signal.SIG_IGN)
    connection_fd, memory_fd, parent_pid = map(int, sys.argv[1:] if argv is None else argv)
    _die_with_parent(parent_pid)
    with socket.socket(fileno=connection_fd) as connection, contextlib.suppress(OSError):  # the parent is gone
        try:
            source = _receive_source(connection)
        except Exception as error:
            _send(connection, error=f"the camera process cannot start: {type(error).__name__}: {error}")
            return 1
        _serve(source, connection, memory_fd)
    return 0


def _die_with_parent(parent_pid: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, whatever hangs here by then."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_PDEATHSIG")
    if os.getppid() != parent_pid:  # it had ended before the kernel was asked
        os._exit(1)


def _receive_source(connection: socket.socket) -> Source:
    stale_after_s, pickled = pickle.loads(connection.recv(MESSAGE_BYTES))
    prepare_environment(stale_after_s)
    import cv2  # reads its settings from the environment

    cv2.setNumThreads(1)
    source: Source = pickle.loads(pickled)
    return source


def _serve(source: Source, connection: socket.socket, memory_fd: int) -> None:
    slot: LatestQueue[_Item] = LatestQueue()
    stop = threading.Event()
    answerer = threading.Thread(target=_answer, args=(slot, connection, memory_fd, stop), daemon=True)
    try:
        with source:
            _send(connection, opened=True)
            answerer.start()
            while not stop.is_set():
                slot.put(_next_item(source))
    except SourceError as error:
        failure = str(error)[:TEXT_LENGTH]
    except Exception as error:  # its text might hold the address with its credentials
        failure = f"{source.description}: {type(error).__name__} in the camera process"
    else:
        return
    if answerer.is_alive():
        slot.put(SourceError(failure), keep=True)
        slot.close()
        answerer.join()
    else:
        _send(connection, error=failure)


def _next_item(source: Source) -> _Item:
    try:
        picture = source.read()
    except ImageError as error:
        return error
    if picture is None:
        raise SourceError(f"{source.description}: ended")
    return picture


def _answer(slot: LatestQueue[_Item], connection: socket.socket, memory_fd: int, stop: threading.Event) -> None:
    """One answer for each message of the parent, until it closes the connection or there will be no more."""
    with contextlib.suppress(OSError, QueueClosed):
        while connection.recv(MESSAGE_BYTES):
            while (item := slot.get(timeout_s=60.0)) is None:
                pass
            if isinstance(item, Picture):
                _write_whole(memory_fd, item.image)
                _send(connection, shape=item.image.shape, at_s=item.captured_monotonic_s, skipped=slot.dropped)
            elif isinstance(item, ImageError):
                _send(connection, bad_picture=str(item)[:TEXT_LENGTH])
            else:
                _send(connection, error=str(item)[:TEXT_LENGTH])
                break
    stop.set()


def _write_whole(memory_fd: int, image: np.ndarray) -> None:
    """The file grows to the largest frame so far; a signal may split one write."""
    left = np.ascontiguousarray(image).data.cast("B")
    offset = 0
    while offset < len(left):
        offset += os.pwrite(memory_fd, left[offset:], offset)


def _send(connection: socket.socket, **message: Any) -> None:
    connection.send(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main())
