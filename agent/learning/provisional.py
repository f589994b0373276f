"""Thresholds of products that were not taught, from the scores of their parts so far. They hold until teach-in.

`<folder>/<camera>/<product>/scores.json` keeps the scores over a restart.
"""

import logging
from pathlib import Path
from typing import Annotated

from pydantic import Field

from zsad_agent.messages import Result
from zsad_agent.system import read_json, write_whole
from zsad_agent.teaching import can_be_taught
from zsad_core.bundle import Bundle, Sha256
from zsad_core.config import RecordModel
from zsad_core.facts import Unit
from zsad_core.judging import Provisional, provisional_threshold

logger = logging.getLogger(__name__)

FILE = "scores.json"
WINDOW = 200  # parts, the newest
MAX_BYTES = 20_000
WRITE_SHARE = 20  # the file is written when more than one of so many scores is new


class SeenScores(RecordModel):
    bundle: Sha256  # that gave the scores
    scores: Annotated[tuple[Unit, ...], Field(max_length=WINDOW)] = ()


class ProvisionalThresholds:
    """The scores by camera and product. `threshold` may be called from another thread than the rest."""

    def __init__(self, folder: Path) -> None:
        """`folder`: of learning."""
        self._folder = folder
        self._seen: dict[tuple[str, str], SeenScores] = {}  # by camera and product
        self._unwritten: dict[tuple[str, str], int] = {}
        self._found: dict[tuple[str, str], tuple[SeenScores, Provisional | None]] = {}  # asked for at each picture

    def load(self) -> None:
        """Loads what an earlier run has left."""
        for path in sorted(self._folder.glob(f"*/*/{FILE}")):
            try:
                if (seen := read_json(path, SeenScores, MAX_BYTES)) is not None:
                    self._seen[path.parts[-3], path.parts[-2]] = seen
            except ValueError as error:
                logger.warning("%s is not used: %s", path, error)

    def add(self, result: Result) -> None:
        """Counts a part that looks different from those before.

        Raises:
            OSError: the disk cannot store it; it counts until the end of the run.
        """
        if not result.provisional or result.anomaly_score is None or not can_be_taught(result.product):
            return
        key, bundle = (result.camera, result.product), result.bundle.sha256
        seen = self._seen.get(key)
        earlier = seen.scores if seen is not None and seen.bundle == bundle else ()
        seen = self._seen[key] = SeenScores(bundle=bundle, scores=(*earlier, result.anomaly_score)[-WINDOW:])
        self._unwritten[key] = self._unwritten.get(key, 0) + 1
        if self._unwritten[key] * WRITE_SHARE > len(seen.scores):
            self._path(*key).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(*key), seen.model_dump_json().encode())
            self._unwritten[key] = 0

    def forget(self, camera: str, product: str) -> None:
        """Starts afresh."""
        self._seen.pop((camera, product), None)
        self._path(camera, product).unlink(missing_ok=True)

    def threshold(self, camera: str, product: str, bundle: Bundle) -> Provisional | None:
        """The threshold for scores of this bundle; None: that of the bundle. Never waits."""
        key = (camera, product)
        seen, found = self._seen.get(key), self._found.get(key)
        if seen is None or seen.bundle != bundle.sha256:
            return None
        if found is None or found[0] is not seen:
            found = self._found[key] = seen, provisional_threshold(seen.scores, bundle.manifest.threshold.value)
        return found[1]

    def _path(self, camera: str, product: str) -> Path:
        return self._folder / camera / product / FILE
