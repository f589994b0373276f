"""Whether pictures can be inspected: exposure and structure; of a live camera also frozen picture, focus, position."""

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np

from zsad_agent.config import HealthConfig
from zsad_agent.picture_health.reference import Reference, whole_energy
from zsad_agent.picture_health.scene import Views, followed, locate, tile_correlations, tile_energies, tile_stds, views

CONFIRM_LOOKS = 3  # comparisons in a row with the same outcome that change the stated health
REFERENCE_EVERY_S = 0.1  # interval of comparisons, which take 1 to 2 ms each
SEEN_MATCH = 0.7  # a tile with at least this correlation shows the background: its sharpness is compared
SAMPLE_SIDE = 64  # exposure is measured on about so many rows and columns
SAMPLED_SIDE = 960  # pixels; of a picture of twice this size, every second pixel is enough to measure its structure
BLOCKS, MAX_BLOCK, MIN_BLOCKS = 48, 16, 8  # blocks along the longer side, pixels of a block, blocks along any side
PLAIN_TILE = 8  # blocks
LOW_BITS = "If a 16-bit file or camera uses only 10 or 12 bits, set source.bit_depth"  # then white is at 3 or 15


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of one picture."""

    kind: str
    reason: str
    certain: bool  # True: one picture proves it. False: several in a row must show it


class PictureHealth:
    """Checks every frame of one camera. A frame with a fault gets the verdict `unknown` with this reason.

    - Black, overexposed, without structure, frozen, or of another size than the reference or the region: the first
      such frame is a fault.
    - Moved, another scene, out of focus: a fault when `CONFIRM_LOOKS` comparisons in a row find any of these.
    - Once stated, every frame is unknown until as many comparisons in a row find nothing.

    Frozen means that the picture is bit for bit the same, which is impossible with sensor noise. A strongly compressed
    stream can repeat a picture between two key frames: `frozen_after_s` must be longer than that.
    """

    def __init__(self, config: HealthConfig, reference: Reference | None, *, has_region: bool = False) -> None:
        """With `has_region` the picture size must stay that of the reference, or without one of the first picture."""
        self._config = config
        self._reference = reference
        self._has_region = has_region
        self._region_wh: tuple[int, int] | None = None
        self._state: Finding | None = None
        self._latest: deque[Finding | None] = deque(maxlen=CONFIRM_LOOKS)  # outcomes of the latest comparisons
        self._held: np.ndarray | None = None  # the picture that a frozen camera repeats
        self._held_since_s = 0.0
        self._repeats = 0
        self._next_comparison_s = -float("inf")

    @property
    def stated(self) -> str | None:
        """The confirmed fault, or None."""
        return self._state.reason if self._state is not None else None

    def judge(self, image_bgr: np.ndarray, now_s: float) -> str | None:
        """Why this frame, uint8 BGR [H, W, 3], must not be inspected; None if it may.

        Args:
            image_bgr: kept until the next call, not to be changed by the caller.
            now_s: monotonic seconds.
        """
        finding = self._frozen(image_bgr, now_s)
        finding = unfit(image_bgr, self._config) or finding or self._other_size(image_bgr)
        if finding is None and self._reference is not None:
            if now_s < self._next_comparison_s:
                return self.stated
            self._next_comparison_s = now_s + REFERENCE_EVERY_S
            finding = compare(views(image_bgr), self._reference, self._config)
        self._confirm(finding)
        return finding.reason if finding is not None and finding.certain else self.stated

    def _confirm(self, finding: Finding | None) -> None:
        self._latest.append(finding)
        kinds = {found.kind if found is not None else None for found in self._latest}
        if len(self._latest) < CONFIRM_LOOKS:
            return
        stated = self._state.kind if self._state is not None else None
        swings = stated is None and None not in kinds  # each comparison found another fault
        if swings or (len(kinds) == 1 and stated not in kinds):
            self._state = finding

    def _frozen(self, image_bgr: np.ndarray, now_s: float) -> Finding | None:
        limit_s = self._config.frozen_after_s
        if limit_s == 0:
            return None
        if self._held is None or not same_picture(self._held, image_bgr):
            self._held, self._held_since_s, self._repeats = image_bgr, now_s, 0
            return None
        self._repeats += 1
        if now_s - self._held_since_s < limit_s or self._repeats < CONFIRM_LOOKS:
            return None
        return Finding("frozen", f"frozen picture: the same, bit for bit, for {limit_s:g} s", True)

    def _other_size(self, image_bgr: np.ndarray) -> Finding | None:
        frame_wh = image_bgr.shape[1], image_bgr.shape[0]
        if self._reference is not None:
            wanted_wh, setting, remedy = self._reference.frame_wh, "health.reference was made from", "make it again"
        elif self._has_region:
            wanted_wh = self._region_wh = self._region_wh or frame_wh
            setting, remedy = "region_xywh is in pixels of", "set it again and restart"
        else:
            return None
        if frame_wh == wanted_wh:
            return None
        size, wanted = ("{}x{}".format(*wh) for wh in (frame_wh, wanted_wh))
        return Finding("size", f"the picture is {size}, {setting} {wanted}: {remedy}", True)


def unfit(image_bgr: np.ndarray, config: HealthConfig) -> Finding | None:
    """Whether a picture, uint8 BGR [H, W, 3], is black, overexposed, or without structure."""
    return _exposure(image_bgr, config) or _plain(image_bgr, config)


def _exposure(image_bgr: np.ndarray, config: HealthConfig) -> Finding | None:
    """Judges a sample of the pixels."""
    height, width = image_bgr.shape[:2]
    step = max(1, min(height, width) // SAMPLE_SIDE)
    grey = np.sort(cv2.cvtColor(np.ascontiguousarray(image_bgr[::step, ::step]), cv2.COLOR_BGR2GRAY), axis=None)
    bright, dark = int(grey[int(0.99 * (grey.size - 1))]), int(grey[int(0.01 * (grey.size - 1))])
    if bright < config.dark_below:
        limit = f"99 % of it is at {bright} of 255 or darker, health.dark_below is {config.dark_below:g}"
        if bright and not np.ptp(image_bgr[::step, ::step], axis=2).any():
            limit += f". {LOW_BITS}"
        return Finding("black", f"black picture: {limit}", True)
    if dark > config.bright_above:
        limit = f"99 % of it is at {dark} of 255 or brighter, health.bright_above is {config.bright_above:g}"
        return Finding("overexposed", f"overexposed picture: {limit}", True)
    return None


def _plain(image_bgr: np.ndarray, config: HealthConfig) -> Finding | None:
    if min(image_bgr.shape[:2]) < MIN_BLOCKS or (found := structure(image_bgr)) >= config.plain_below:
        return None  # the model refuses a smaller picture
    text = f"its strongest structure has {found:.2f} grey levels, health.plain_below is {config.plain_below:g}"
    remedy = "The lens is covered or nothing is in view. If good parts look like this, set it to 0"
    return Finding("plain", f"picture without structure: {text}. {remedy}", True)


def structure(image_bgr: np.ndarray) -> float:
    """The structure of a picture, uint8 BGR [H, W, 3], in grey levels, where it is strongest.

    It is the root mean square of the second derivatives of the block means, in the tile where that is greatest. Sensor
    noise cancels out in a block. Shading and vignetting have no second derivative. The level of white noise with a
    standard deviation of 1 block mean is 1.
    """
    height, width = image_bgr.shape[:2]
    if (step := max(height, width) // SAMPLED_SIDE) > 1:
        height, width = max(MIN_BLOCKS, height // step), max(MIN_BLOCKS, width // step)
        image_bgr = cv2.resize(image_bgr, (width, height), interpolation=cv2.INTER_NEAREST)
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    block = max(1, min(max(height, width) // BLOCKS, MAX_BLOCK, min(height, width) // MIN_BLOCKS))
    rows, columns = height // block, width // block  # whole blocks are averaged several times faster
    means = cv2.resize(grey[: rows * block, : columns * block], (columns, rows), interpolation=cv2.INTER_AREA)
    across, down = (cv2.Sobel(means, cv2.CV_32F, *order, ksize=1)[1:-1, 1:-1] for order in ((2, 0), (0, 2)))
    squares = across * across + down * down
    tiles_wh = max(1, columns // PLAIN_TILE), max(1, rows // PLAIN_TILE)
    return float(np.sqrt(cv2.resize(squares, tiles_wh, interpolation=cv2.INTER_AREA).max() / 12))


def same_picture(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two uint8 arrays are equal in every bit. Compares a few rows first, which usually differ."""
    if one.shape != other.shape or not np.array_equal(one[::97], other[::97]):
        return False
    flat = [np.ascontiguousarray(image).reshape(-1) for image in (one, other)]
    if one.size % 8 == 0:
        flat = [image.view(np.uint64) for image in flat]  # four times faster to compare
    return np.array_equal(flat[0], flat[1])


def compare(view: Views, reference: Reference, config: HealthConfig) -> Finding | None:
    """Compares a frame of the reference's size with it: another scene, moved, or out of focus, in this order."""
    if reference.judges_position:
        position = locate(reference.background, view.small, reference.stable)
        if position.match < config.scene_match:
            text = f"{position.match:.2f}, health.scene_match is {config.scene_match:g}"
            return Finding("scene", f"changed scene: the likeness of the fixed background is {text}", False)
        if position.shift_share > config.moved_share:
            text = f"{position.shift_share:.1%} of the picture's width, health.moved_share is {config.moved_share:.1%}"
            return Finding("moved", f"moved camera: the fixed background is shifted by {text}", False)
        if position.shift_share > 0:
            view = followed(view, position)
    sharpness = sharpness_ratio(view, reference)
    if sharpness is not None and sharpness < config.focus_share:
        text = f"{max(sharpness, 0):.2f} of the reference's, health.focus_share is {config.focus_share:g}"
        return Finding("focus", f"out of focus: the sharpness is {text}", False)
    return None


def sharpness_ratio(view: Views, reference: Reference) -> float | None:
    """Sharpness as a share of the reference's, corrected for contrast; None if the reference has no sharp structure.

    It is measured on the fixed background if that has structure and no part covers it, else on the whole picture.
    """
    energies = tile_energies(view)
    sharp = reference.sharp_tiles
    if sharp.any():
        seen = sharp & (tile_correlations(reference.background, view.small, reference.stable) >= SEEN_MATCH)
        if seen.sum() < sharp.sum() / 3:  # parts cover the rest
            return None
        before = tile_stds(reference.background, reference.stable)[seen]
        now = tile_stds(view.small, reference.stable)[seen]
        gain = float(np.median(now / before))
        return float(np.median(energies[seen] / reference.energies[seen])) / max(gain, 0.05) ** 2
    return whole_energy(energies) / reference.whole_energy if reference.judges_focus else None
