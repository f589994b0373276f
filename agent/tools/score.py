"""`zsad-agent score`: scores pictures without a broker."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from zsad_agent import inspection
from zsad_agent.system import configure_logging, one_line, printable
from zsad_agent.tools.flags import (
    add_model_flags,
    add_picture_flags,
    add_profile_flags,
    add_threshold_flag,
    command_parser,
    given,
    model_config,
    profile_store,
    read_part,
)
from zsad_agent.tools.reference import camera_of
from zsad_core.errors import DeviceError, ImageError, ProfileError

if TYPE_CHECKING:  # numpy takes longer than parsing
    import numpy as np

    from zsad_agent.config import AgentConfig, CameraConfig
    from zsad_agent.inspection import View
    from zsad_agent.model import Predictor
    from zsad_core.bundle import Bundle
    from zsad_core.types import Prediction, Verdict

MAX_REASON = 1000  # characters


def main(arguments: list[str]) -> int:
    """Prints a score for each picture."""
    parser = command_parser(
        "score",
        "Scores pictures. Exit code 1 if a picture has no score: its verdict is `unknown`.",
        examples="zsad-agent score part.jpg\nzsad-agent score pictures --product bottle --json --maps maps",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a picture, or a folder with its subfolders"
    )
    add_scorer_flags(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line, latency_ms in milliseconds")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="DIR",
        help="write each anomaly map as DIR/<stem>.npy, float32 [h, w] in [0, 1], with the same subfolders; pictures "
        "of one folder with the same stem (a.png, a.jpg) get <file name>.npy, further duplicates get a number",
    )
    args = parser.parse_args(arguments)
    configure_logging("WARNING")

    scorer = open_scorer(args)
    pictures = find_pictures(args.paths)
    scores = (
        score_picture(path, args, scorer, map_file=args.maps and args.maps / map_path) for path, map_path in pictures
    )
    return print_scores(scores, as_json=args.json, with_map=args.maps is not None)


def add_scorer_flags(parser: argparse.ArgumentParser) -> None:
    """What `open_scorer` and `judge_picture` read."""
    add_model_flags(parser)
    add_profile_flags(parser)
    add_threshold_flag(parser)
    add_picture_flags(parser)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML config whose bundle, profiles and camera apply; default: none"
    )
    parser.add_argument("--name", metavar="NAME", help="the camera of the config whose region, mask and limits apply")


def open_scorer(args: argparse.Namespace, **inference: Any) -> Scorer:
    """Compiles the model. `args`: of the flags of `score`; `inference`: keys of that section that replace the config's.

    Raises:
        ZsadError: as of the config, the bundle and the model.
    """
    from zsad_agent.model import open_bundle
    from zsad_agent.teaching import make_predictor

    config, camera = settings_of(args)
    product = args.product or camera.product or config.inference.product
    bundle = open_bundle(config.inference)
    changed = config.inference.model_copy(update={"product": product, **inference})
    predictor = make_predictor(bundle, changed, profile_store(config), read_only=True)
    with contextlib.suppress(ProfileError):  # every picture then fails with this reason
        predictor.prepare(product)
    decision = camera.decision or config.decision
    return Scorer(
        predictor=predictor,
        product=product,
        threshold=decision.threshold,
        region_level=decision.region_level,
        bundle=bundle.without_model(),
        camera=camera,
        view=inspection.View(camera.region_xywh, camera.ignore_mask) if args.config is not None else None,
    )


def settings_of(args: argparse.Namespace) -> tuple[AgentConfig, CameraConfig]:
    """The config, and the camera whose settings apply.

    Raises:
        ConfigError: one line per fault.
    """
    config = _config_of(args)
    return config, camera_of(config, args.name, args.product)


def _config_of(args: argparse.Namespace) -> AgentConfig:
    """Of `--config` with the flags, or of the flags alone.

    Raises:
        ConfigError: one line per fault.
    """
    if args.config is None:
        return model_config(args, threshold=args.threshold)
    from zsad_agent.config import load_settings

    flags = {
        "inference": given(bundle=args.bundle),
        "decision": given(threshold=args.threshold),
        **given(profiles=args.profiles),
    }
    return load_settings(args.config, flags).config


@dataclass(frozen=True, kw_only=True)
class Score:
    """The output of `score` for one picture."""

    path: str
    anomaly_score: float | None = None  # [0, 1]; None when unknown
    threshold: float
    verdict: Verdict
    latency_ms: float | None = None  # of resizing and inference
    reason: str | None = None
    provisional: bool  # nothing was taught for the product
    profile: dict[str, str] | None = None  # product and sha256 of what was taught, if it was used
    map: str | None = None  # file of the anomaly map, if requested

    def as_json(self, *, with_map: bool) -> str:
        """One line. `reason` is present only with `unknown`, `map` only with `--maps`."""
        left_out = ("reason",) * (self.reason is None) + ("map",) * (not with_map)
        return json.dumps({name: value for name, value in asdict(self).items() if name not in left_out})

    @property
    def text(self) -> str:
        """The path, and the reason if there is one."""
        if self.reason is None:
            return self.path
        return f"{self.path}: {self.reason.removeprefix(f'{self.path}: ')}"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """What scores the pictures, and the threshold."""

    predictor: Predictor
    product: str
    threshold: float | None  # None: the taught one, else the bundle's
    region_level: float | None  # as of `zsad_agent.inspection.View.regions`
    bundle: Bundle
    camera: CameraConfig
    view: View | None  # of the camera; None: what was masked in teach-in is ignored

    def threshold_of(self, prediction: Prediction | None) -> float:
        """The threshold for a prediction, or for a picture without one."""
        if self.threshold is not None:
            return self.threshold
        from zsad_core.types import TAUGHT_THRESHOLD

        if prediction is not None and prediction.threshold is not None:
            return prediction.threshold
        return TAUGHT_THRESHOLD if self.predictor.is_taught(self.product) else self.bundle.manifest.threshold.value

    def unknown(self, path: Path, reason: str) -> Score:
        """The result for a picture without a score."""
        from zsad_core.types import Verdict

        return Score(
            path=str(path),
            threshold=self.threshold_of(None),
            verdict=Verdict.UNKNOWN,
            reason=one_line(reason, MAX_REASON),
            provisional=not self.predictor.is_taught(self.product),
        )

    def predict(self, frame_bgr: np.ndarray) -> Prediction:
        """As the agent inspects a frame of the camera, uint8 [H, W, 3].

        Raises:
            ZsadError: as of `zsad_agent.model.Predictor.predict` and `zsad_agent.inspection.View`.
        """
        if self.view is None:
            return _as_taught(self.predictor.predict(frame_bgr, self.product))
        prediction = self.predictor.predict(self.view.cut(frame_bgr), self.product)
        frame_wh = frame_bgr.shape[1], frame_bgr.shape[0]
        return self.view.correct(prediction, frame_wh, self.bundle.manifest.model.score)


def find_pictures(paths: Sequence[Path]) -> list[tuple[Path, Path]]:
    """The pictures of files and folders in the given order, each with the path of its map below the maps' folder.

    The pictures of a folder are sorted by name. A map is named `<stem>.npy`, in the same subfolder as the picture.
    Pictures whose maps would have the same name (`a.png` and `a.jpg`) all get `<file name>.npy`. If that is the same
    too (two folders with the same names), the later ones get a number: `a.png.2.npy`. No map replaces another.
    What a folder holds besides pictures is reported on stderr.

    Raises:
        ImageError: there is no picture.
    """
    from zsad_core.picture import find_files

    found: list[tuple[Path, Path]] = []  # the picture, and its path below its folder
    for path in paths:
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a name is too long or a folder closed
            files = find_files(path)
            found += [
                (picture, picture.relative_to(path) if picture != path else Path(path.name or "folder"))
                for picture in files.pictures
            ]
            if files.skipped:
                print(f"zsad-agent: {printable(files.note)}", file=sys.stderr)
        else:
            found.append((path, Path(path.name)))
    if not found:
        raise ImageError(f"no pictures below {', '.join(map(str, paths))}")
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
        pictures.append((path, map_path))
    return pictures


class Judged(NamedTuple):
    """A score, and what it follows from; without a score both are None."""

    score: Score
    prediction: Prediction | None
    frame_wh: tuple[int, int] | None


def score_picture(path: Path, args: argparse.Namespace, scorer: Scorer, *, map_file: Path | None) -> Score:
    """As `judge_picture`; writes the anomaly map.

    Raises:
        OSError: the map cannot be written.
    """
    import numpy as np

    score, prediction, _ = judge_picture(path, args, scorer)
    if map_file is None or prediction is None:
        return score
    map_file.parent.mkdir(parents=True, exist_ok=True)
    np.save(map_file, prediction.anomaly_map.astype(np.float32))
    return replace(score, map=str(map_file))


def judge_picture(path: Path, args: argparse.Namespace, scorer: Scorer) -> Judged:
    """The score of one picture; without one the verdict is `unknown`, with the reason. `args`: as of `read_part`."""
    from zsad_core.judging import instant_verdict

    try:
        image = read_part(path, args, scorer.camera)
        started_s = time.perf_counter()
        prediction = scorer.predict(image)
        latency_ms = round((time.perf_counter() - started_s) * 1000, 3)
    except (ImageError, DeviceError, ProfileError) as error:
        return Judged(scorer.unknown(path, str(error)), None, None)
    threshold = scorer.threshold_of(prediction)
    if (reason := prediction.refusal(threshold)) is not None:
        return Judged(scorer.unknown(path, reason), None, None)
    score = Score(
        path=str(path),
        threshold=threshold,
        verdict=instant_verdict(prediction.anomaly_score, threshold),
        anomaly_score=prediction.anomaly_score,
        latency_ms=latency_ms,
        provisional=prediction.profile is None,
        profile=None if prediction.profile is None else asdict(prediction.profile),
    )
    return Judged(score, prediction, (image.shape[1], image.shape[0]))


def _as_taught(prediction: Prediction) -> Prediction:
    """The prediction without what the mask of the teach-in ignores."""
    import numpy as np

    from zsad_core.memory import taught_score

    if prediction.ignored is None or prediction.scale is None:
        return prediction
    score = taught_score(prediction.anomaly_map, prediction.scale, prediction.ignored)
    shown = np.where(prediction.ignored, np.float32(0), prediction.anomaly_map)
    return replace(prediction, anomaly_map=shown, anomaly_score=score)


def print_scores(scores: Iterable[Score], *, as_json: bool, with_map: bool) -> int:
    """Prints each score at once. Returns exit code 1 if any is unknown."""
    from zsad_core.types import Verdict

    counts: Counter[Verdict] = Counter()
    is_provisional = False
    if not as_json:
        print("verdict    score      ms  path", flush=True)
    for score in scores:
        counts[score.verdict] += 1
        is_provisional |= score.provisional
        print(score.as_json(with_map=with_map) if as_json else _row(score), flush=True)
    if not as_json:
        print(
            f"{counts.total()} pictures: {', '.join(f'{counts[verdict]} {verdict}' for verdict in Verdict)}", flush=True
        )
    if is_provisional and not as_json:
        print("The verdicts are provisional: no profile is used. Teach good parts with zsad-agent teach.", flush=True)
    return 1 if counts[Verdict.UNKNOWN] else 0


def _row(score: Score) -> str:
    figures = f"{'-':>5}  {'-':>6}"
    if score.anomaly_score is not None:
        figures = f"{score.anomaly_score:5.3f}  {score.latency_ms:6.1f}"
    return f"{score.verdict:<10} {figures}  {printable(score.text)}"
