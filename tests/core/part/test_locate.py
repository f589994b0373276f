"""Parts are found, and what is no taught part is refused, on drawn scenes."""

import cv2
import numpy as np
import pytest
from drawn_parts import GREY, INK, background, images, paste, pin, plate, scenes

from zsad_core.part import Located, PartError, PartModel, part_models

MIDDLE = (240.0, 180.0)


def model(mode: str, goods: list[np.ndarray]) -> PartModel:
    (found,) = [found for found in part_models(goods) if found.mode == mode]
    return found


@pytest.fixture(scope="module")
def box() -> PartModel:
    return model("box", images(scenes(plate(), 8, turn=4)))


@pytest.fixture(scope="module")
def strip() -> PartModel:
    return model("strip", images(scenes(pin(), 8, turn=180)))


def likeness(found: Located, other: Located) -> float:
    """Correlation of two views."""
    wh = found.view_bgr.shape[1::-1]
    return float(
        cv2.matchTemplate(found.view_bgr, cv2.resize(other.view_bgr, wh), cv2.TM_CCOEFF_NORMED)[0, 0],
    )


def one(part: np.ndarray, centre: tuple[float, float] = MIDDLE, angle: float = 0.0, seed: int = 99) -> np.ndarray:
    return paste(background(seed), part, centre, angle)


def test_a_part_is_cut_out_wherever_it_lies(box):
    assert box.view is not None and box.part is not None
    for image, centre, _ in scenes(plate(), 8, turn=4, seed=50):
        found = box.locate(image)
        assert not found.strip and found.pose is not None
        assert np.hypot(*np.subtract(found.pose.centre_xy, centre)) < 6
        assert found.view_bgr.shape[0] < 180 and found.view_bgr.shape[1] < 200
        where = found.map_to_frame(np.ones((56, 56), np.float32), image.shape[:2])
        assert where[round(centre[1]), round(centre[0])] == 1


def test_small_rotations_are_compensated(box):
    straight = box.locate(one(plate()))
    assert straight.pose is not None
    for angle in (-20.0, 12.0, 20.0):
        found = box.locate(one(plate(), angle=angle, seed=7))
        assert found.pose is not None and found.pose.angle - straight.pose.angle == pytest.approx(angle, abs=2.0)
        assert likeness(found, straight) > 0.95


def test_a_part_turned_by_40_degrees_is_seen_as_it_lies(box):
    found = box.locate(one(plate(), angle=40))
    assert found.pose is not None and abs(found.pose.angle) <= 25
    assert likeness(found, box.locate(one(plate()))) < 0.9


def test_round_parts_are_not_rotated():
    disc = np.zeros((120, 120, 4), np.uint8)
    cv2.circle(disc, (60, 60), 55, (60, 140, 200, 255), -1)
    cv2.circle(disc, (60, 60), 20, (*INK, 255), -1)
    taught = model("box", images(scenes(disc, 6, turn=180)))
    assert taught.view is not None and not taught.view.turns


def test_an_elongated_part_lies_along_the_strip_at_any_rotation(strip):
    straight = strip.locate(one(pin()))
    height, width = straight.view_bgr.shape[:2]
    assert straight.strip and width == pytest.approx(3 * height, abs=2)
    assert straight.pose is not None
    for angle in range(0, 360, 30):
        found = strip.locate(one(pin(), angle=angle, seed=angle))
        assert found.pose is not None
        off = (found.pose.angle - straight.pose.angle - angle + 180) % 360 - 180
        assert abs(off) < 2, angle
        assert likeness(found, straight) > 0.95


def test_a_mirrored_part_is_not_mirrored_back(strip):
    mirrored = strip.locate(one(np.ascontiguousarray(pin()[::-1])))
    assert likeness(mirrored, strip.locate(one(pin()))) < 0.95


def test_a_small_part_of_a_large_frame_is_seen_at_full_resolution():
    hw = (1080, 1920)
    taught = model("box", images(scenes(plate(), 5, seed=3, hw=hw)))
    ((image, centre, _),) = scenes(plate(), 1, seed=60, hw=hw)
    found = taught.locate(image)
    assert 150 < found.view_bgr.shape[1] < 230
    cracked = cv2.line(image.copy(), *[(round(centre[0]) + d, round(centre[1]) + 30) for d in (-20, 20)], (0, 0, 0), 1)
    assert np.abs(taught.locate(cracked).view_bgr.astype(int) - found.view_bgr).max() > 100


@pytest.mark.parametrize("tray", ["same", "brighter", "other noise", "gradient", "dark"])
@pytest.mark.parametrize("taught", ["box", "strip", "frame"])
def test_an_empty_tray_is_no_part(tray: str, taught: str, box, strip):
    goods = {"box": box, "strip": strip, "frame": PartModel(mode="frame", goods=8, part=box.part, view=box.view)}
    empty = background(5).astype(np.float32)
    if tray == "brighter":
        empty *= 1.6
    elif tray == "other noise":
        empty += np.random.default_rng(1).normal(0, 15, empty.shape)
    elif tray == "gradient":
        empty *= np.linspace(0.6, 1.4, empty.shape[1])[None, :, None]
    elif tray == "dark":
        empty *= 0.1
    with pytest.raises(PartError, match=r"^no part: .*, good parts cover \d+\.\d% to \d+\.\d% of the frame"):
        goods[taught].locate(empty.clip(0, 255).astype(np.uint8))


def test_dirt_on_an_empty_tray_is_no_part(box):
    dirty = cv2.circle(background(5), (200, 200), 14, INK, -1)
    with pytest.raises(PartError, match=r"^no part: what stands out covers 0\.\d% of the frame"):
        box.locate(dirty)


def test_a_larger_part_is_another_part(box):
    large = cv2.resize(plate(), None, fx=2.0, fy=2.0, interpolation=cv2.INTER_NEAREST)
    with pytest.raises(PartError, match=r"^another part: it covers 3\d\.\d% of the frame, good parts"):
        box.locate(one(large))


def test_a_part_of_another_shape_is_another_part(box, strip):
    bar = np.zeros((330, 44, 4), np.uint8)
    bar[:] = (60, 140, 200, 255)
    with pytest.raises(PartError, match=r"^another part: it is \d\.\d times as long as wide, good parts 1\.\d"):
        box.locate(one(bar))
    disc = np.zeros((90, 90, 4), np.uint8)
    cv2.circle(disc, (45, 45), 43, (60, 140, 200, 255), -1)
    with pytest.raises(PartError, match=r"^another part: it is 1\.\d times as long as wide, good parts [45]\.\d"):
        strip.locate(one(disc))


@pytest.mark.parametrize("mode", ["box", "frame"])
def test_a_part_of_the_same_size_that_looks_otherwise_is_another_part(mode: str, box):
    taught = PartModel(mode=mode, goods=8, part=box.part, view=box.view)
    other = plate((200, 60, 60))[::-1]
    with pytest.raises(
        PartError, match=r"^another part: its likeness to the taught parts is -?0\.\d\d, .*at least [01]\."
    ):
        taught.locate(one(np.ascontiguousarray(other)))


def test_a_second_part_is_refused_because_it_would_not_be_inspected(box):
    with pytest.raises(PartError, match="another part: 2 parts in the frame, 1 was taught"):
        box.locate(paste(one(plate(), (120.0, 180.0)), plate(), (350.0, 180.0)))


def broken(part: np.ndarray, keep: slice) -> np.ndarray:
    rest = np.zeros_like(part)
    rest[:, keep] = part[:, keep]
    return rest


@pytest.mark.parametrize("taught", ["box", "strip"])
def test_a_broken_part_is_located_so_that_it_gets_a_score(taught: str, box, strip):
    part, goods = (plate(), box) if taught == "box" else (pin(), strip)
    half = part.shape[1] // 2
    assert goods.locate(one(broken(part, slice(half)))).pose is not None
    assert goods.locate(one(broken(part, slice(half, None)))).pose is not None
    pieces = paste(one(broken(part, slice(half)), (234.0, 180.0)), broken(part, slice(half, None)), (246.0, 182.0), 4)
    pose = goods.locate(pieces).pose
    assert pose is not None and np.hypot(*np.subtract(pose.centre_xy, MIDDLE)) < 15


def test_a_part_cut_by_the_frame_s_border_is_located_and_one_that_is_mostly_outside_is_no_part(box):
    found = box.locate(one(plate(), (0.0, 180.0)))
    assert found.pose is not None and abs(found.pose.centre_xy[0]) < 40
    with pytest.raises(PartError, match="no part"):
        box.locate(one(plate(), (-60.0, 180.0)))


@pytest.mark.parametrize("gain", [0.6, 0.8, 1.25])
def test_other_light_changes_neither_place_nor_rotation(gain: float, box, strip):
    for goods, part in ((box, plate()), (strip, pin())):
        image = one(part, angle=10)
        still, lit = goods.locate(image).pose, goods.locate((image * gain).clip(0, 255).astype(np.uint8)).pose
        assert still is not None and lit is not None
        assert np.hypot(*np.subtract(still.centre_xy, lit.centre_xy)) < 4
        assert abs(still.angle - lit.angle) < 2.5


def test_a_shadow_does_not_move_the_view(box):
    shade = np.zeros((360, 480), np.float32)
    cv2.circle(shade, (280, 220), 110, 1.0, -1)
    tray = background(99) * (1 - 0.3 * cv2.GaussianBlur(shade, (0, 0), 15)[..., None])
    shadowed = box.locate(paste(tray.astype(np.uint8), plate(), MIDDLE)).pose
    assert shadowed is not None and np.hypot(*np.subtract(shadowed.centre_xy, MIDDLE)) < 6


@pytest.mark.parametrize("hw", [(1, 1), (1, 400), (400, 1), (2, 3), (40, 3000), (2000, 30)])
def test_frames_of_odd_sizes_are_refused_or_located(hw: tuple[int, int], box, strip):
    for goods in (box, strip):
        for image in (np.full((*hw, 3), GREY, np.uint8), background(0, hw), 255 - background(0, hw, (250, 250, 250))):
            with pytest.raises(PartError, match="no part"):
                goods.locate(image)
