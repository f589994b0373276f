"""From a file or a camera's array to the uint8 BGR picture that every model sees, and to its input size.

Training, conversion and the device all come through here, so that a score means the same in each.
"""

import re
from pathlib import Path

import cv2
import numpy as np

from zsad_core.errors import ImageError

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd8\xff]", re.DOTALL)  # not a stuffed byte, restart, start or fill
_JPEG_END = 0xD9
MAX_PIXELS = 100_000_000  # of a file; a larger one is refused before it takes the memory of a small PC


def to_bgr8(image: np.ndarray) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a grey, BGR or BGRA picture of 8 or 16 bits.

    16-bit values are divided by 257 (full range to full range), never stretched to the picture's own maximum:
    a stretch would make the score of a part depend on its brightest pixel. Alpha is dropped.

    Raises:
        ImageError: the array is empty or is none of these.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ImageError(f"expected a picture [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got shape {image.shape}")
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    elif image.dtype != np.uint8:
        raise ImageError(f"expected 8 or 16 bits a channel, got {image.dtype}")
    if image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[..., :3])


def read_image(path: Path) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a picture file, turned as its EXIF orientation says.

    Raises:
        ImageError: the file is missing, empty, no picture, truncated, or larger than `MAX_PIXELS`.
    """
    try:
        encoded = np.fromfile(path, np.uint8)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if encoded.size == 0:
        raise ImageError(f"{path}: the file is empty")
    _refuse_truncated(path, encoded.tobytes())
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # e.g. more pixels than OpenCV's own limit
        raise ImageError(f"{path}: cannot be decoded: {str(error).strip()}") from error
    if image is None:
        raise ImageError(f"{path}: not a picture that OpenCV can decode, or damaged")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(f"{path}: {image.shape[1]}x{image.shape[0]} pixels, at most {MAX_PIXELS} are read")
    try:
        return to_bgr8(image)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def _refuse_truncated(path: Path, encoded: bytes) -> None:
    """OpenCV fills the missing part of a cut JPEG or PNG with grey and calls it read; it must not be scored.

    The other formats it refuses by itself. What follows a picture's own end (a second one, a phone's film) is no fault.
    """
    if encoded.startswith(b"\xff\xd8") and not _jpeg_ends(encoded):
        raise ImageError(f"{path}: the JPEG is truncated: it has no end-of-image marker")
    if encoded.startswith(b"\x89PNG") and not _png_ends(encoded):
        raise ImageError(f"{path}: the PNG is truncated: it has no IEND chunk")


def _jpeg_ends(encoded: bytes) -> bool:
    """Walks the segments, so that the end marker of an embedded thumbnail does not count (ITU-T T.81, annex B)."""
    position = 2
    while found := _JPEG_MARKER.search(encoded, position):
        marker, position = found[0][-1], found.end()
        if marker == _JPEG_END:
            return True
        if marker != 0x01:  # which has no length
            position += int.from_bytes(encoded[position : position + 2], "big")
    return False


def _png_ends(encoded: bytes) -> bool:
    position = 8
    while position + 12 <= len(encoded):
        if encoded[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(encoded[position : position + 4], "big")
    return False


def read_mask(path: Path) -> np.ndarray:
    """uint8 [H, W] of 0 and 1 from a mask file in which anything but 0 is a defect.

    Raises:
        ImageError: the file cannot be read as a picture.
    """
    return (read_image(path).max(axis=2) > 0).astype(np.uint8)


def find_images(folder: Path) -> list[Path]:
    """All picture files below `folder`, by name, hidden ones left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def resize_to_input(image_bgr: np.ndarray, input_hw: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3]: the whole picture at the model's input size, without crop, aspect not kept.

    Area averaging where either side shrinks: bilinear sampling of a large frame skips most pixels and with
    them thin scratches. Bilinear where both grow.
    """
    input_h, input_w = input_hw
    height, width = image_bgr.shape[:2]
    if (height, width) == (input_h, input_w):
        return image_bgr
    shrinks = height > input_h or width > input_w
    return cv2.resize(image_bgr, (input_w, input_h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_map(anomaly_map: np.ndarray, wh: tuple[int, int]) -> np.ndarray:
    """float32 [H, W]: the anomaly map over a picture of `wh` pixels, bilinear."""
    return cv2.resize(anomaly_map, wh, interpolation=cv2.INTER_LINEAR)
