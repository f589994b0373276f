"""Takes pictures of good parts from a camera or other source, each part once."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from zsad_agent import picture_health, sources
from zsad_agent.system import printable
from zsad_agent.tools.calibrate import look_same, looks_of
from zsad_core.errors import ImageError

if TYPE_CHECKING:  # numpy and pydantic take longer than parsing
    import numpy as np

    from zsad_agent.config import CameraConfig

PATIENCE_S = 60.0  # longest time without another part in view


def capture_goods(
    source: sources.Source,
    camera: CameraConfig,
    *,
    count: int,
    every_s: float,
    progress: Callable[[str, int, int], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[tuple[str, np.ndarray]]:
    """Opens the source and takes up to `count` pictures; of a live source they are `every_s` seconds apart.

    Pictures with a fault (black, frozen, out of focus …) and those that show the same part again are passed over and
    counted on stderr. It ends early at the end of the source, and if a live source shows nothing new for `PATIENCE_S`.

    Args:
        source: not yet opened.
        camera: its name, and the limits of its pictures.
        count: most pictures.
        every_s: seconds.
        progress: called with what is done, the number of pictures and `count`.
        clock: monotonic seconds.

    Returns:
        Names and pictures, uint8 BGR [H, W, 3].

    Raises:
        SourceError: the source cannot be opened, or is lost.
        ConfigError: the reference for picture health cannot be used.
    """
    reference = picture_health.load_reference(camera.health.reference) if camera.health.reference else None
    health = picture_health.PictureHealth(camera.health, reference, has_region=camera.region_xywh is not None)
    taken: list[tuple[str, np.ndarray]] = []
    looks: list[np.ndarray] = []
    passed: Counter[str] = Counter()
    names: Counter[str] = Counter()
    with source:
        due_s, newest_s = clock(), clock()
        while len(taken) < count and (source.lossless or clock() - newest_s < PATIENCE_S):
            try:
                picture = source.read()
            except ImageError as error:
                passed[str(error)] += 1
                continue
            if picture is None:
                break
            if not source.lossless and clock() < due_s:
                continue  # it was read so that the next picture is not an old one from a buffer
            now_s = clock()
            if source.lossless:
                finding = picture_health.unfit(picture.image, camera.health)
                reason = finding.reason if finding is not None else None
            else:
                reason = health.judge(picture.image, now_s)
            seen = looks_of(picture.image)
            if reason is None and any(look_same(seen, known) for known in looks):
                reason = "the same part again"
            if reason is not None:
                passed[reason] += 1
                continue
            looks.append(seen)
            name = picture.source_name or f"{camera.name}-{len(taken) + 1}"
            known = names[name] = names[name] + 1  # files of several folders may have the same name
            taken.append((name if known == 1 else f"{name} ({known})", picture.image))
            due_s, newest_s = now_s + every_s, now_s
            progress("taking pictures", len(taken), count)
    for reason, times in passed.most_common(8):
        print(f"zsad-agent: passed over: {times} pictures: {printable(reason)}", file=sys.stderr)
    if len(taken) < count:
        why = "the source has ended" if source.lossless else f"nothing new in view for {PATIENCE_S:.0f} s"
        print(f"zsad-agent: {len(taken)} of {count} pictures were taken: {why}", file=sys.stderr)
    return taken
