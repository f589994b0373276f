import logging
import time

import cv2
import numpy as np
import pytest

from zsad_agent.config import HeatmapConfig
from zsad_agent.inspection.overlay import render_heatmap


def decode(jpeg: bytes | None) -> np.ndarray:
    assert jpeg is not None
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image_wh", "shown_wh"),
    [
        ((1, 1), (1, 1)),
        ((3000, 1), (640, 1)),
        ((1, 900), (1, 900)),
        ((1280, 720), (640, 360)),
        ((320, 200), (320, 200)),
    ],
)
def test_overlay_is_at_most_as_wide_as_the_limit_and_never_enlarged(
    image_wh: tuple[int, int], shown_wh: tuple[int, int]
) -> None:
    image = np.full((image_wh[1], image_wh[0], 3), 90, np.uint8)
    shown = decode(render_heatmap(image, np.zeros((24, 24), np.float32), HeatmapConfig(max_width=640)))
    assert (shown.shape[1], shown.shape[0]) == shown_wh


@pytest.mark.parametrize("max_bytes", [100_000, 20_000, 4_000])
def test_noisy_picture_is_brought_below_the_size_limit(max_bytes: int) -> None:
    jpeg = render_heatmap(noise(480, 640), np.zeros((24, 24), np.float32), HeatmapConfig(max_bytes=max_bytes))
    assert jpeg is not None
    assert len(jpeg) <= max_bytes
    assert decode(jpeg).shape[1] >= 64


def test_overlay_that_stays_too_large_is_omitted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    config = HeatmapConfig(max_bytes=1025)  # a limit that no other test uses
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert render_heatmap(noise(4000, 64), np.zeros((24, 24), np.float32), config) is None
    assert len(caplog.records) == 1
    assert "1025" in caplog.text


def test_overlay_of_a_camera_frame_takes_a_few_milliseconds() -> None:
    image = cv2.GaussianBlur(noise(480, 640), (0, 0), 3)
    anomaly_map = np.random.default_rng(1).random((24, 24), dtype=np.float32)
    took_ms = []
    for _ in range(15):
        start = time.process_time()
        render_heatmap(image, anomaly_map, HeatmapConfig())
        took_ms.append((time.process_time() - start) * 1e3)
    assert min(took_ms) < 30  # 3 ms on an idle machine
