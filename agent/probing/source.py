"""One picture of a source that is not in use, read in a process of its own: a driver or decoder may hang or crash."""

import os
import signal
import subprocess
import sys
import threading

from zsad_agent.config import SourceConfig
from zsad_agent.probing.source_worker import FAULT, LIMIT_S, PICTURE
from zsad_core.errors import SourceError

_busy = threading.Lock()


def probe_source(config: SourceConfig) -> bytes:
    """A JPEG of the first picture that a new connection gives, or of the first of a file or folder.

    Raises:
        SourceError: there is none within `LIMIT_S`, or another source is being tried; the text says why, without
            credentials.
    """
    if not _busy.acquire(blocking=False):
        raise SourceError("another source is being tried: wait a few seconds")
    try:
        return _probe(config)
    finally:
        _busy.release()


def _probe(config: SourceConfig) -> bytes:
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "zsad_agent.probing.source_worker"],  # -P: do not import from the current folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # decoders write to it, some of them the URL with its credentials
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ},
    )
    answer = b""
    with process:
        try:
            answer, _ = process.communicate(config.model_dump_json().encode(), LIMIT_S + 1)
        except subprocess.TimeoutExpired:
            process.kill()
    kind, content = answer[:1], answer[1:]
    if kind == PICTURE:
        return content
    if kind == FAULT:
        raise SourceError(content.decode("utf-8", "replace"))
    if process.returncode in (-signal.SIGALRM, -signal.SIGKILL):
        raise SourceError(f"no picture within {LIMIT_S} s. Check that it is switched on and can be reached")
    raise SourceError("the process that reads the picture has crashed: the file or stream is damaged")
