from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_agent.config import HeatmapConfig
from zsad_agent.inspection import View
from zsad_agent.inspection.overlay import render_heatmap
from zsad_agent.inspection.view import Rectangle
from zsad_core.errors import ConfigError, ImageError
from zsad_core.facts import ScoreRule
from zsad_core.memory import FLOOR, to_unit
from zsad_core.types import Prediction, ProfileName, Region

RULE = ScoreRule(top_fraction=0.0, pool=1)
FRAME = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


def mask_file(path: Path, ignored: tuple[slice, slice], shape: tuple[int, int] = (40, 60)) -> Path:
    mask = np.zeros(shape, np.uint8)
    mask[ignored] = 255
    cv2.imwrite(str(path), mask)
    return path


def test_without_settings_the_whole_picture_is_inspected() -> None:
    view = View()
    prediction = Prediction(anomaly_map=np.ones((4, 4), np.float32), anomaly_score=0.5)
    assert view.cut(FRAME).shape == FRAME.shape
    assert view.correct(prediction, (60, 40), None) is prediction


def test_region_is_cut_out_and_boxes_are_in_frame_pixels() -> None:
    view = View((10, 20, 30, 16))
    assert np.array_equal(view.cut(FRAME), FRAME[20:36, 10:40])
    moved = view.in_frame([Region(bbox_xywh=(1, 2, 3, 4), peak=0.5)], (60, 40))
    assert moved == [Region(bbox_xywh=(11, 22, 3, 4), peak=0.5)]


def test_region_outside_the_frame_is_an_image_error() -> None:
    with pytest.raises(ImageError, match="region_xywh 10, 20, 51, 16 is not inside the picture of 60x40"):
        View((10, 20, 51, 16)).cut(FRAME)


def test_defect_under_the_mask_is_ignored_and_one_beside_it_is_not(tmp_path: Path) -> None:
    view = View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:, 30:]))
    anomaly_map = np.zeros((20, 30), np.float32)
    anomaly_map[5, 20] = 0.9
    hidden = view.correct(Prediction(anomaly_map=anomaly_map, anomaly_score=0.9), (60, 40), RULE)
    assert hidden.anomaly_score == 0 and not hidden.anomaly_map.any()
    anomaly_map[5, 10] = 0.7
    seen = view.correct(Prediction(anomaly_map=anomaly_map, anomaly_score=0.9), (60, 40), RULE)
    assert seen.anomaly_score == pytest.approx(0.7)


def test_mask_without_a_checksum_may_end_in_black_at_once(tmp_path: Path) -> None:
    view = View(ignore_mask=mask_file(tmp_path / "m.bmp", np.s_[30:, :]))  # a BMP begins with the lowest row
    assert view.rectangle((60, 40)) == (0, 0, 60, 40)


def test_ignored_map_pixels_are_those_of_the_region(tmp_path: Path) -> None:
    view = View((0, 20, 60, 20), mask_file(tmp_path / "m.png", np.s_[:30]))
    ignored = view.ignored((60, 40), (4, 6))
    assert ignored is not None and np.array_equal(ignored, np.repeat([[True], [True], [False], [False]], 6, axis=1))
    assert View((0, 20, 60, 20)).ignored((60, 40), (4, 6)) is None


def test_mask_is_cut_to_the_region_and_scales_with_the_frame(tmp_path: Path) -> None:
    view = View((60, 0, 60, 80), mask_file(tmp_path / "m.png", np.s_[:, 45:]))  # drawn at 60x40, frames are 120x80
    corrected = view.correct(Prediction(anomaly_map=np.ones((8, 8), np.float32), anomaly_score=1.0), (120, 80), RULE)
    assert np.array_equal(corrected.anomaly_map, np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0))


def test_mask_of_another_shape_makes_pictures_unknown(tmp_path: Path) -> None:
    view = View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:5, :5]))
    with pytest.raises(ImageError, match="has 60x40 pixels, the picture 40x40"):
        view.correct(Prediction(anomaly_map=np.ones((8, 8), np.float32), anomaly_score=1.0), (40, 40), RULE)


def test_mask_over_the_whole_region_is_an_image_error(tmp_path: Path) -> None:
    view = View((0, 0, 20, 20), mask_file(tmp_path / "m.png", np.s_[:30, :30]))
    with pytest.raises(ImageError, match="covers the whole region"):
        view.correct(Prediction(anomaly_map=np.ones((8, 8), np.float32), anomaly_score=1.0), (60, 40), RULE)


@pytest.mark.parametrize(("region", "ignored"), [((30, 0, 20, 20), np.s_[:30, :20]), (None, np.s_[:1, :1])])
def test_mask_that_ignores_nothing_of_the_region_is_logged_once(
    tmp_path: Path, region: Rectangle | None, ignored: tuple[slice, slice], caplog: pytest.LogCaptureFixture
) -> None:
    view = View(region, mask_file(tmp_path / "m.png", ignored))
    for _ in range(3):
        view.correct(Prediction(anomaly_map=np.ones((8, 8), np.float32), anomaly_score=1.0), (60, 40), RULE)
    (line,) = caplog.messages
    assert "m.png ignores nothing" in line


def test_useless_or_missing_mask_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="white everywhere"):
        View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:, :]))
    with pytest.raises(ConfigError, match=r"m\.png has no white area, so it ignores nothing"):
        View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:0, :0]))
    drawn = np.zeros((40, 60, 4), np.uint8)
    drawn[:20, :, 3] = 255  # by transparency
    cv2.imwrite(str(tmp_path / "alpha.png"), drawn)
    with pytest.raises(ConfigError, match="transparency does not count"):
        View(ignore_mask=tmp_path / "alpha.png")
    with pytest.raises(ConfigError, match=r"ignore_mask: .*none\.png"):
        View(ignore_mask=tmp_path / "none.png")


def test_mask_is_refused_for_a_bundle_whose_score_is_not_computed_from_its_map(tmp_path: Path) -> None:
    view = View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:5, :5]))
    with pytest.raises(ConfigError, match="is not computed from its anomaly map"):
        view.correct(Prediction(anomaly_map=np.ones((8, 8), np.float32), anomaly_score=1.0), (60, 40), None)


def test_mask_counts_for_the_score_of_a_taught_product(tmp_path: Path) -> None:
    view = View(ignore_mask=mask_file(tmp_path / "m.png", np.s_[:, 30:]))
    z = np.zeros((20, 30), np.float32)
    z[5, 20:26] = 9.0
    z[5, 3:6] = 5.0
    taught = Prediction(
        anomaly_map=to_unit(z, 4.0),
        anomaly_score=0.9,
        threshold=0.5,
        profile=ProfileName(product="lid", sha256="0" * 64),
        scale=4.0,
    )
    corrected = view.correct(taught, (60, 40), None)
    assert corrected.anomaly_score == pytest.approx(float(to_unit(5.0, 4.0)), abs=1e-5)
    assert not corrected.anomaly_map[:, 15:].any()
    assert (corrected.threshold, corrected.profile, corrected.scale) == (0.5, taught.profile, 4.0)
    z[:, :15] = FLOOR  # the part stops under the mask
    with pytest.raises(ImageError, match="ignore_mask ignores the picture"):
        view.correct(replace(taught, anomaly_map=to_unit(z, 4.0)), (60, 40), None)


def test_overlay_colours_only_the_inspected_part() -> None:
    grey = np.full((100, 200, 3), 90, np.uint8)
    encoded = render_heatmap(grey, np.ones((8, 8), np.float32), HeatmapConfig(), (100, 0, 100, 100))
    assert encoded is not None
    overlay = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR).astype(int)
    assert abs(overlay[:, :92] - 90).max() < 12
    assert abs(overlay[10:90, 110:190] - 90).max() > 60
