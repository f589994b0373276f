"""Further outputs of results, for a demo or a first test: a line on the terminal, overlays in a folder."""

import logging
import sys
from pathlib import Path
from typing import TextIO

from zsad_agent.messages import Result
from zsad_agent.system import printable, utc_text

logger = logging.getLogger(__name__)


class PrintSink:
    """One line a result, for a person."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._closed = False

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Prints the result. After an error nothing more is printed; the inspection continues."""
        if self._closed:
            return
        try:
            print(result_line(result), file=self._stream, flush=True)
        except OSError as error:
            self._closed = True
            logger.warning("results are no longer printed: %s", error.strerror)


class HeatmapFolderSink:
    """Writes every overlay as `<camera>-<seq>.jpg` into one folder, which it creates. Deletes nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failing = False

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Writes the overlay, if there is one. An error is logged once; the inspection continues."""
        if heatmap is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / f"{result.camera}-{result.seq}.jpg").write_bytes(heatmap)
            self._failing = False
        except OSError as error:
            if not self._failing:
                logger.warning("heatmaps are not saved in %s: %s", self._folder, error.strerror)
            self._failing = True


def result_line(result: Result) -> str:
    """E.g. `10:28:03.123Z cam0 #12  ANOMALOUS  0.731  (threshold 0.500)  41 ms  a.png  2 regions, worst at 1,4 6x3`."""
    time_of_day = utc_text(result.captured_at).partition("T")[2]
    words = [
        f"{time_of_day} {result.camera} #{result.seq}",
        f"{result.verdict.upper():<9}",
        f"{result.anomaly_score:.3f}" if result.anomaly_score is not None else "  -  ",
        f"(threshold {result.threshold:.3f})",
    ]
    latency_ms = result.latency_ms.capture_to_result
    if latency_ms is not None:
        words.append(f"{latency_ms:.0f} ms")
    if result.source_name:
        words.append(printable(result.source_name))
    if result.reason:
        words.append(printable(result.reason))
    elif result.regions:
        count, (x, y, w, h) = len(result.regions), result.regions[0].bbox_xywh
        words.append(f"{count} region{'s' if count > 1 else ''}, worst at {x},{y} {w}x{h}")
    return "  ".join(words)
