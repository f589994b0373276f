"""The process that reads one live source. It owns only the device, so it can be killed at any time.

Two threads: one reads every picture, the other sends the newest one when the parent requests it. Frames go through a
file in memory, everything else is JSON. This process writes the file between request and answer; the parent reads it
between the answer and the next request. So the parent never reads a half-written frame.
"""

import contextlib
import ctypes
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zsad_agent.sources.source import Picture, Source
from zsad_agent.system import LatestQueue, QueueClosed, prepare_environment
from zsad_core.errors import ImageError, SourceError

MESSAGE_BYTES = 65_536  # longest message in both directions
TEXT_LENGTH = 4_000  # characters of an error message that is sent to the parent
PR_SET_PDEATHSIG = 1  # linux/prctl.h
MEMORY_BYTES = 2 * 2**30  # for the decoder and its pictures; 3840 x 2160 HEVC of 10 bits in 16 threads takes 1 GB

_Item = Picture | ImageError | SourceError


def main() -> int:
    """Reads until the parent closes the connection or the source is lost. Returns the exit code.

    The command line has file descriptors of the connection (a SOCK_SEQPACKET socket) and of the file in memory, and the
    parent's process id. The source comes over the connection, so that its credentials are in no process list.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to the whole group; only the parent ends this
        signal.signal(number, signal.SIG_IGN)
    connection_fd, memory_fd, parent_pid = map(int, sys.argv[1:])
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
    """Makes the kernel kill this process when the thread that started it ends, even if this process hangs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl PR_SET_PDEATHSIG")
    if os.getppid() != parent_pid:  # the parent ended before the prctl call
        os._exit(1)


def _receive_source(connection: socket.socket) -> Source:
    stale_after_s, pickled = pickle.loads(connection.recv(MESSAGE_BYTES))
    prepare_environment(stale_after_s)
    import cv2  # reads its settings from the environment

    cv2.setNumThreads(1)
    source: Source = pickle.loads(pickled)
    limit_memory()
    return source


def limit_memory() -> None:
    """Bounds what a source can make this process use. If memory is short, the kernel ends it before the agent."""
    with contextlib.suppress(OSError, ValueError):  # a container may forbid it
        Path("/proc/self/oom_score_adj").write_text("1000")
        used_pages = int(Path("/proc/self/statm").read_text().split()[0])  # of address space, as the limit counts
        wanted = used_pages * mmap.PAGESIZE + MEMORY_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _serve(source: Source, connection: socket.socket, memory_fd: int) -> None:
    slot: LatestQueue[_Item] = LatestQueue()
    stop = threading.Event()
    answerer = threading.Thread(target=_answer, args=(slot, connection, memory_fd, stop), daemon=True)
    try:
        with source:
            _send(connection, opened=True)
            answerer.start()
            skipped = damaged = 0  # frames since the opening that the source itself left out, and damaged ones
            damage: str | None = None
            while not stop.is_set():
                item = _next_item(source)
                if isinstance(item, Picture):
                    skipped, damaged, damage = skipped + item.skipped, damaged + item.damaged, item.damage or damage
                    item = replace(item, skipped=skipped, damaged=damaged, damage=damage)
                else:
                    damaged, damage = damaged + 1, str(item)[:TEXT_LENGTH]
                slot.put(item)
    except SourceError as error:
        failure = str(error)[:TEXT_LENGTH]
    except MemoryError:
        failure = f"{source.description}: its pictures need more than {MEMORY_BYTES >> 20} MB of memory"
    except Exception as error:  # its text may contain the URL with its credentials
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
    """Sends one answer for each message of the parent, until the connection closes or the source is lost."""
    with contextlib.suppress(OSError, QueueClosed):
        while connection.recv(MESSAGE_BYTES):
            while (item := slot.get(timeout_s=60.0)) is None:
                pass
            if isinstance(item, Picture):
                _write_whole(memory_fd, item.image)
                _send(
                    connection,
                    shape=item.image.shape,
                    at_s=item.captured_monotonic_s,
                    skipped=slot.dropped + item.skipped,
                    damaged=item.damaged,
                    damage=item.damage,
                )
            elif isinstance(item, ImageError):
                _send(connection, bad_picture=str(item)[:TEXT_LENGTH])
            else:
                _send(connection, error=str(item)[:TEXT_LENGTH])
                break
    stop.set()


def _write_whole(memory_fd: int, image: np.ndarray) -> None:
    """Writes all bytes; one `pwrite` may write only a part. The file is as large as the largest frame so far."""
    left = np.ascontiguousarray(image).data.cast("B")
    offset = 0
    while offset < len(left):
        offset += os.pwrite(memory_fd, left[offset:], offset)


def _send(connection: socket.socket, **message: Any) -> None:
    connection.send(json.dumps(message).encode())


if __name__ == "__main__":
    sys.exit(main())
