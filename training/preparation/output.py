"""Writes a prepared data set into a folder that gets its name only when it is whole."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from zsad_core.errors import DatasetError

JPEG_QUALITY = 92
LISTING = "SHA256SUMS"  # in each prepared set, for `sha256sum -c`


class Output:
    """The files of a set that is being prepared."""

    def __init__(self, folder: Path) -> None:
        self.sums: dict[str, str] = {}  # path in the set, with "/" -> SHA-256 in hex
        self._folder = folder
        self._bar = tqdm(unit=" files", leave=False, disable=None)  # only on a terminal

    def jpeg(self, place: str, image: np.ndarray) -> None:
        """Writes an image uint8 [H, W] or BGR [H, W, 3] to `place` in the set."""
        self._encoded(place, ".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])

    def png(self, place: str, image: np.ndarray) -> None:
        """Writes an image uint8 [H, W] to `place`, without loss."""
        self._encoded(place, ".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 9])

    def mask(self, place: str, defective: np.ndarray) -> None:
        """Writes a mask, bool [H, W], as values 0 and 255."""
        self.png(place, np.where(defective, 255, 0).astype(np.uint8))

    def copy(self, place: str, file: Path) -> None:
        """Copies a file as it is."""
        self._write(place, file.read_bytes())

    def close(self) -> None:
        self._bar.close()

    def _encoded(self, place: str, suffix: str, image: np.ndarray, settings: list[int]) -> None:
        self._write(place, cv2.imencode(suffix, image, settings)[1].tobytes())

    def _write(self, place: str, content: bytes) -> None:
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:  # no two pictures have the same place
            file.write(content)
        self.sums[place] = hashlib.sha256(content).hexdigest()
        self._bar.update()


@contextlib.contextmanager
def whole_set(path: Path) -> Iterator[Output]:
    """A context with an output, which becomes the folder `path` when the context ends without an error.

    Raises:
        DatasetError: `path` exists.
        OSError: a file cannot be written.
    """
    if path.exists():
        raise DatasetError(f"{path}: exists. Delete it to prepare this set again.")
    partial = path.with_name(f"{path.name}.partial")
    if partial.exists():  # of a run that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    output = Output(partial)
    try:
        yield output
        lines = (f"{sha256}  {place}\n" for place, sha256 in sorted(output.sums.items()))
        (partial / LISTING).write_text("".join(lines), encoding="utf-8")
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        output.close()
