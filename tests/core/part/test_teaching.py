"""What is learned from goods, how it is stored, and that real pictures are not refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from drawn_parts import background, images, paste, pin, plate, scenes
from pydantic import ValidationError

from zsad_core.part import PartError, PartModel, part_models
from zsad_core.picture import find_images, read_image

CHECKOUT = Path(__file__).parents[3]
SETS = CHECKOUT.parent / "shared" / "datasets"


def modes(goods: list[np.ndarray]) -> list[str]:
    return [found.mode for found in part_models(goods)]


def test_parts_are_offered_as_frame_box_and_strip():
    assert modes(images(scenes(plate(), 6))) == ["frame", "box"]
    assert modes(images(scenes(pin(), 6, turn=180))) == ["frame", "box", "strip"]


def test_a_surface_that_fills_the_frame_has_no_part():
    grain = [cv2.GaussianBlur(background(seed), (0, 0), 2) for seed in range(6)]
    (whole,) = part_models(grain)
    assert whole.mode == "frame" and whole.part is None
    assert whole.locate(grain[0]).view_bgr is grain[0]


def test_goods_of_different_sizes_are_inspected_as_whole_frames():
    sizes = [0.4, 0.6, 0.8, 1.0, 1.3, 1.6]
    goods = [paste(background(0), cv2.resize(plate(), None, fx=s, fy=s), (240, 180)) for s in sizes]
    assert modes(goods) == ["frame"]


def test_one_outlier_in_ten_goods_does_not_prevent_the_box():
    goods = images(scenes(plate(), 9))
    assert modes([*goods, background(0)]) == ["frame", "box"]
    assert modes([*goods[:8], background(0), background(1)]) == ["frame"]


def test_too_few_goods_are_inspected_as_whole_frames():
    assert modes(images(scenes(plate(), 2))) == ["frame"]
    with pytest.raises(ValueError, match="at least one picture"):
        part_models([])


def tray(seed: int, places: list[int]) -> np.ndarray:
    image = background(seed)
    for place in places:
        image = paste(
            image, cv2.resize(plate(), None, fx=0.6, fy=0.6), (80 + 160 * (place % 3), 100 + 160 * (place // 3))
        )
    return image


def test_a_tray_of_equal_parts_is_inspected_as_a_whole():
    (taught,) = part_models([tray(seed, list(range(6))) for seed in range(5)])
    assert taught.mode == "frame" and taught.part is not None and taught.part.count == 6
    one_missing = tray(9, [0, 1, 2, 3, 5])
    assert taught.locate(one_missing).view_bgr is one_missing
    with pytest.raises(PartError, match="no part"):
        taught.locate(background(9))


def test_what_belongs_to_a_part_but_lies_beside_it_is_not_cut_off():
    cap = cv2.resize(plate(), None, fx=0.5, fy=0.5)
    goods = [paste(image, cap, (min(x + 150, 430), y)) for image, (x, y), _ in scenes(plate(), 6)]
    assert "box" not in modes(goods)


@pytest.fixture(scope="module")
def taught() -> list[PartModel]:
    return part_models(images(scenes(pin(), 6, turn=180)))


def test_a_model_read_from_json_locates_alike(taught):
    image = scenes(pin(), 1, turn=180, seed=70)[0][0]
    for found in taught:
        text = found.model_dump_json()
        assert len(text) < 50_000
        again = PartModel.model_validate_json(text)
        assert again == found
        np.testing.assert_array_equal(again.locate(image).view_bgr, found.locate(image).view_bgr)


def test_teaching_the_same_goods_gives_the_same_model(taught):
    assert part_models(images(scenes(pin(), 6, turn=180))) == taught


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("mode", "frames"),
        ("mode", "box"),
        ("goods", 0),
        ("part", None),
        ("view", None),
        ("extra", 1),
        ("part.count", 2),
        ("part.area.low", 0),
        ("part.area.low", 0.9),
        ("part.area.high", "0.1"),
        ("part.contrast", -1),
        ("view.size_wh", [1.0]),
        ("view.size_wh", [1.0, 0.0]),
        ("view.size_wh", [1.0, 100.0]),
        ("view.similarity", 1.5),
        ("view.turns", 1),
        ("view.template", "AAAA"),
        ("view.template", "?" * 12288),
        ("view.template", "é" * 12288),
    ],
)
def test_damaged_values_are_refused(path: str, value: object, taught):
    content = json.loads(taught[-1].model_dump_json())
    *sections, key = path.split(".")
    place = content
    for section in sections:
        place = place[section]
    place[key] = value
    with pytest.raises(ValidationError):
        PartModel.model_validate_json(json.dumps(content))


def refused(found: PartModel, pictures: list[Path]) -> list[str]:
    texts = []
    for picture in pictures:
        try:
            found.locate(read_image(picture))
        except PartError as error:
            texts.append(f"{picture.name}: {error}")
    return texts


def test_no_picture_of_the_demo_is_refused():
    pictures = sorted((CHECKOUT / "demo" / "stream").glob("*.jpg"))
    whole = [picture for picture in pictures if "whole" in picture.name]
    models = part_models([read_image(picture) for picture in whole])
    assert "box" in [found.mode for found in models]
    for found in models:
        assert refused(found, pictures) == []
        with pytest.raises(PartError, match="no part"):
            found.locate(background(0, (640, 480), (60, 60, 62)))


@pytest.mark.skipif(not SETS.is_dir(), reason="needs the data sets beside the checkout")
@pytest.mark.parametrize(
    ("product", "expected"),
    [
        ("mvtec_ad_mini/bottle", ["frame", "box"]),
        ("mvtec_ad_mini/capsule", ["frame", "box", "strip"]),
        ("mvtec_ad_mini/metal_nut", ["frame", "box"]),
        ("mvtec_ad_mini/leather", ["frame"]),
        ("aws_cookie/cookie", ["frame", "box"]),
        ("deeppcb/pcb", ["frame"]),
        ("ksdd/commutator", ["frame"]),
        ("crackforest/road", ["frame"]),
        ("magnetic_tile/tile", ["frame"]),
    ],
)
def test_good_and_defective_parts_of_the_sets_are_located(product: str, expected: list[str]):
    pictures = find_images(SETS / product / "test")
    goods = [picture for picture in pictures if picture.parent.name == "good"]
    models = part_models([read_image(picture) for picture in goods[: max(4, min(16, len(goods) // 2))]])
    assert [found.mode for found in models] == expected
    for found in models:
        assert refused(found, pictures[:80]) == []
