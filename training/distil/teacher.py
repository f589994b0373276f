"""A teacher's answer to an image, and the cache of its answers on disk."""

import hashlib
import logging
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad_core.backbones import standardise_patches
from zsad_core.errors import ConfigError
from zsad_core.heads import anomaly_score
from zsad_core.model import Detector
from zsad_core.weights import weights_digest
from zsad_core.whole_file import whole_file
from zsad_training.distil.pictures import DistilBatch
from zsad_training.run import announce_cache, stacked_text

logger = logging.getLogger(__name__)

MAP_STRIDE = 4  # pixels of the teacher's image for each value of the kept map
TILED = 1.5  # size of the image from which tiles are cut, relative to the teacher's input
DETAIL = 0.2  # of the map's width: what is smaller is a detail
SURE = 1e-6  # probabilities stay this far from 0 and 1: logits fit float16 and losses are finite


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a teacher to a batch, float32."""

    score_logits: Tensor  # [B]
    map_logits: Tensor  # [B, h, w]
    features: Tensor | None  # [B, L, N, D], standardised over N


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The layout of an answer in a row of numbers."""

    map_hw: tuple[int, int]
    features_hw: tuple[int, int] | None  # grid of the kept tokens; None: no tokens
    taps: int
    embed_dim: int

    @property
    def features_shape(self) -> tuple[int, int, int]:
        """L, N, D."""
        return self.taps, math.prod(self.features_hw) if self.features_hw else 0, self.embed_dim

    @property
    def length(self) -> int:
        """Numbers of one answer."""
        return 1 + math.prod(self.map_hw) + math.prod(self.features_shape)

    def unpack(self, rows: Tensor) -> Answers:
        """The answers in `rows`, float16 [B, length]."""
        score, maps, features = rows.float().split([1, math.prod(self.map_hw), math.prod(self.features_shape)], dim=1)
        return Answers(
            score_logits=score[:, 0],
            map_logits=maps.unflatten(1, self.map_hw),
            features=features.unflatten(1, self.features_shape) if self.features_hw else None,
        )


class Answering(Protocol):
    """A teacher, with or without a cache."""

    layout: Layout
    text: dict[str, np.ndarray]  # product -> [T, 2]; empty without text
    digest: str  # hash of weights and settings

    def rows(self, batch: DistilBatch) -> Tensor:
        """float16 [B, `layout.length`], on any device."""


class Teacher:
    """A frozen detector. Its answer to an image does not depend on other images.

    Answers are always computed in float32 and rounded to float16, with or without a cache and in any precision of the
    run. So a run gets the same answers whether they are cached or not.
    """

    def __init__(
        self,
        detector: Detector,
        text: dict[str, np.ndarray],
        *,
        grid_hw: tuple[int, int] | None,
        device: torch.device,
        tiles: bool = False,
    ) -> None:
        """Moves the detector to `device`.

        Args:
            detector: of any method.
            text: product -> [T, 2]; ignored if the detector needs no text.
            grid_hw: largest grid of the tokens in an answer; None: no tokens.
            device: of the detector.
            tiles: the map gets details from the four corners of an image of `TILED` times the input's size, and the
                score those of the map, if it comes from the map. Tokens are those of the whole image.

        Raises:
            ConfigError: the teacher's input has an odd side, so that it cannot have tiles.
        """
        self.detector = detector.to(device).eval().requires_grad_(False)
        self.text = text if detector.needs_text else {}
        input_hw = height, width = detector.config.backbone.input_hw
        if tiles and (height % 2 or width % 2):
            raise ConfigError(f"distillation.tiles: the teacher's input size {list(input_hw)} must be even")
        # Pixels of the images that it answers.
        self.image_hw = (round(height * TILED), round(width * TILED)) if tiles else input_hw
        own_grid_hw = detector.backbone.grid_hw(input_hw)
        self.layout = Layout(
            map_hw=(self.image_hw[0] // MAP_STRIDE, self.image_hw[1] // MAP_STRIDE),
            features_hw=None if grid_hw is None else (min(grid_hw[0], own_grid_hw[0]), min(grid_hw[1], own_grid_hw[1])),
            taps=len(detector.backbone.taps),
            embed_dim=detector.backbone.embed_dim,
        )
        self._tiles = tiles
        settings = f"{detector.config.model_dump_json()} {self.layout} {SURE}{f' {TILED} {DETAIL}' if tiles else ''}"
        self.digest = weights_digest(detector.state_dict(), settings=settings)
        self.device = device

    def rows(self, batch: DistilBatch) -> Tensor:
        """See `Answering.rows`.

        Raises:
            ValueError: an answer is not finite.
        """
        images = batch.teachers_images_bgr.to(self.device, non_blocking=True)
        text = stacked_text(self.text, batch.products, self.device) if self.text else None
        # On a CPU one by one, at no cost: rounding then does not depend on the batch, as with a cache.
        count = 1 if self.device.type == "cpu" else len(images)
        parts = [slice(first, first + count) for first in range(0, len(images), count)]
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            rows = torch.cat([self._answer(images[part], None if text is None else text[part]) for part in parts])
        if not bool(rows.isfinite().all()):
            raise ValueError("the teacher's answer holds NaN or infinity: its weights are broken")
        return rows

    def _answer(self, images: Tensor, text: Tensor | None) -> Tensor:
        detector = self.detector
        input_hw = detector.config.backbone.input_hw
        whole = shrink(images, input_hw) if self._tiles else images
        tokens = detector.tokens(whole)
        prompts = detector.head.prompt_vectors(text) if text is not None else None
        maps, scores = detector.answer(whole, prompts, tokens=tokens)
        if self._tiles:
            tiles = tiled(images, input_hw, lambda tile: _logit(detector.answer(tile, prompts)[0]))
            maps = with_details(_logit(_resize(maps, self.layout.map_hw)), tiles).sigmoid()
            if detector.head.score_from_map:
                scores = anomaly_score(maps, detector.config.score)
        kept = F.adaptive_avg_pool2d(maps.unsqueeze(1), self.layout.map_hw)
        parts = [_logit(scores).unsqueeze(1), _logit(kept).flatten(1)]
        if self.layout.features_hw is not None:
            parts += [
                standardise_patches(on_grid(patches, tokens.grid_hw, self.layout.features_hw)).flatten(1)
                for patches in _patch_tokens(tokens)
            ]
        return torch.cat(parts, dim=1).half()


class KeptAnswers:
    """A teacher with a cache: one file for each image and text, float16 with a checksum.

    Files are in a subfolder with the teacher's digest, so runs and teachers can share a folder. A damaged file is
    computed again.
    """

    def __init__(self, teacher: Answering, folder: Path) -> None:
        self.layout, self.text, self.digest = teacher.layout, teacher.text, teacher.digest
        self._teacher = teacher
        self._folder = folder / teacher.digest[:16]
        self._folder.mkdir(parents=True, exist_ok=True)

    def announce(self, images: int) -> None:
        """Logs the size of the answers to so many images; see `announce_cache`."""
        announce_cache("teacher's answers", self._folder, images=images, bytes_each=self.bytes_each)

    @property
    def bytes_each(self) -> int:
        """Size of a file."""
        return 4 + 2 * self.layout.length

    def rows(self, batch: DistilBatch) -> Tensor:
        """See `Answering.rows`."""
        files = [self._file(digest, name) for digest, name in zip(batch.digests, batch.products, strict=True)]
        found = [self._read(file) for file in files]
        missing = [index for index, row in enumerate(found) if row is None]
        if missing:
            computed = self._teacher.rows(_some_of(batch, missing)).cpu()
            for index, row in zip(missing, computed, strict=True):
                _write(files[index], row.numpy())
                found[index] = row
        return torch.stack([row for row in found if row is not None])

    def _file(self, digest: str, product: str) -> Path:
        text = self.text[product].tobytes() if self.text else b""
        return self._folder / f"{hashlib.sha256(digest.encode() + text).hexdigest()[:32]}.bin"

    def _read(self, file: Path) -> Tensor | None:
        if not file.is_file():
            return None
        content = file.read_bytes()
        if len(content) != self.bytes_each or zlib.crc32(content[4:]).to_bytes(4, "little") != content[:4]:
            logger.warning("%s: damaged; it is computed again", file)
            return None
        return torch.from_numpy(np.frombuffer(content, np.float16, offset=4).copy())


def _write(file: Path, row: np.ndarray) -> None:
    content = row.tobytes()
    with whole_file(file, in_cache=True) as partial:
        partial.write_bytes(zlib.crc32(content).to_bytes(4, "little") + content)


def _some_of(batch: DistilBatch, indices: list[int]) -> DistilBatch:
    def chosen(value: Any) -> Any:
        return value[indices] if isinstance(value, Tensor) else [value[index] for index in indices]

    return DistilBatch(**{name: chosen(value) for name, value in vars(batch).items()})


def shrink(images: Tensor, hw: tuple[int, int]) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, h, w, 3], by averaging areas."""
    pixels = F.adaptive_avg_pool2d(images.permute(0, 3, 1, 2).float(), hw)
    return pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def tiled(images: Tensor, hw: tuple[int, int], answer: Callable[[Tensor], Tensor]) -> Tensor:
    """The maps of the four corners of size `hw`, put together; where tiles overlap, their mean.

    Args:
        images: uint8 [B, H, W, 3], `TILED` times as large as `hw`.
        hw: pixels.
        answer: a tile, uint8 [B, *hw, 3], -> its map, float32 [B, h, w].

    Returns:
        float32 [B, H / `MAP_STRIDE`, W / `MAP_STRIDE`].
    """
    height, width = (side // MAP_STRIDE for side in images.shape[1:3])
    total = torch.zeros(len(images), height, width, device=images.device)
    count = torch.zeros(height, width, device=images.device)
    for top in (0, images.shape[1] - hw[0]):
        for left in (0, images.shape[2] - hw[1]):
            tile = answer(images[:, top : top + hw[0], left : left + hw[1]].contiguous())
            there = (
                slice(top // MAP_STRIDE, (top + hw[0]) // MAP_STRIDE),
                slice(left // MAP_STRIDE, (left + hw[1]) // MAP_STRIDE),
            )
            count[there] += 1
            total[:, *there] += _resize(tile, tuple(count[there].shape))
    return total / count


def with_details(whole: Tensor, tiles: Tensor) -> Tensor:
    """Adds half of what the tiles' map says in addition, without its low frequencies: these need the whole image.

    Args:
        whole: map of the whole image, logits [B, H, W].
        tiles: map of its tiles, the same.
    """
    more = (tiles - whole) / 2
    width = round(DETAIL * whole.shape[-1]) | 1
    return whole + more - F.avg_pool2d(more, width, stride=1, padding=width // 2, count_include_pad=False)


def _resize(maps: Tensor, hw: tuple[int, ...]) -> Tensor:
    """[B, H, W] -> [B, h, w]; shrinking averages areas."""
    mode = "area" if hw[0] < maps.shape[1] else "bilinear"
    return F.interpolate(maps.unsqueeze(1), hw, mode=mode, align_corners=None if mode == "area" else False)[:, 0]


def on_grid(patches: Tensor, grid_hw: tuple[int, int], wanted_hw: tuple[int, int]) -> Tensor:
    """Resizes patches [B, N, D] to another grid, [B, N', D]; each new patch averages the area that it covers."""
    if grid_hw == wanted_hw:
        return patches
    maps = patches.transpose(1, 2).unflatten(2, grid_hw)
    resized = F.interpolate(maps, size=wanted_hw, mode="bilinear", align_corners=False, antialias=True)
    return resized.flatten(2).transpose(1, 2)


def _patch_tokens(tokens: Any) -> list[Tensor]:
    """L x [B, N, D] of either kind of tokens; VisualAD has other tokens before the patches."""
    if hasattr(tokens, "patch_tokens"):
        return list(tokens.patch_tokens)
    return [tapped[:, -math.prod(tokens.grid_hw) :] for tapped in tokens.tapped]


def _logit(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities.float().clamp(SURE, 1 - SURE))
