"""A cache on disk for the tokens of a frozen backbone."""

import hashlib
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zsad_core.heads import Tokens
from zsad_core.model import Detector
from zsad_core.weights import weights_digest
from zsad_core.whole_file import whole_file

logger = logging.getLogger(__name__)

_HEADER_BYTES = 128  # of a .npy file


def announce_cache(what: str, folder: Path, *, images: int, bytes_each: int) -> None:
    """Logs the size of a cache before it is written. Files that are there are counted, also those of other images.

    Args:
        what: name of the cache.
        folder: exists.
        images: largest number of files that the run needs.
        bytes_each: size of a file.

    Raises:
        ValueError: the disk is too small.
    """
    present = sum(1 for _ in folder.iterdir())
    size_gb, free_gb = images * bytes_each / 1e9, shutil.disk_usage(folder).free / 1e9
    told = (
        f"{what}: at most {size_gb:.2f} GB in {folder} ({images} images of {bytes_each / 1e6:.2f} MB, {present} files "
        f"are there), the disk has {free_gb:.2f} GB free"
    )
    if max(0, images - present) * bytes_each / 1e9 > free_gb:
        raise ValueError(f"{told}: name a folder on a larger disk, or leave the cache out")
    logger.info(told)


class FeatureCache:
    """One memory-mapped float16 file of tokens for each resized image; the file name is the image's hash.

    The files are in a subfolder named by a hash of the backbone's config and weights, so runs can share a folder. A
    changed image (file, size, augmentation) has another hash and so another file. Tokens are always computed in
    float32, so runs of any precision can share them.
    """

    def __init__(self, folder: Path, detector: Detector) -> None:
        if not detector.needs_text:
            raise ValueError(
                f"{detector.config.method} trains tokens inside the backbone and cannot use a feature cache"
            )
        if any(parameter.requires_grad for parameter in detector.backbone.parameters()):
            raise ValueError("a feature cache needs a frozen backbone: set trainable_blocks to 0")
        self._detector = detector
        backbone = detector.backbone
        digest = weights_digest(backbone.state_dict(), settings=backbone.config.model_dump_json())
        self._folder = folder / digest[:16]
        self._folder.mkdir(parents=True, exist_ok=True)

    def announce(self, images: int, sizes_hw: Iterable[tuple[int, int]]) -> None:
        """Logs the cache's size for so many images at each of these sizes; see `announce_cache`."""
        backbone, sizes = self._detector.backbone, list(sizes_hw)
        tokens = max(1 + math.prod(backbone.grid_hw(size_hw)) for size_hw in sizes)
        bytes_each = _HEADER_BYTES + 2 * len(backbone.taps) * tokens * backbone.embed_dim
        announce_cache("feature cache", self._folder, images=images * len(sizes), bytes_each=bytes_each)

    def tokens(self, images_bgr: Tensor) -> Tokens:
        """Like `Detector.tokens`, for uint8 [B, H, W, 3]; missing tokens are computed and saved."""
        files = [self._file(image) for image in images_bgr]
        missing = [index for index, file in enumerate(files) if not file.is_file()]
        if missing:
            with torch.no_grad(), torch.autocast(images_bgr.device.type, enabled=False):
                computed = self._detector.tokens(images_bgr[missing])
            cls_tokens, patch_tokens = torch.stack(computed.cls_tokens, 1), torch.stack(computed.patch_tokens, 1)
            packed = torch.cat([cls_tokens.unsqueeze(2), patch_tokens], dim=2)
            for index, tokens in zip(missing, packed.half().cpu().numpy(), strict=True):
                with whole_file(files[index], in_cache=True) as partial, partial.open("wb") as file:
                    np.save(file, tokens)  # [L, 1 + N, D]
        loaded = torch.from_numpy(np.stack([np.load(file, mmap_mode="r") for file in files]))  # [B, L, 1 + N, D]
        loaded = loaded.to(images_bgr.device).float()
        taps = range(loaded.shape[1])
        return Tokens(
            cls_tokens=[loaded[:, tap, 0] for tap in taps],
            patch_tokens=[loaded[:, tap, 1:] for tap in taps],
            grid_hw=self._detector.backbone.grid_hw((images_bgr.shape[1], images_bgr.shape[2])),
        )

    def _file(self, image_bgr: Tensor) -> Path:
        digest = hashlib.sha256(str(tuple(image_bgr.shape)).encode() + image_bgr.cpu().numpy().tobytes())
        return self._folder / f"{digest.hexdigest()[:32]}.npy"
