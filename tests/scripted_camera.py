"""A camera that follows a script with faults, inside the process that reads it.

That process must be able to import this module: `PYTHONPATH=<folder of this file>`.
"""

import ctypes
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from zsad_agent.sources import Picture
from zsad_core.errors import ImageError, SourceError

SECRET = "s3cret-of-the-camera"


class ScriptedCamera:
    """Plays one script at each opening; the last one repeats. When a script ends, the stream ends.

    A script is words separated by blanks; the words before `open` are executed during the opening:

    - `N`: N frames. All pixels of frame i of an opening are i mod 251.
    - `size:WxH`, `every:S`: the next frames have that size (first 64x48) and are S seconds apart (first 0).
    - `frozen:N`: the last frame N more times. `noise:N`: N frames of noise. `bad:N`: N times ImageError.
    - `wait:S`: no frame for S seconds.
    - `hang`: hangs in C code that only SIGKILL ends and that blocks all other threads of the process.
    - `fill`: needs 3 GB of memory. `crash`: SIGSEGV. `fail`: SourceError.
    - `raise`: an unexpected error with SECRET in its text.
    """

    description = "scripted camera"
    lossless, endless = False, True

    def __init__(self, *scripts: str, log: Path) -> None:
        """Does not open it yet. `log` gets a byte for every opening; a counter in memory would end with its process."""
        self._scripts = scripts
        self._log = log
        self._pictures: Iterator[np.ndarray | Exception] = None  # type: ignore[assignment]  # none that can be pickled

    @property
    def openings(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def __enter__(self) -> Self:
        words = self._scripts[min(self.openings, len(self._scripts) - 1)].split()
        with self._log.open("ab") as file:
            file.write(b".")
        at = words.index("open") if "open" in words else 0
        assert list(_play(words[:at])) == []
        self._pictures = _play(words[at:])
        return self

    def __exit__(self, *_: object) -> None:
        self._pictures = iter(())

    def read(self) -> Picture | None:
        picture = next(self._pictures, None)
        if isinstance(picture, Exception):
            raise picture
        return Picture(image=picture) if picture is not None else None


def _play(words: Sequence[str]) -> Iterator[np.ndarray | Exception]:
    noise = np.random.default_rng(0)
    wh, every_s, index, frame = (64, 48), 0.0, 0, np.zeros((48, 64, 3), np.uint8)
    for word in words:
        name, _, value = word.partition(":")
        if name.isdigit():
            for _ in range(int(name)):
                time.sleep(every_s)
                frame = np.full((wh[1], wh[0], 3), index % 251, np.uint8)
                index += 1
                yield frame
        elif name == "size":
            width, _, height = value.partition("x")
            wh = (int(width), int(height))
        elif name == "every":
            every_s = float(value)
        elif name in ("frozen", "noise", "bad"):
            for _ in range(int(value)):
                time.sleep(every_s)
                if name == "bad":
                    yield ImageError("scripted camera: this frame is no picture")
                else:
                    yield frame if name == "frozen" else noise.integers(0, 256, (wh[1], wh[0], 3), np.uint8)
        elif name == "wait":
            time.sleep(float(value))
        else:
            _fail(name)


def _fail(word: str) -> None:
    if word == "hang":
        time.sleep(0.5)  # lets the other threads process the earlier frames
        while True:
            ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the interpreter's lock
    if word == "crash":
        ctypes.string_at(0)
    if word == "fill":
        np.empty(3 << 30, np.uint8)
    if word == "fail":
        raise SourceError("scripted camera: the script says so")
    if word == "raise":
        raise RuntimeError(SECRET)
    if word != "open":
        raise ValueError(f"no such word in a camera's script: {word}")
