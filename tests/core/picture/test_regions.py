import numpy as np

from zsad_core.picture import find_regions


def test_a_map_below_the_level_has_no_regions():
    assert find_regions(np.full((8, 8), 0.4, np.float32), level=0.5, frame_wh=(80, 80)) == []


def test_boxes_are_in_frame_pixels_and_the_highest_peak_comes_first():
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[1:3, 2:6] = 0.7
    anomaly_map[6:9, 15:18] = 0.9
    first, second = find_regions(anomaly_map, level=0.5, frame_wh=(200, 50))
    assert (first.bbox_xywh, round(first.peak, 3)) == ((150, 30, 30, 15), 0.9)
    assert (second.bbox_xywh, round(second.peak, 3)) == ((20, 5, 40, 10), 0.7)


def test_small_areas_are_left_out_and_the_list_is_bounded():
    anomaly_map = np.zeros((64, 64), np.float32)
    anomaly_map[::8, ::8] = 1.0
    assert find_regions(anomaly_map, level=0.5, frame_wh=(64, 64)) == []
    anomaly_map[np.arange(64) % 8 < 2] = anomaly_map[::8].repeat(2, axis=0)
    anomaly_map[:, np.arange(64) % 8 < 2] = anomaly_map[:, ::8].repeat(2, axis=1)  # 64 areas of 2 x 2
    assert len(find_regions(anomaly_map, level=0.5, frame_wh=(64, 64))) == 32


def test_a_region_at_the_border_stays_inside_the_frame():
    anomaly_map = np.zeros((4, 3), np.float32)
    anomaly_map[:, 2] = 1.0
    (region,) = find_regions(anomaly_map, level=0.5, frame_wh=(100, 100))
    x, y, w, h = region.bbox_xywh
    assert x + w <= 100 and y + h <= 100
