"""`zsad-agent reference`: takes frames of the running station and reports what can be checked with them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent import picture_health, sources
from zsad_agent.system import configure_logging
from zsad_agent.tools.flags import add_source_flags, command_parser, count, given
from zsad_core.errors import ConfigError, ImageError, SourceError, some

if TYPE_CHECKING:  # numpy and pydantic take longer than parsing
    import numpy as np

    from zsad_agent.config import AgentConfig, CameraConfig, HealthConfig

STANDING_SHARE = 0.995  # with a larger fixed share nothing moved while the frames were taken


def main(arguments: list[str]) -> int:
    """Writes the reference of a camera to a file."""
    parser = command_parser(
        "reference",
        "Takes frames of the running line and writes their fixed background to a file for health.reference."
        " With it the agent detects a moved camera, a changed scene and lost focus. Parts must move meanwhile.",
        examples="zsad-agent reference --camera 0 --out cam0.npz",
    )
    add_source_flags(parser)
    parser.add_argument("--name", metavar="NAME", help="a camera of the config; required if it has several")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write, .npz")
    parser.add_argument("--frames", type=count, default=50, metavar="N", help="frames to take; default %(default)s")
    parser.add_argument(
        "--every", type=float, default=0.5, metavar="S", help="seconds between two frames of a camera; default 0.5"
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.every <= 3600:
        parser.error(f"--every: {args.every} is not between 0 and 3600")

    from zsad_agent.config import load_settings

    config = load_settings(args.config, {"source": given(camera=args.camera, source=args.source)}).config
    configure_logging("WARNING")
    camera = choose_camera(config.every_camera, args.name)
    source = sources.make_source(camera.model_copy(update={"trigger": "free"}))  # frames are taken without triggers
    made = take_reference(source, camera.health, frames=args.frames, every_s=args.every)
    picture_health.save_reference(made, args.out)
    print("\n".join([str(args.out), *describe(made)]))
    return 0


def choose_camera(cameras: Sequence[CameraConfig], name: str | None) -> CameraConfig:
    """The camera of this name, or the only one.

    Raises:
        ConfigError: no camera has this name, or there are several and no name is given.
    """
    chosen = [camera for camera in cameras if name is None or camera.name == name]
    if len(chosen) == 1:
        return chosen[0]
    names = some([camera.name for camera in cameras])
    fault = "name one of the cameras" if name is None else f"no camera is called {name!r}. The cameras are"
    raise ConfigError(f"--name: {fault}: {names}")


def camera_of(config: AgentConfig, name: str | None, product: str | None) -> CameraConfig:
    """The camera whose region, mask and limits apply: the only one of the product, else as of `choose_camera`."""
    cameras = config.every_camera
    if name is None:
        of_product = tuple(camera for camera in cameras if camera.product == product)
        cameras = of_product if len(of_product) == 1 else cameras
    return choose_camera(cameras, name)


def take_reference(
    source: sources.Source, health: HealthConfig, *, frames: int, every_s: float
) -> picture_health.Reference:
    """Opens the source and makes a reference from `frames` frames; of a live source they are `every_s` seconds apart.

    Raises:
        SourceError: too few frames, different sizes, black or overexposed, or without fixed structure.
        ImageError: a picture file cannot be read.
    """

    def taken() -> Iterator[np.ndarray]:
        due_s, number = -float("inf"), 0
        while number < frames:
            try:
                picture = source.read()
            except ImageError:  # a live source is lost after too many damaged pictures in a row
                if source.lossless:
                    raise
                continue
            if picture is None:
                return
            if not source.lossless and time.monotonic() < due_s:
                continue  # it was read so that the next frame is not an old one from a buffer
            due_s, number = time.monotonic() + every_s, number + 1
            if finding := picture_health.unfit(picture.image, health):
                raise SourceError(f"{source.description}: frame {number}: {finding.reason}")
            if sys.stderr.isatty():
                print(f"\r{number} of {frames} frames", end="\n" if number == frames else "", file=sys.stderr)
            yield picture.image

    with source:
        reference = picture_health.make_reference(taken())
    if not (reference.judges_position or reference.judges_focus):
        raise SourceError(
            f"{source.description}: nothing in view is fixed and has structure, so position and focus cannot "
            "be checked. Bring something fixed into view, such as the machine's edge"
        )
    return reference


def describe(reference: picture_health.Reference) -> list[str]:
    """What can be checked with the reference, line by line."""
    fixed = float(reference.stable.mean())
    width, height = reference.frame_wh
    position, focus = "not checked, too little is fixed", "not checked, nothing in view is sharp"
    if reference.judges_position:
        smooth = ", but roughly: a small move does not show, because what is fixed is too smooth"
        position = "checked" + ("" if reference.notices_moves else smooth)
    if reference.judges_focus:
        sharp = reference.sharp_tiles.any()
        focus = "checked, by what is fixed" if sharp else "checked roughly, by the whole picture"
    lines = [
        f"frames of {width}x{height}, of which {fixed:.0%} is fixed",
        f"moved camera, changed scene: {position}",
        f"out of focus: {focus}",
    ]
    if fixed >= STANDING_SHARE:
        lines.append("almost nothing moved: if parts pass there, repeat this while they do")
    return lines
