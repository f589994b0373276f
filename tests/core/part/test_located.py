import cv2
import numpy as np
import pytest

from zsad_core.part import Located, Pose, part_models


def smooth(hw: tuple[int, int], seed: int = 0) -> np.ndarray:
    """float32 `hw` in [0, 1], without detail that bilinear sampling would lose."""
    noise = np.random.default_rng(seed).random((6, 6)).astype(np.float32)
    return cv2.resize(noise, hw[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)


def located(hw: tuple[int, int], **pose: object) -> Located:
    image = (smooth(hw)[..., None] * [255, 200, 150]).astype(np.uint8)
    return Located.cut(image, Pose(**pose), strip=False)  # type: ignore[arg-type]


def test_the_whole_frame_is_its_own_view():
    image = (smooth((90, 120))[..., None] * [255, 200, 150]).astype(np.uint8)
    found = part_models([image])[0].locate(image)
    assert found.view_bgr is image and not found.strip
    frame_map = smooth((9, 12))
    np.testing.assert_array_equal(found.map_to_view(frame_map, (9, 12)), frame_map)
    np.testing.assert_array_equal(found.map_to_frame(frame_map, (9, 12), fill=1.0), frame_map)


def test_a_crop_on_whole_pixels_is_the_frame_s_own_pixels():
    found = located((100, 160), centre_xy=(70.0, 40.0), size_wh=(60.0, 30.0))
    image = (smooth((100, 160))[..., None] * [255, 200, 150]).astype(np.uint8)
    np.testing.assert_array_equal(found.view_bgr, image[25:55, 40:100])


def test_a_quarter_turn_moves_every_pixel_to_its_place():
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    found = Located.cut(image, Pose(centre_xy=(50.0, 40.0), size_wh=(40.0, 20.0), angle=90.0), strip=True)
    # The view's x axis runs down the frame, its y axis to the left.
    np.testing.assert_array_equal(found.view_bgr, np.rot90(image[20:60, 40:60]))


@pytest.mark.parametrize("angle", [0.0, 17.0, 90.0, -135.0])
def test_a_map_of_the_frame_comes_back_from_the_view_where_it_was(angle: float):
    found = located((240, 320), centre_xy=(150.0, 130.0), size_wh=(120.0, 90.0), angle=angle)
    frame_map = smooth((240, 320), seed=1)
    there = found.map_to_view(frame_map, (90, 120))
    back = found.map_to_frame(there, (240, 320), fill=-1.0)
    inside = back != -1
    assert inside.sum() == pytest.approx(120 * 90, rel=0.02)
    assert np.abs(back - frame_map)[inside].max() < 0.02
    corner = np.abs(np.argwhere(inside)[:, ::-1] + 0.5 - (150.0, 130.0)).max()
    assert corner <= 76  # half of the rectangle's diagonal


def test_a_spot_of_the_view_is_found_at_its_place_in_the_frame():
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(image, (180, 90), 3, (255, 255, 255), -1)
    found = Located.cut(image, Pose(centre_xy=(170.5, 80.25), size_wh=(99.0, 66.0), angle=33.0), strip=True)
    view_map = found.view_bgr[..., 0].astype(np.float32) / 255
    y, x = np.unravel_index(found.map_to_frame(view_map, (200, 300)).argmax(), (200, 300))
    assert np.hypot(x - 180, y - 90) <= 3
    spot = found.map_to_frame(view_map, (200, 300))
    ys, xs = np.indices(spot.shape)
    assert (spot * xs).sum() / spot.sum() == pytest.approx(180, abs=0.05)
    assert (spot * ys).sum() / spot.sum() == pytest.approx(90, abs=0.05)


def test_shrinking_a_map_averages_so_that_its_sum_stays():
    found = located((200, 300), centre_xy=(150.0, 100.0), size_wh=(60.0, 60.0))
    view_map = np.zeros((60, 60), np.float32)
    view_map[31, 17] = 1.0
    coarse = found.map_to_frame(view_map, (20, 30))
    assert coarse.sum() == pytest.approx(1 / 100, rel=1e-3)
    assert coarse[10, 13] == pytest.approx(1 / 100, rel=1e-3)


def test_a_view_beyond_the_frame_repeats_the_frame_s_edge():
    found = located((100, 100), centre_xy=(2.0, 50.0), size_wh=(40.0, 20.0))
    assert (found.view_bgr[:, :18] == found.view_bgr[:, 18:19]).all()
    outside = located((100, 100), centre_xy=(-500.0, 50.0), size_wh=(40.0, 20.0))
    assert outside.view_bgr.shape == (20, 40, 3)


def test_a_large_view_is_shrunk_by_averaging():
    image = np.zeros((3000, 4000, 3), np.uint8)
    image[::2] = 200
    found = Located.cut(image, Pose(centre_xy=(2000.0, 1500.0), size_wh=(3072.0, 2048.0)), strip=False)
    assert found.view_bgr.shape == (683, 1024, 3)
    assert np.abs(found.view_bgr.astype(int) - 100).max() <= 40  # bilinear samples alone would give 0 and 200
