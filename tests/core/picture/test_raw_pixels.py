"""Missing data in uncompressed pixels is found, and a black or white border is not taken for it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from cracked_parts import saved
from PIL import Image

from zsad_core.errors import ImageError
from zsad_core.picture import decode_image, read_image, read_mask

KINDS = ("BMP", "PPM", "TIFF")
HEIGHT, WIDTH = 240, 200


def scene(mask: np.ndarray, *, is_negative: bool = False, seed: int = 0) -> Image.Image:
    """A textured part where `mask` is 1, seen through a lens: its edge fades into pure black, or pure white."""
    random = np.random.default_rng(seed)
    texture = 150 + cv2.GaussianBlur(random.normal(0, 60, mask.shape).astype(np.float32), (0, 0), 2)
    values = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8) * texture + random.normal(0, 1, mask.shape) - 10
    grey = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if is_negative else grey).convert("RGB")


def part(name: str) -> np.ndarray:
    """uint8 [H, W]: 1 where the part is."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if name == "disc":
        cv2.circle(mask, (100, 110), 70, 1, -1)
    elif name == "tilted":
        cv2.fillPoly(mask, [cv2.boxPoints(((100, 120), (120, 90), 3)).astype(np.int32)], 1)
    elif name == "band":
        mask[60:170] = 1
    else:
        mask[:] = 1
    return mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_negative", [False, True])
@pytest.mark.parametrize("name", ["disc", "tilted", "band", "all"])
def test_border_of_pure_black_or_white_is_part_of_the_picture(name: str, is_negative: bool, kind: str) -> None:
    for seed in range(5):
        picture = scene(part(name), is_negative=is_negative, seed=seed)
        decoded = decode_image(np.frombuffer(saved(picture, kind), np.uint8), "a", strict=True)
        assert np.array_equal(decoded[..., ::-1], np.asarray(picture))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["disc", "band", "all"])
@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_half_written_file_of_full_size_is_refused(name: str, kind: str, fill: bytes) -> None:
    data = saved(scene(part(name)), kind)
    for row in (HEIGHT // 3, HEIGHT // 2):
        for column in (0, WIDTH // 3, WIDTH - 20):
            end = len(data) - ((HEIGHT - row) * WIDTH - column) * 3
            with pytest.raises(ImageError, match=r"last rows are empty.*save it as PNG"):
                decode_image(np.frombuffer(data[:end] + fill * (len(data) - end), np.uint8), "a", strict=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sectors", [1, 8, 100])
def test_sectors_that_a_copy_left_out_are_found(kind: str, sectors: int) -> None:
    data = saved(scene(part("all")), kind)
    start, end = 10 * 512, (10 + sectors) * 512
    with pytest.raises(ImageError, match="a part of it is zeros"):
        decode_image(np.frombuffer(data[:start] + bytes(end - start) + data[end:], np.uint8), "a", strict=True)


def test_width_that_fits_the_data_and_tears_the_picture_is_refused() -> None:
    smooth = cv2.GaussianBlur(np.asarray(scene(part("disc")).convert("L")), (0, 0), 3)
    for height, width in ((WIDTH, HEIGHT), (2 * HEIGHT, WIDTH // 2)):
        data = b"P5\n%d %d\n255\n" % (width, height) + smooth.tobytes()
        with pytest.raises(ImageError, match="wrong width"):
            decode_image(np.frombuffer(data, np.uint8), "a", strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_may_end_in_black_at_once(tmp_path: Path, kind: str) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[100:200, 20:180] = 255
    (tmp_path / "mask").write_bytes(saved(Image.fromarray(mask), kind))
    assert np.array_equal(read_mask(tmp_path / "mask"), mask // 255)
    with pytest.raises(ImageError, match="last rows are empty"):
        read_image(tmp_path / "mask")
