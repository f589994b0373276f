"""The resize rule in manifests is sufficient to implement the resize without OpenCV."""

import cv2
import numpy as np
import pytest

from zsad_core.bundle import RESIZE_RULE, ResizeRule
from zsad_core.picture import resize_to_input

INPUT_HW = (48, 64)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.floor(values + 0.5)


def area_weights(side: int, new: int) -> np.ndarray:
    """[new, side]: the share of each pixel in each new pixel; every row adds up to 1."""
    s = side / new
    starts, pixels = np.arange(new)[:, None] * s, np.arange(side)[None]
    covered = np.minimum(starts + s, pixels + 1) - np.maximum(starts, pixels)
    return np.clip(covered, 0, None) / s


def bilinear_weights(side: int, new: int) -> np.ndarray:
    at = np.clip((np.arange(new) + 0.5) * side / new - 0.5, 0, side - 1)
    return between(np.floor(at).astype(int), at - np.floor(at), side)


def mixed_weights(side: int, new: int) -> np.ndarray:
    s = side / new
    k = np.floor(np.arange(new) * s).astype(int)
    f = np.arange(new) + 1 - (k + 1) / s
    return between(k, np.where(f <= 0, 0, f - np.floor(f)), side)


def between(k: np.ndarray, share: np.ndarray, side: int) -> np.ndarray:
    weights = np.zeros((len(k), side))
    rows = np.arange(len(k))
    np.add.at(weights, (rows, k), 1 - share)
    np.add.at(weights, (rows, np.minimum(k + 1, side - 1)), share)
    return weights


def resized(image: np.ndarray, input_hw: tuple[int, int], rule: ResizeRule) -> np.ndarray:
    """[h, w, 3]: the image resized by `rule`, in floating point."""
    values = image.astype(float)
    (height, width), (h, w) = values.shape[:2], input_hw
    if (height, width) == (h, w):
        return values
    while height >= rule.halve_from * h and width >= rule.halve_from * w and height % 2 == 0 and width % 2 == 0:
        height, width = height // 2, width // 2
        values = rounded(values.reshape(height, 2, width, 2, 3).mean(axis=(1, 3)))
    if height >= h and width >= w:
        weights = area_weights
    elif height <= h and width <= w:
        weights = bilinear_weights
    else:
        weights = mixed_weights
    return rounded(np.einsum("ia,abc,jb->ijc", weights(height, h), values, weights(width, w), optimize=True))


@pytest.mark.parametrize(
    "hw",
    [
        pytest.param((48, 64), id="of the input size"),
        pytest.param((192, 256), id="four times: halved once"),
        pytest.param((800, 1200), id="halved several times, then area"),
        pytest.param((801, 1200), id="an odd side: not halved"),
        pytest.param((100, 131), id="area"),
        pytest.param((48, 640), id="area along one side"),
        pytest.param((31, 40), id="bilinear"),
        pytest.param((48, 17), id="bilinear along one side"),
        pytest.param((1, 1), id="one pixel"),
        pytest.param((20, 900), id="larger and smaller"),
        pytest.param((700, 63), id="smaller and larger"),
        pytest.param((720, 1280), id="a camera's frame"),
    ],
)
def test_an_implementation_of_the_rule_gives_the_same_pixels_within_one_level(hw):
    noise = np.random.default_rng(sum(hw)).integers(0, 256, (*hw, 3), dtype=np.uint8)
    for image in (noise, cv2.GaussianBlur(noise, (5, 5), 1)):
        found = resize_to_input(image, INPUT_HW).astype(float)
        assert np.abs(found - resized(image, INPUT_HW, RESIZE_RULE)).max() <= 1


@pytest.mark.parametrize("input_hw", [(256, 256), (320, 320)])
def test_the_rule_holds_at_the_input_sizes_of_the_shipped_bundles(input_hw):
    image = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    found = resize_to_input(image, input_hw).astype(float)
    assert np.abs(found - resized(image, input_hw, RESIZE_RULE)).max() <= 1
