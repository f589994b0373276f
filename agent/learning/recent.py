"""The last inspected parts, so that a person can mark them later.

`<folder>/<camera>/recent` holds `<id>.jpg`, `<id>.npy` with the map, and `<id>.json`, which is written last. These
files are not synced: a power cut can lose those of the last seconds. Passes in between are in memory alone, and a
restart forgets them.
"""

import contextlib
import io
import math
import re
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsad_agent.messages import Result
from zsad_agent.teaching import KeptPicture
from zsad_core.config import RecordModel
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

MAX_REJECTS, MAX_PASSES = 200, 100  # of each camera
PASS_EVERY_S = 2.0  # between two passes that are written, so that a fast line does not wear out the disk
MAX_FRESH_BYTES = 5_000_000  # of further passes in memory, for each camera: about 25 pictures
FRESH_EVERY_S = 0.2  # between two of them: a picture of 1280 x 720 takes 8 ms to encode, of 3840 x 2160 26 ms
MAX_JSON_BYTES = 10_000
SUFFIXES = (".json", ".jpg", ".npy")
_ID = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class PartFacts(RecordModel):
    """What was found."""

    camera: str
    product: str
    verdict: Verdict
    score: float
    taught: str | None  # sha256 of the profile


@dataclass(frozen=True, kw_only=True)
class RecentPart:
    """A part that was inspected lately."""

    id: str
    facts: PartFacts
    picture: KeptPicture
    anomaly_map: np.ndarray  # float16 [h, w]

    @property
    def bytes(self) -> int:
        """Of picture and map."""
        return len(self.picture.jpeg) + self.anomaly_map.nbytes


class RecentParts:
    """The parts of one camera. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder and reads which parts an earlier run has left.

        Raises:
            OSError: it cannot be made or read.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._last_pass_s = self._last_fresh_s = -math.inf
        self._fresh: deque[RecentPart] = deque()
        self._ids: dict[bool, deque[str]] = {True: deque(), False: deque()}  # rejects or passes, oldest first
        whole = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in whole:
            with contextlib.suppress(ValueError, FileNotFoundError):
                self._ids[self._read(path.stem).facts.verdict is not Verdict.OK].append(path.stem)
        known = {*self._ids[True], *self._ids[False]}
        for path in folder.iterdir():
            if path.stem not in known:  # of a killed or failed write
                path.unlink(missing_ok=True)

    def keep(self, result: Result, view_bgr: np.ndarray, anomaly_map: np.ndarray, score: float) -> None:
        """Keeps a part, also one that was refused as another part. Few passes are written, see `PASS_EVERY_S`.

        Raises:
            OSError: the disk cannot store it.
        """
        is_reject = result.verdict is not Verdict.OK
        if not (math.isfinite(score) and _ID.fullmatch(result.id)):
            return
        now_s = time.monotonic()
        is_written = is_reject or now_s - self._last_pass_s >= PASS_EVERY_S
        if not is_written and now_s - self._last_fresh_s < FRESH_EVERY_S:
            return
        profile = result.profile
        facts = PartFacts(
            camera=result.camera,
            product=result.product,
            verdict=result.verdict,
            score=score,
            taught=None if profile is None else profile.sha256,
        )
        picture = KeptPicture.of(result.id, view_bgr)
        part = RecentPart(id=result.id, facts=facts, picture=picture, anomaly_map=anomaly_map.astype(np.float16))
        if not is_written:
            self._fresh.append(part)
            while sum(one.bytes for one in self._fresh) > MAX_FRESH_BYTES:
                self._fresh.popleft()
            self._last_fresh_s = now_s
            return
        self._write(part, self._ids[is_reject], MAX_REJECTS if is_reject else MAX_PASSES)
        if not is_reject:  # not earlier: while the disk fails, each pass is tried and reports the fault
            self._last_pass_s = now_s

    def _write(self, part: RecentPart, ids: deque[str], most: int) -> None:
        """`ids`: of the written parts of this kind, at most `most`."""
        while len(ids) >= most:
            self._delete(ids.popleft())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
            self._path(part.id, ".jpg").write_bytes(part.picture.jpeg)
            np.save(self._path(part.id, ".npy"), part.anomaly_map)
            self._path(part.id, ".json").write_bytes(part.facts.model_dump_json().encode())
        except OSError:
            self._delete(part.id)
            raise
        ids.append(part.id)

    def find(self, part_id: str) -> RecentPart:
        """A part that is still there.

        Raises:
            ZsadError: it is not, or its files are damaged.
        """
        if not _ID.fullmatch(part_id):
            raise ZsadError(f"{part_id[:40]!r} is not the id of a result")
        for part in self._fresh:
            if part.id == part_id:
                return part
        try:
            return self._read(part_id)
        except (OSError, ValueError) as error:
            raise ZsadError(
                f"the picture of result {part_id} is no longer there: of each camera the last {MAX_REJECTS} rejects "
                f"and {MAX_PASSES} passes are kept, one pass in {PASS_EVERY_S:g} s, and for some seconds one in "
                f"{FRESH_EVERY_S:g} s"
            ) from error

    def _read(self, part_id: str) -> RecentPart:
        facts = PartFacts.model_validate_json(self._path(part_id, ".json").read_bytes()[:MAX_JSON_BYTES])
        jpeg, npy = (self._path(part_id, suffix).read_bytes() for suffix in (".jpg", ".npy"))
        if not (jpeg and npy):  # a power cut leaves empty files
            raise ValueError("an empty file")
        anomaly_map = np.load(io.BytesIO(npy), allow_pickle=False)
        picture = KeptPicture(name=part_id, jpeg=jpeg)
        return RecentPart(id=part_id, facts=facts, picture=picture, anomaly_map=anomaly_map)

    def _delete(self, part_id: str) -> None:
        for suffix in SUFFIXES:
            self._path(part_id, suffix).unlink(missing_ok=True)

    def _path(self, part_id: str, suffix: str) -> Path:
        return self._folder / f"{part_id}{suffix}"
