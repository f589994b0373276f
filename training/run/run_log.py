"""log.csv: the numbers of a run, one per row. A resumed run leaves no gaps and no duplicates in it."""

import csv
import logging
import os
from pathlib import Path
from types import TracebackType

logger = logging.getLogger(__name__)

HEADER = ("step", "split", "metric", "value")


class RunLog:
    """Appends rows of (step, split, metric, value); split is `train`, `validation` or a data set's name."""

    def __init__(self, path: Path, *, size: int) -> None:
        """Truncates `path` to `size` bytes, the result of the last `save`; 0: a new file."""
        self._path = path
        self._size = size

    def __enter__(self) -> "RunLog":
        self._file = self._path.open("a+", newline="")
        if (found := self._path.stat().st_size) < self._size:
            logger.warning("%s has %d bytes, expected %d: rows are lost", self._path, found, self._size)
        self._file.truncate(min(self._size, found))
        self._rows = csv.writer(self._file)
        if not min(self._size, found):
            self._rows.writerow(HEADER)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def write(self, step: int, split: str, metric: str, value: float | None) -> None:
        """Adds a row, unless `value` is None."""
        if value is not None:
            self._rows.writerow([step, split, metric, f"{value:.6g}"])

    def save(self) -> int:
        """Writes all rows to disk; gives the size of the file in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._path.stat().st_size
