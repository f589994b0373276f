"""The reference of a camera: what it sees when nothing is wrong, in a small file. Made once after mounting."""

import errno
import io
import zipfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zsad_agent.picture_health.scene import (
    MIN_TILE_STD,
    MIN_TILES,
    SMALL_WIDTH,
    SURE_MATCH,
    TILE,
    small_height,
    tile_energies,
    tile_match,
    tile_stds,
    views,
)
from zsad_agent.system import write_whole
from zsad_core.errors import ConfigError, SourceError

FORMAT = 1
MIN_FRAMES = 5
MAX_FILE_BYTES = 4_000_000  # all arrays, unpacked; a real reference has about a twentieth
STABLE_SPREAD = 8.0  # grey levels between the 10th and 90th percentile over time, corrected for changes of light
NOTICEABLE_SHIFT = 8  # pixels of the small picture, a twentieth of its width
MIN_ENERGY = 3.0  # mean squared Laplacian of the sharpest third; the noise of a usable camera is below


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Arrays as in `zsad_agent.picture_health.scene`: h w of the small picture, r c of its tiles."""

    frame_wh: tuple[int, int]
    background: np.ndarray  # float32 [h, w], grey
    stable: np.ndarray  # float32 [h, w] of 0 and 1: 1 where the picture does not change while the line runs
    energies: np.ndarray  # float32 [r, c], sharpness of every tile
    whole_energy: float  # sharpness of the picture's sharpest tenth, in the least sharp frames

    @cached_property
    def tiles(self) -> np.ndarray:
        """bool [r, c]: tiles with enough fixed structure to find them again."""
        used: np.ndarray = tile_stds(self.background, self.stable) >= MIN_TILE_STD
        return used

    @cached_property
    def sharp_tiles(self) -> np.ndarray:
        """bool [r, c]: the sharpest third of the tiles; none if all are already too blurred."""
        used = self.tiles
        if used.sum() < MIN_TILES:
            return np.zeros_like(used)
        count = max(MIN_TILES, int(used.sum()) // 3)
        sharp: np.ndarray = used & (self.energies >= np.sort(self.energies[used])[-count])
        return sharp if float(np.median(self.energies[sharp])) >= MIN_ENERGY else np.zeros_like(used)

    @property
    def judges_position(self) -> bool:
        return int(self.tiles.sum()) >= MIN_TILES

    @cached_property
    def notices_moves(self) -> bool:
        """Whether a move by `NOTICEABLE_SHIFT` can be detected; with smooth shading only it cannot."""
        return self.judges_position and all(
            tile_match(self.background, np.roll(self.background, NOTICEABLE_SHIFT, axis), self.stable)[0] < SURE_MATCH
            for axis in (0, 1)
        )

    @property
    def judges_focus(self) -> bool:
        return bool(self.sharp_tiles.any()) or self.whole_energy >= MIN_ENERGY


def make_reference(frames: Iterable[np.ndarray]) -> Reference:
    """Makes a reference from frames, uint8 BGR [H, W, 3], of the running line. Parts must move between the frames.

    Raises:
        SourceError: too few frames, or frames of different sizes.
    """
    smalls: list[np.ndarray] = []
    energies: list[np.ndarray] = []
    frame_wh: tuple[int, int] | None = None
    for frame in frames:
        height, width = frame.shape[:2]
        if frame_wh not in (None, (width, height)):
            raise SourceError(f"frame {len(smalls) + 1} is {width}x{height}, those before {frame_wh}: use one camera")
        frame_wh = (width, height)
        view = views(frame)
        bright = smalls[0] >= np.median(smalls[0]) if smalls else np.ones(view.small.shape, bool)
        gain = float(np.median(view.small[bright] / np.maximum(smalls[0][bright], 1))) if smalls else 1.0
        smalls.append(view.small / max(gain, 1e-3))
        energies.append(tile_energies(view))
    if frame_wh is None or len(smalls) < MIN_FRAMES:
        raise SourceError(f"{len(smalls)} frames are too few for a reference: at least {MIN_FRAMES}, better 50")
    low, high = np.percentile(smalls, [10, 90], axis=0)
    return Reference(
        frame_wh=frame_wh,
        background=np.median(smalls, axis=0).astype(np.float32),
        stable=(high - low <= STABLE_SPREAD).astype(np.float32),
        energies=np.median(energies, axis=0).astype(np.float32),
        whole_energy=float(np.percentile([whole_energy(one) for one in energies], 5)),
    )


def whole_energy(energies: np.ndarray) -> float:
    """The sharpness of a whole picture: that of its sharpest tenth, so the place of the part does not matter."""
    return float(np.quantile(energies, 0.9))


def save_reference(reference: Reference, path: Path) -> None:
    """Writes the file completely or not at all.

    Raises:
        OSError: it cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected the name of a file", str(path))
    content = io.BytesIO()
    arrays = {**asdict(reference), "stable": reference.stable.astype(np.bool_)}
    np.savez_compressed(content, format=FORMAT, **arrays)
    write_whole(path, content.getvalue())


def load_reference(path: Path) -> Reference:
    """Reads a file of `save_reference` and checks everything in it.

    Raises:
        ConfigError: the file is missing or not valid.
    """
    again = "Make it with zsad-agent reference"
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_FILE_BYTES:
            raise ValueError(f"{size} bytes of arrays, a reference has at most {MAX_FILE_BYTES}")
        with np.load(path, allow_pickle=False) as arrays:
            return _from_arrays({name: arrays[name] for name in arrays.files})
    except OSError as error:
        raise ConfigError(f"{path}: reference cannot be read: {error.strerror or error}. {again}") from error
    except Exception as error:  # decoders raise many types for a damaged archive: zlib.error, IndexError …
        raise ConfigError(f"{path}: not a reference, or damaged: {error}. {again}") from error


def _from_arrays(arrays: dict[str, Any]) -> Reference:
    """Raises ValueError or KeyError if the arrays are not those of a reference."""
    if int(arrays["format"]) != FORMAT:
        raise ValueError(f"format {int(arrays['format'])}, this agent reads {FORMAT}")
    width, height = (int(side) for side in arrays["frame_wh"])
    background, stable, energies = arrays["background"], arrays["stable"], arrays["energies"]
    if background.dtype != np.float32 or energies.dtype != np.float32 or stable.dtype != np.bool_:
        raise ValueError("arrays of wrong types")
    if min(width, height) < 1:
        raise ValueError(f"a frame of {width}x{height}")
    shape = (small_height(height, width), SMALL_WIDTH)
    expected = [shape, shape, (shape[0] // TILE, shape[1] // TILE)]
    found = [background.shape, stable.shape, energies.shape]
    if found != expected:
        raise ValueError(f"arrays of shapes {found} for a frame of {width}x{height}, expected {expected}")
    energy = float(arrays["whole_energy"])
    if not (np.isfinite(background).all() and np.isfinite(energies).all() and np.isfinite(energy)):
        raise ValueError("a value is not a finite number")
    return Reference(
        frame_wh=(width, height),
        background=background,
        stable=stable.astype(np.float32),
        energies=energies,
        whole_energy=energy,
    )
