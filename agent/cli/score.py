"""`zsad-agent score`: pictures in, scores out, no broker."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from zsad_agent.model import Predictor
from zsad_agent.system import printable
from zsad_core.errors import DeviceError, ImageError
from zsad_core.judging import instant_verdict
from zsad_core.picture import find_images, read_image
from zsad_core.types import Verdict


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    path: Path
    map_path: Path  # path of its anomaly map, relative to the maps' folder


@dataclass(frozen=True, kw_only=True)
class Score:
    """The output of `score` for one picture."""

    path: str
    anomaly_score: float | None  # [0, 1]; None when unknown
    threshold: float
    verdict: Verdict
    latency_ms: float | None  # of resizing and inference
    reason: str | None = None
    map: str | None = None  # file of the anomaly map, if requested

    def as_json(self, *, with_map: bool) -> str:
        """One line. `reason` is present only with `unknown`, `map` only with `--maps`."""
        row: dict[str, Any] = {
            "path": self.path,
            "anomaly_score": self.anomaly_score,
            "threshold": self.threshold,
            "verdict": self.verdict.value,
            "latency_ms": None if self.latency_ms is None else round(self.latency_ms, 3),
        }
        if self.reason is not None:
            row["reason"] = self.reason
        if with_map:
            row["map"] = self.map
        return json.dumps(row)


def find_pictures(paths: Sequence[Path]) -> list[ImageFile]:
    """The pictures of files and folders in the given order; a folder's pictures are sorted by name.

    A map is named `<stem>.npy`, in the same subfolder as the picture. Pictures whose maps would have the same name
    (`a.png` and `a.jpg`) all get `<file name>.npy`. If that is the same too (two folders with the same names), the
    later ones get a number: `a.png.2.npy`. No map replaces another.
    """
    found: list[tuple[Path, Path]] = []  # the picture, and its path below its folder
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long or a folder closed
            found += [
                (picture, picture.relative_to(path) if picture != path else Path(path.name or "folder"))
                for picture in find_images(path)
            ]
        else:
            found.append((path, Path(path.name)))
    short = Counter(inside.with_suffix("") for _, inside in found)
    taken: set[Path] = set()
    pictures = []
    for path, inside in found:
        stem = inside.name if short[inside.with_suffix("")] > 1 else inside.stem
        map_path, number = inside.with_name(f"{stem}.npy"), 1
        while map_path in taken:
            number += 1
            map_path = inside.with_name(f"{stem}.{number}.npy")
        taken.add(map_path)
        pictures.append(ImageFile(path=path, map_path=map_path))
    return pictures


def score_pictures(
    pictures: Iterable[ImageFile], predictor: Predictor, *, threshold: float, maps: Path | None
) -> Iterator[Score]:
    """Scores one picture after the other; one without a score is `unknown` with the reason.

    Raises:
        OSError: a map cannot be written.
    """
    for picture in pictures:
        yield _score(picture, predictor, threshold, maps)


def _score(picture: ImageFile, predictor: Predictor, threshold: float, maps: Path | None) -> Score:
    path = os.fspath(picture.path)
    try:
        image = read_image(picture.path)
        started_s = time.perf_counter()
        prediction = predictor.predict(image)
        latency_ms = (time.perf_counter() - started_s) * 1000
    except (ImageError, DeviceError) as error:
        return Score(
            path=path,
            anomaly_score=None,
            threshold=threshold,
            verdict=Verdict.UNKNOWN,
            latency_ms=None,
            reason=" ".join(str(error).split()),
        )
    map_file = None
    if maps is not None:
        map_file = maps / picture.map_path
        map_file.parent.mkdir(parents=True, exist_ok=True)
        np.save(map_file, prediction.anomaly_map.astype(np.float32))
    return Score(
        path=path,
        anomaly_score=prediction.anomaly_score,
        threshold=threshold,
        verdict=instant_verdict(prediction.anomaly_score, threshold),
        latency_ms=latency_ms,
        map=None if map_file is None else os.fspath(map_file),
    )


def print_scores(scores: Iterable[Score], *, as_json: bool, with_map: bool, stream: TextIO | None = None) -> int:
    """Prints each score at once. Returns exit code 1 if any is unknown or there are none."""
    stream = stream if stream is not None else sys.stdout
    counts: Counter[Verdict] = Counter()
    if not as_json:
        print("verdict    score      ms  path", file=stream, flush=True)
    for score in scores:
        counts[score.verdict] += 1
        print(score.as_json(with_map=with_map) if as_json else _row(score), file=stream, flush=True)
    if not as_json:
        told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict)
        print(f"{counts.total()} pictures: {told}", file=stream, flush=True)
    return 0 if counts.total() and not counts[Verdict.UNKNOWN] else 1


def _row(score: Score) -> str:
    if score.anomaly_score is None or score.latency_ms is None:
        told = (score.reason or "").removeprefix(f"{score.path}: ")
        return f"{score.verdict.value:<10} {'-':>5}  {'-':>6}  {printable(f'{score.path}: {told}')}"
    return f"{score.verdict.value:<10} {score.anomaly_score:5.3f}  {score.latency_ms:6.1f}  {printable(score.path)}"
