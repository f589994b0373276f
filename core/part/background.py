"""The background of a frame: its colour along the frame's border, which may change evenly across the frame."""

from dataclasses import dataclass
from typing import Final, Self

import cv2
import numpy as np

_BORDER: Final = 0.03  # width of the border, share of the shorter side
# Of OpenCV's 8-bit Lab: light and shadow count less than colour.
_LAB_SCALE: Final = np.array([0.3, 1.0, 1.0], np.float32)


def border_of(image: np.ndarray) -> np.ndarray:
    """[N] or [N, C]: the pixels of the frame's border."""
    wide = max(1, round(_BORDER * min(image.shape[:2])))
    sides = image[:wide], image[-wide:], image[wide:-wide, :wide], image[wide:-wide, -wide:]
    return np.concatenate([side.reshape(-1, *image.shape[2:]) for side in sides])


@dataclass(frozen=True, kw_only=True)
class Background:
    """A plane in each channel of Lab. Places are given as shares of the frame's width and height, [0, 1]."""

    plane: np.ndarray  # float32 [3, 3]: level, change across, change down; by channel

    @classmethod
    def of(cls, image_bgr: np.ndarray) -> Self:
        """The plane that fits most of the border of a frame, uint8 BGR [H, W, 3]. Parts may cover some of it."""
        height, width = image_bgr.shape[:2]
        x, y = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
        pixels = cv2.cvtColor(border_of(image_bgr)[None], cv2.COLOR_BGR2LAB)[0].astype(np.float32)
        places = np.column_stack([np.ones(len(pixels), np.float32), border_of(x) - 0.5, border_of(y) - 0.5])
        plane = np.zeros((3, 3), np.float32)
        plane[0] = np.median(pixels, axis=0)
        for _ in range(3):
            off = np.linalg.norm((pixels - places @ plane) * _LAB_SCALE, axis=1)
            near = off <= max(8.0, 2.5 * float(np.median(off)))
            at, seen = places[near], pixels[near]
            normal = at.T @ at + np.diag([0, 0.0125, 0.0125]).astype(np.float32) * len(at)  # keeps slopes small
            plane = np.linalg.solve(normal, at.T @ seen).astype(np.float32)
        return cls(plane=plane)

    def difference(
        self, image_bgr: np.ndarray, across: tuple[float, float] = (0, 1), down: tuple[float, float] = (0, 1)
    ) -> list[np.ndarray]:
        """Scaled difference of an image to the background: three channels, float32 [h, w].

        `across`, `down`: where the image begins and ends in the frame. Beyond the frame the background is that of the
        frame's edge.
        """
        height, width = image_bgr.shape[:2]
        x = np.linspace(*across, width, dtype=np.float32).clip(0, 1)[None] - 0.5
        y = np.linspace(*down, height, dtype=np.float32).clip(0, 1)[:, None] - 0.5
        channels = cv2.split(cv2.cvtColor(image_bgr, cv2.COLOR_BGR2LAB))
        return [
            cv2.subtract(channel, level + slope_x * x + slope_y * y, dtype=cv2.CV_32F) * scale
            for channel, (level, slope_x, slope_y), scale in zip(channels, self.plane.T, _LAB_SCALE, strict=True)
        ]
