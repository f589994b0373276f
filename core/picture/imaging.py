"""Converts a file or a camera's array to a uint8 BGR image, and scales it to a model's input size.

Training, conversion and the device all use this module, so scores are comparable between them.
"""

import stat
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from zsad_core.errors import ImageError
from zsad_core.picture.content import HEAD_BYTES, READ_FORMATS, format_of
from zsad_core.picture.encoded import MAX_PIXELS, find_fault, find_jpeg_damage
from zsad_core.picture.layouts import read_layout
from zsad_core.picture.misread import find_misreading, has_wrong_interlacing
from zsad_core.picture.raw_pixels import find_missing

HALVE_FROM: Final = 4  # times the sides of the input; an image of at least this size is halved first
_UNPROTECTED: Final = ("BMP", "PNM", "TIFF")  # a wrong header can fit the data
NOT_AN_IMAGE: Final = "not an image that OpenCV can decode, or damaged"
MAX_FILE_BYTES = 10 * MAX_PIXELS  # more than the largest image that is read: 4 channels of 16 bits, uncompressed


def to_bgr8(image: np.ndarray, white: int | None = None) -> np.ndarray:
    """uint8 BGR [H, W, 3] of a grey, BGR or BGRA image of 8 or 16 bits.

    Values are divided by `white`, by default the type's highest value (16 bits: by 257). They are not scaled to the
    image's maximum: then the score of a part would depend on its brightest pixel. Alpha is dropped.

    Raises:
        ImageError: the array is empty, is not such an image, or has values above `white`.
    """
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise ImageError(f"expected an image [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got shape {image.shape}")
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"expected 8 or 16 bits a channel, got {image.dtype}")
    full = np.iinfo(image.dtype).max
    if white not in (None, full):
        if (brightest := int(image.max())) > white:
            raise ImageError(f"has values up to {brightest}, above white, {white}: damaged, or bit_depth is too low")
        image = (np.arange(white + 1) * 255 // white).astype(np.uint8)[image]
    elif full > 255:
        image = (image // 257).astype(np.uint8)
    if image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(image[..., :3])


def read_image(path: Path, bit_depth: int | None = None) -> np.ndarray:
    """uint8 BGR [H, W, 3] of an image file, rotated as its EXIF orientation says.

    Args:
        path: the file. Its content decides how it is read, not its name.
        bit_depth: bits of a 16-bit file that hold the image, the low ones, if the file does not state it. None: all.

    Raises:
        ImageError: the file is missing, empty, not an image, truncated, of a layout that OpenCV decodes wrongly, holds
            several images (an animation, for example), or is larger than `MAX_PIXELS`.
    """
    return decode_image(read_encoded(path), str(path), bit_depth, strict=True)


def decode_image(encoded: np.ndarray, name: str, bit_depth: int | None = None, *, strict: bool = False) -> np.ndarray:
    """uint8 BGR [H, W, 3] of an image file's content, uint8 [bytes], as `read_image`.

    `strict`: all data of a JPEG must be there and belong to it. Not for live cameras: it takes as long as decoding.

    Raises:
        ImageError: as of `read_image`. Its text begins with `name`.
    """
    try:
        image, white = _decoded(encoded, strict=strict)
        if white is None and bit_depth is not None and image.dtype == np.uint16:
            white = (1 << bit_depth) - 1
        return to_bgr8(image, white)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


def _decoded(encoded: np.ndarray, *, strict: bool, is_mask: bool = False) -> tuple[np.ndarray, int | None]:
    """The image with the channels and bits of the file, and the value of white if the file states one."""
    data = encoded.tobytes()
    kind = format_of(data[:HEAD_BYTES])
    if kind is None:
        raise ImageError(NOT_AN_IMAGE)
    if kind not in READ_FORMATS:
        raise ImageError(f"{kind} is not read: save it as PNG, TIFF or JPEG")
    if fault := find_fault(data) or (find_jpeg_damage(data) if strict and kind == "JPEG" else None):
        raise ImageError(fault)
    layout = read_layout(kind, data)
    if strict and not is_mask and layout.raw is not None and (fault := find_missing(layout.raw, data)):
        raise ImageError(
            f"the {kind} is damaged: {fault}. If the picture is whole, save it as PNG, which has a checksum"
        )
    if layout.zero_at is not None:
        encoded = encoded.copy()
        encoded[layout.zero_at : layout.zero_at + 2] = 0
    image = _decode(encoded, may_hold_more=kind != "GIF") if layout.image is None else layout.image
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(f"{image.shape[1]}x{image.shape[0]} pixels, at most {MAX_PIXELS} are read")
    if strict and not is_mask:
        if layout.alpha and _is_cut_out(encoded):
            raise ImageError("a picture with transparent pixels is not read: save it without transparency")
        if layout.interlaced is not None and has_wrong_interlacing(image, is_interlaced=layout.interlaced):
            raise ImageError("the GIF is damaged: the header is wrong about interlacing")
        if kind in _UNPROTECTED and (
            fault := find_misreading(image[::-1] if kind == "BMP" else image, predictor=layout.predictor)
        ):
            raise ImageError(
                f"the {kind} is damaged: {fault}. If the picture is right, save it as PNG, which has a checksum"
            )
    return image, layout.white


def _decode(encoded: np.ndarray, *, may_hold_more: bool) -> np.ndarray:
    """OpenCV's image. `may_hold_more`: False: known to be the only one (OpenCV finds two in every GIF)."""
    holds_more = False
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        if may_hold_more:
            holds_more, _ = cv2.imdecodemulti(encoded, cv2.IMREAD_REDUCED_GRAYSCALE_8, range=(1, 2))
    except cv2.error as error:  # usually more pixels than OpenCV's own limit
        reason = f"{error.err or error.code}; at most {MAX_PIXELS} pixels are read"
        raise ImageError(f"cannot be decoded: {' '.join(reason.split())}") from error
    if image is None:
        raise ImageError(NOT_AN_IMAGE)
    if holds_more:
        raise ImageError("holds more than one image, of which only the first would be read: split it")
    return image


def _is_cut_out(encoded: np.ndarray) -> bool:
    """Whether the transparency is not the same everywhere: what it hides would be inspected, or what it shows not."""
    image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    return image is not None and image.ndim == 3 and image.shape[2] == 4 and bool(np.ptp(image[..., 3]))


def read_encoded(path: Path) -> np.ndarray:
    """The file's content, uint8 [bytes]. Only a regular file is opened: a named pipe would hang.

    Raises:
        ImageError: the file is missing, empty, too large, or cannot be read.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ImageError(f"{path}: not a regular file")
        if found.st_size > MAX_FILE_BYTES:
            raise ImageError(f"{path}: {found.st_size} bytes, at most {MAX_FILE_BYTES} are read")
        encoded = np.fromfile(path, np.uint8)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise ImageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if encoded.size == 0:
        raise ImageError(f"{path}: the file is empty")
    return encoded


def read_mask(path: Path) -> np.ndarray:
    """uint8 [H, W] of 0 and 1 from a mask file. Every value except 0 is a defect.

    In a JPEG only values above 127 are a defect: compression leaves faint marks around a mask's edge.

    Raises:
        ImageError: the file cannot be read as an image.
    """
    threshold = 127 if path.suffix.lower() in (".jpg", ".jpeg") else 0
    try:
        # Not converted to 8 bits: a 16-bit value of 1 would become 0.
        mask, _ = _decoded(read_encoded(path), strict=True, is_mask=True)
    except ImageError as error:
        raise ImageError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    brightest = np.maximum.reduce(cv2.split(mask))  # several times as fast as max(axis=2)
    return (brightest > threshold).astype(np.uint8)


def resize_to_input(image_bgr: np.ndarray, input_hw: tuple[int, int], *, out: np.ndarray | None = None) -> np.ndarray:
    """uint8 [h, w, 3]: the whole image at the model's input size, without crop; the aspect ratio is not kept.

    If no side grows, area averaging is used: bilinear sampling of a large frame skips most pixels, and thin scratches
    with them. An image at least four times as large is halved first, which takes half the time. Halving stops before
    the image is less than twice the input size, because thin lines would lose contrast. If no side shrinks, the
    resize is bilinear. If one side shrinks and the other grows, OpenCV's INTER_AREA does not average.
    `zsad_core.bundle.RESIZE_RULE` states each step in numbers.

    Args:
        image_bgr: uint8 [H, W, 3].
        input_hw: h, w.
        out: uint8 [h, w, 3], contiguous; receives the result. With None, an image of that size is returned unchanged.
    """
    input_h, input_w = input_hw
    height, width = image_bgr.shape[:2]
    if (height, width) == (input_h, input_w):
        if out is None:
            return image_bgr
        np.copyto(out, image_bgr)
        return out
    while height >= HALVE_FROM * input_h and width >= HALVE_FROM * input_w and height % 2 == 0 and width % 2 == 0:
        height, width = height // 2, width // 2
        image_bgr = cv2.resize(image_bgr, (width, height), interpolation=cv2.INTER_AREA)
    shrinks = height > input_h or width > input_w
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image_bgr, (input_w, input_h), dst=out, interpolation=method)


def resize_map(anomaly_map: np.ndarray, wh: tuple[int, int]) -> np.ndarray:
    """float32 [H, W]: the anomaly map resized to (width, height) `wh`, pixels, bilinear."""
    return cv2.resize(anomaly_map, wh, interpolation=cv2.INTER_LINEAR)
