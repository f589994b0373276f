"""`zsad-agent teach`: learns a product from pictures of good parts and takes its profile into use."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent import inspection, sources, teaching
from zsad_agent.system import configure_logging, keep_memory_small, one_line, printable
from zsad_agent.tools.calibrate import MIN_FALSE_REJECT_RATE
from zsad_agent.tools.capture_goods import capture_goods
from zsad_agent.tools.flags import (
    add_config_flag,
    add_profiles_flag,
    add_rate_flag,
    command_parser,
    count,
    given,
    named_store,
)
from zsad_agent.tools.reference import camera_of
from zsad_agent.tools.score import MAX_REASON, find_pictures
from zsad_core.errors import ImageError, ProfileError

if TYPE_CHECKING:  # numpy and pydantic take longer than parsing
    import numpy as np

    from zsad_agent.config import CameraConfig
    from zsad_agent.teaching import Profile, Taught

Named = tuple[str, "Callable[[], np.ndarray]"]  # the name of a picture, and what reads it


def main(arguments: list[str]) -> int:
    """Teaches the product and says what it promises."""
    args = _parse(arguments)
    configure_logging("WARNING")
    keep_memory_small()

    from zsad_agent.config import load_settings
    from zsad_agent.model import Detector, FeatureNetworks, open_bundle
    from zsad_core.bundle import GENERIC_PRODUCT

    flags = {"source": given(camera=args.camera, source=args.source), "inference": given(bundle=args.bundle)}
    settings = load_settings(args.config, flags)
    config = settings.config
    store = named_store(args.profiles, config, may_be_new=True)
    store.check_writable()  # not only after the pictures were taken
    camera = camera_of(config, args.name, args.product)
    view = inspection.View(camera.region_xywh, camera.ignore_mask)
    inference = config.inference.model_copy(update={"product": GENERIC_PRODUCT})  # the config's may yet be taught
    bundle = open_bundle(inference)
    kept_frames = _frames(args.keep, camera) if args.keep else []
    frames = _without(_good_frames(args, camera), kept_frames)
    bad = _cut(_bad_frames(args, camera, frames + kept_frames), view)
    detector = Detector(bundle, inference)
    networks = FeatureNetworks(bundle, inference, detector)
    goods = _cut(frames, view)
    taught = teaching.teach(
        goods,
        product=args.product,
        networks=networks,
        detector=detector,
        bad=bad,
        rate=args.false_reject_rate,
        ignored=_ignored(frames, view, bundle.manifest.model.map_hw),
        mode=args.mode,
        health=camera.health,
        unchecked=args.unchecked,
        progress=say_progress,
    )
    if kept := _cut(kept_frames, view):
        kit = teaching.Networks(detector=detector, features=networks, config=inference)
        taught = teaching.learn_kept(taught, kept, bad, kit, say_progress)
    stored = store.add(taught.profile)
    path = stored.path
    assert path is not None
    sheet = args.sheet or path.with_suffix(".jpg")
    predictor = teaching.TaughtPredictor(detector, networks, lambda product: stored, inference)
    predict = partial(predictor.predict, product=args.product)
    try:
        teaching.write_sheet(taught, stored, sheet, goods=[*goods, *kept], bad=bad, predict=predict)
    except ProfileError as error:  # the profile is in use all the same
        print(f"zsad-agent: {error}", file=sys.stderr)
    name_left_out(taught)
    if args.json:
        print(json.dumps(as_json(taught, stored, path, sheet)))
    else:
        again = given(bundle=args.bundle, profiles=args.profiles, config=settings.path, name=args.name)
        print(as_text(taught, stored, path, sheet, again))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "teach",
        "Learns a product from pictures of good parts, or from a camera that sees good parts. The agent, "
        "score and bench then use what was learned. 20 pictures are a start, 100 allow a false reject rate of 1 %.",
        examples="zsad-agent teach good-parts --product bottle --bad bad-parts\n"
        "zsad-agent teach --camera 0 --product bottle --count 100",
        note="Exit code 1 if nothing could be learned; the earlier profile then stays in use.",
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="pictures of good parts, or folders")
    parser.add_argument("--product", required=True, metavar="NAME", help="the product, as results name it")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--camera", metavar="INDEX|PATH", help="take the pictures from a V4L2 camera: 0, or its path")
    where.add_argument("--source", metavar="URI", help="the same from an RTSP or HTTP URL, video, folder or glob")
    parser.add_argument("--count", type=count, default=30, metavar="N", help="of a camera or source; default 30")
    parser.add_argument(
        "--every-ms", type=count, default=500, metavar="MS", help="time between two pictures of a camera; default 500"
    )
    parser.add_argument("--bad", nargs="+", type=Path, metavar="PATH", help="pictures of bad parts: how many are found")
    parser.add_argument(
        "--keep",
        nargs="+",
        default=[],
        type=Path,
        metavar="PATH",
        help="good parts that an earlier run left out as outliers: they are good, so learn them",
    )
    add_rate_flag(parser)
    parser.add_argument(
        "--mode",
        choices=("frame", "box", "strip"),
        help="where the part is: the whole picture, cut out, or long and turned to one pose; default: chosen",
    )
    parser.add_argument("--bundle", type=Path, metavar="PATH", help="folder, .zip or name of a shipped bundle")
    add_profiles_flag(parser)
    add_config_flag(parser)
    parser.add_argument("--name", metavar="NAME", help="the camera of the config whose region and mask apply")
    parser.add_argument(
        "--unchecked", action="store_true", help="learn pictures too that look the same or were rejected"
    )
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="picture of what was learned; default: by the profile"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(arguments)
    rate = args.false_reject_rate
    if not MIN_FALSE_REJECT_RATE <= rate < 1:
        parser.error(f"--false-reject-rate: {rate} is not between {MIN_FALSE_REJECT_RATE:g} and 1")
    if args.sheet is not None and not args.sheet.absolute().parent.is_dir():
        parser.error(f"--sheet: {args.sheet.parent}: no such folder")
    if args.paths and (args.camera is not None or args.source is not None):
        parser.error("name either pictures or a camera or source")
    try:
        from zsad_core.bundle import product_name

        args.product = product_name(args.product)
    except ValueError as error:
        parser.error(f"--product: {error}")
    return args


def _good_frames(args: argparse.Namespace, camera: CameraConfig) -> list[Named]:
    if args.paths:
        return _frames(args.paths, camera)
    source = sources.make_source(camera.model_copy(update={"trigger": "free"}))  # without triggers
    taken = capture_goods(source, camera, count=args.count, every_s=args.every_ms / 1000, progress=say_progress)
    return [(name, partial(_same, image)) for name, image in taken]


def _bad_frames(args: argparse.Namespace, camera: CameraConfig, goods: Sequence[Named]) -> list[Named]:
    """The bad parts.

    Raises:
        ImageError: one of them is among the good parts, so that it would be learned.
    """
    frames = _frames(args.bad, camera) if args.bad else []
    known = {os.path.realpath(name) for name, _ in goods}
    if both := [name for name, _ in frames if os.path.realpath(name) in known]:
        raise ImageError(f"{both[0]}: is among the good parts and among those of --bad ({len(both)} such pictures)")
    return frames


def _frames(paths: Sequence[Path], camera: CameraConfig) -> list[Named]:
    """The pictures of files and folders.

    Raises:
        ImageError: there is no such file or folder, or it holds no picture.
    """
    from zsad_core.picture import read_image

    for path in paths:
        if not os.path.lexists(path):
            raise ImageError(f"{path}: no such file or folder")
    return [(str(path), partial(read_image, path, camera.used_bits)) for path, _ in find_pictures(paths)]


def _without(frames: Sequence[Named], others: Sequence[Named]) -> list[Named]:
    known = {os.path.realpath(name) for name, _ in others}
    return [frame for frame in frames if os.path.realpath(frame[0]) not in known]


def _same(image: np.ndarray) -> np.ndarray:
    return image


def _cut(frames: Sequence[Named], view: inspection.View) -> list[Named]:
    """The frames' inspected parts, each cut when it is read."""

    def cut(read: Callable[[], np.ndarray]) -> np.ndarray:
        return view.cut(read())

    return [(name, partial(cut, read)) for name, read in frames]


def _ignored(frames: Sequence[Named], view: inspection.View, map_hw: tuple[int, int]) -> np.ndarray | None:
    """bool [h, w]: what the camera's mask ignores in frames of the size of the first one that can be read.

    Raises:
        ImageError: the mask does not fit the frames.
    """
    for _, read in frames:
        try:
            height, width = read().shape[:2]
        except ImageError:
            continue
        return view.ignored((width, height), map_hw)
    return None


def say_progress(what: str, done: int, total: int) -> None:
    """Shows it on stderr: a line that is overwritten on a terminal, else one line when it is done."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(f"zsad-agent: {what}: {total}", file=sys.stderr)


def name_left_out(taught: Taught) -> None:
    """Names on stderr what was not learned, and the bad parts that are missed."""
    for left_out in taught.left_out:
        text = one_line(f"{left_out.name}: {left_out.reason}", MAX_REASON)
        print(f"zsad-agent: left out: {printable(text)}", file=sys.stderr)
    if taught.outliers:
        print("zsad-agent: if a part that looks different is good, name it with --keep", file=sys.stderr)
    for name in taught.missed:
        print(f"zsad-agent: missed: {printable(name)}: scores {taught.bad_scores[name]:.3f}", file=sys.stderr)


def as_json(taught: Taught, stored: Profile, path: Path, sheet: Path) -> dict[str, object]:
    """The output of `--json`."""
    from zsad_core.types import TAUGHT_THRESHOLD

    level = stored.levels[-1]
    return {
        "product": stored.product,
        "goods": len(taught.good_scores.keys() | {good.name for good in stored.goods}),
        "outliers": [outlier.name for outlier in taught.outliers],
        "left_out": [{"path": left_out.name, "reason": left_out.reason} for left_out in taught.left_out],
        "threshold": TAUGHT_THRESHOLD,
        "false_reject_rate": level.false_reject_rate,
        "false_reject_rate_90": level.false_reject_rate_90,
        "needed": level.needed,
        "recall": None if level.recall is None else level.recall.share,
        "missed": list(taught.missed),
        "mode": stored.part.mode,
        "notes": list(taught.notes),
        "profile": str(path),
        "sha256": stored.sha256,
        "sheet": str(sheet),
    }


def as_text(taught: Taught, stored: Profile, path: Path, sheet: Path, flags: Mapping[str, object]) -> str:
    """The output for a person. `flags`: those with which the profile is found again."""
    goods = len(taught.good_scores)
    again = "".join(f" --{name} {shlex.quote(str(value))}" for name, value in flags.items())
    lines = [
        f"{printable(stored.product)}: learned from {len(stored.goods)} pictures of good parts; left out: "
        f"{len(taught.left_out)}; pictures that set the threshold: {goods}",
        f"where the part is: {stored.part.mode}",
        *promise_lines(stored, goods),
        *map(printable, taught.notes),
        f"profile: {path} ({stored.sha256[:12]})",
        f"sheet:   {sheet}",
        f"next:    zsad-agent score PICTURES --product {shlex.quote(stored.product)}{again}",
        f"         then set inference.product: {shlex.quote(stored.product)} in the config (of several cameras: the "
        "camera's product:) and reload the agent",
    ]
    return "\n".join(lines)


def promise_lines(profile: Profile, goods: int) -> list[str]:
    """What the threshold of the highest level promises, with the recall beside it."""
    from zsad_core.memory import recall_interval

    level = profile.levels[-1]
    lines = [
        f"false rejects: about {level.false_reject_rate:.1%} of good parts; with 90 % confidence at most "
        f"{level.false_reject_rate_90:.1%}"
    ]
    if goods < level.needed:
        lines.append(
            f"{goods} pictures are too few for the {profile.asked_rate:.1%} that was asked for: "
            f"take at least {level.needed}"
        )
    recall = "unknown: name pictures of bad parts with --bad"
    if level.recall is not None:
        low, high = recall_interval(level.recall.found, level.recall.total)
        recall = f"{level.recall.found} of {level.recall.total}; with 90 % confidence {low:.0%} to {high:.0%}"
    return [*lines, f"bad parts found: {recall}"]
