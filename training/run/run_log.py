"""The numbers of a run, in log.csv and for TensorBoard. A resumed run leaves no gaps and no duplicates in them."""

import csv
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

HEADER = ("step", "split", "metric", "value")


class RunLog:
    """Appends rows of (step, split, metric, value); split is `train`, `validation` or a data set's name."""

    def __init__(self, path: Path, *, size: int, events: Path | None = None, step: int = 0) -> None:
        """Prepares the log; the context opens it.

        Args:
            path: of log.csv.
            size: bytes of log.csv that count, the result of the last `save`; 0: a new file.
            events: folder of TensorBoard's files; None: no such files.
            step: the last one that counts; TensorBoard hides later ones of a killed run.
        """
        self._path = path
        self._size = size
        self._events_folder = events
        self._step = step
        self._events: Any = None

    def __enter__(self) -> "RunLog":
        if self._events_folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._events_folder), purge_step=self._step + 1)
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
        if self._events is not None:
            self._events.close()

    def write(self, step: int, split: str, metric: str, value: float | None) -> None:
        """Adds a row, unless `value` is None."""
        if value is not None:
            self._rows.writerow([step, split, metric, f"{value:.6g}"])
            if self._events is not None:
                self._events.add_scalar(f"{split}/{metric}", value, step)

    def save(self) -> int:
        """Writes all rows to disk; gives the size of the file in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events is not None:
            self._events.flush()
        return self._path.stat().st_size
