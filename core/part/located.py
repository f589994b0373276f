"""A part that was found: its view, and how maps of the frame and of the view are converted to each other."""

from dataclasses import dataclass
from math import ceil, hypot
from typing import Final, Self

import cv2
import numpy as np

from zsad_core.errors import ImageError
from zsad_core.picture import resize_to_input

MAX_VIEW_SIDE: Final = 1024  # pixels; a larger view is shrunk: no network of a bundle sees more
_MAX_FINER: Final = 16  # samples per pixel and axis when a map is shrunk


class PartError(ImageError):
    """The frame shows no part, or another part than taught. The text says what was found and what was taught."""


class NoPartError(PartError):
    """The frame shows no part."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A rectangle of the frame that may be rotated: what the view shows. Coordinates are pixels of the frame."""

    centre_xy: tuple[float, float]
    size_wh: tuple[float, float]
    angle: float = 0.0  # degrees by which the rectangle is rotated clockwise, as seen in the frame

    def to_frame(self, view_wh: tuple[float, float]) -> np.ndarray:
        """float64 [2, 3]: a view's point in `view_wh` units -> the frame's point. The origin is a corner, not a pixel.

        A view of 56 x 56 units is a map of that size; its first pixel's centre is (0.5, 0.5).
        """
        turn = np.radians(self.angle)
        axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        axes = axes * (self.size_wh[0] / view_wh[0], self.size_wh[1] / view_wh[1])
        corner = np.array(self.centre_xy) - axes @ (view_wh[0] / 2, view_wh[1] / 2)
        return np.column_stack([axes, corner])


@dataclass(frozen=True, kw_only=True)
class Located:
    """The part's view and where it lies in the frame."""

    view_bgr: np.ndarray  # uint8 [H, W, 3]
    strip: bool  # the view is a strip of 3:1
    frame_hw: tuple[int, int]
    pose: Pose | None  # None: the view is the whole frame

    @classmethod
    def whole(cls, image_bgr: np.ndarray) -> Self:
        """The whole frame as view."""
        return cls(view_bgr=image_bgr, strip=False, frame_hw=image_bgr.shape[:2], pose=None)

    @classmethod
    def cut(cls, image_bgr: np.ndarray, pose: Pose, *, strip: bool) -> Self:
        """The view that `pose` shows, at the frame's resolution, at most `MAX_VIEW_SIDE` pixels a side."""
        width, height = pose.size_wh
        shrink = min(1.0, MAX_VIEW_SIDE / max(width, height))
        view_wh = max(1, round(width * shrink)), max(1, round(height * shrink))
        return cls(view_bgr=cut(image_bgr, pose, view_wh), strip=strip, frame_hw=image_bgr.shape[:2], pose=pose)

    def map_to_view(self, frame_map: np.ndarray, view_hw: tuple[int, int]) -> np.ndarray:
        """float32 `view_hw`: the part of the frame's map [h, w] that the view shows. Outside, its edge is repeated."""
        if self.pose is None:
            return _resized(frame_map, view_hw)
        height, width = frame_map.shape
        to_frame = self.pose.to_frame((view_hw[1], view_hw[0]))
        to_map = np.diag([width / self.frame_hw[1], height / self.frame_hw[0]]) @ to_frame
        return _warped(frame_map, to_map, view_hw, None)

    def map_to_frame(self, view_map: np.ndarray, map_hw: tuple[int, int], fill: float = 0.0) -> np.ndarray:
        """float32 `map_hw`, covers the frame: the view's map [h, w] at its place, and `fill` outside the view."""
        if self.pose is None:
            return _resized(view_map, map_hw)
        to_frame = self.pose.to_frame((view_map.shape[1], view_map.shape[0]))
        to_view = cv2.invertAffineTransform(to_frame)
        to_view[:, :2] @= np.diag([self.frame_hw[1] / map_hw[1], self.frame_hw[0] / map_hw[0]])
        return _warped(view_map, to_view, map_hw, fill)


def cut(image: np.ndarray, pose: Pose, view_wh: tuple[int, int]) -> np.ndarray:
    """The image [H, W, 3] that `pose` shows, resized to `view_wh`. Shrinking averages areas.

    Beyond the frame its edge is repeated.
    """
    scale = max(view_wh[0] / pose.size_wh[0], view_wh[1] / pose.size_wh[1])
    corners = pose.to_frame((1, 1)) @ np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    frame_h, frame_w = image.shape[:2]
    left, top = (max(0, int(low) - 2) for low in np.floor(corners.min(axis=1)))
    right, bottom = (int(high) + 2 for high in np.ceil(corners.max(axis=1)))
    left, top = min(left, frame_w - 1), min(top, frame_h - 1)
    near = image[top : max(top + 1, bottom), left : max(left + 1, right)]
    to_near = pose.to_frame(view_wh) - [[0, 0, left], [0, 0, top]]
    if scale < 1:
        near_wh = max(1, round(near.shape[1] * scale)), max(1, round(near.shape[0] * scale))
        to_near = np.diag([near_wh[0] / near.shape[1], near_wh[1] / near.shape[0]]) @ to_near
        near = resize_to_input(near, near_wh[::-1])
    return sampled(near, to_near, view_wh)


def sampled(source: np.ndarray, to_source: np.ndarray, wh: tuple[int, int]) -> np.ndarray:
    """`wh` bilinear samples of an image; `to_source` [2, 3] maps target points to source points, as `Pose.to_frame`.

    Beyond the source its edge is repeated.
    """
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, _of_centres(to_source), wh, flags=flags, borderMode=cv2.BORDER_REPLICATE)


def _of_centres(to_source: np.ndarray) -> np.ndarray:
    """The same for OpenCV, whose origin is the centre of the first pixel."""
    return np.column_stack([to_source[:, :2], to_source[:, 2] + to_source[:, :2] @ (0.5, 0.5) - 0.5])


def _warped(source: np.ndarray, to_source: np.ndarray, hw: tuple[int, int], fill: float | None) -> np.ndarray:
    """float32 `hw` samples of a map; each pixel of a coarser target is the mean of all that it covers."""
    step = max(hypot(*to_source[:, 0]), hypot(*to_source[:, 1]))  # source pixels per target pixel
    finer = min(_MAX_FINER, max(1, ceil(step - 1e-6)))
    to_source = np.column_stack([to_source[:, :2] / finer, to_source[:, 2]])
    wh = hw[1] * finer, hw[0] * finer
    samples = sampled(source.astype(np.float32), to_source, wh)
    if fill is not None:  # a pixel's centre decides whether it is inside, so that `fill` does not weaken the map's rim
        flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
        samples[cv2.warpAffine(np.ones(source.shape, np.uint8), _of_centres(to_source), wh, flags=flags) == 0] = fill
    if finer == 1:
        return samples
    return cv2.resize(samples, (hw[1], hw[0]), interpolation=cv2.INTER_AREA)


def _resized(source: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    shrinks = source.shape[0] > hw[0] or source.shape[1] > hw[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(source.astype(np.float32), (hw[1], hw[0]), interpolation=method)
