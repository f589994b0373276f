"""`zsad-agent reference`: takes frames of the running line and reports what can be checked with them."""

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from zsad_agent.config import CameraConfig, HealthConfig
from zsad_agent.picture_health import Reference, exposure, make_reference
from zsad_agent.sources import Picture, Source
from zsad_core.errors import ConfigError, ImageError, SourceError, some

STANDING_SHARE = 0.995  # with a larger fixed share nothing moved while the frames were taken


def choose_camera(cameras: Sequence[CameraConfig], name: str | None) -> CameraConfig:
    """The camera of this name, or the only one.

    Raises:
        ConfigError: no camera has this name, or there are several and no name is given.
    """
    chosen = [camera for camera in cameras if name is None or camera.name == name]
    if len(chosen) == 1:
        return chosen[0]
    names = some([camera.name for camera in cameras])
    raise ConfigError(f"--name: {'name one of' if name is None else f'{name!r} is none of'} the cameras: {names}")


def take_reference(
    source: Source,
    health: HealthConfig,
    *,
    frames: int,
    every_s: float,
    progress: Callable[[int], None] = lambda taken: None,
    clock: Callable[[], float] = time.monotonic,
) -> Reference:
    """Opens the source and makes a reference from `frames` frames; of a live source they are `every_s` seconds apart.

    Raises:
        SourceError: too few frames, different sizes, black or overexposed, or without fixed structure.
        ImageError: a picture file cannot be read.
    """

    def taken() -> Iterator[np.ndarray]:
        due_s, count = -float("inf"), 0
        while count < frames and (picture := _next_whole(source)) is not None:
            if not source.lossless and clock() < due_s:
                continue  # read it anyway, so that the next frame is not an old one from a buffer
            due_s, count = clock() + every_s, count + 1
            if unfit := exposure(picture.image, health):
                raise SourceError(f"{source.description}: frame {count}: {unfit.reason}")
            progress(count)
            yield picture.image

    with source:
        reference = make_reference(taken())
    if not (reference.judges_position or reference.judges_focus):
        raise SourceError(
            f"{source.description}: nothing in view is fixed and has structure, so position and focus cannot "
            "be checked. Bring something fixed into view, such as the machine's edge"
        )
    return reference


def _next_whole(source: Source) -> Picture | None:
    """The next picture; skips damaged pictures of a live source, which is lost after too many in a row."""
    while True:
        try:
            return source.read()
        except ImageError:
            if source.lossless:
                raise


def describe(reference: Reference) -> list[str]:
    """What can be checked with the reference, line by line."""
    fixed = float(reference.stable.mean())
    width, height = reference.frame_wh
    focus = "by what is fixed" if reference.sharp_tiles.any() else "by the whole picture, roughly"
    place = "judged" if reference.judges_position else "not judged, too little is fixed"
    if reference.judges_position and not reference.notices_moves:
        place = "judged roughly, what is fixed is too smooth for a small move to show"
    lines = [
        f"frames of {width}x{height}, of which {fixed:.0%} is fixed",
        f"moved camera, changed scene: {place}",
        f"out of focus: {f'judged {focus}' if reference.judges_focus else 'not judged, nothing in view is sharp'}",
    ]
    if fixed >= STANDING_SHARE:
        lines.append("almost nothing moved: if parts pass there, repeat this while they do")
    return lines
