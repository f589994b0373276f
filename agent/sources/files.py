"""Finite sources: a video file, and pictures. Every one of their pictures is inspected."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import cv2
import numpy as np

from zsad_agent.sources.opencv import OpenCvSource, ask_for_encoded
from zsad_agent.sources.source import DamagedPicture, Picture, name_of
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import read_image

COUNT_SLACK = 0.05  # share of the header's frame count, which some containers only estimate


class VideoFileSource(OpenCvSource):
    """The frames of one video file, in order. JPEGs and PNGs in it are checked like image files."""

    lossless, endless = True, False

    def __init__(self, path: Path) -> None:
        super().__init__(f"video {path}")
        self._path = path
        self._frames = 0
        self._stated_frames = 0.0
        self._second: np.ndarray | None = None  # read ahead

    def __enter__(self) -> Self:
        failure = "not a readable video, or damaged"
        capture = self._open(str(self._path.absolute()), cv2.CAP_FFMPEG, failure=failure)
        self._frames, self._second = 0, None
        self._gives_encoded = ask_for_encoded(capture, cv2.CAP_PROP_FORMAT, -1)
        self._stated_frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)  # 0 or less where the header states none
        return self

    def read(self) -> Picture | None:
        """The next frame, None at the end.

        Raises:
            ImageError: this frame is damaged.
            SourceError: the file has one frame that FFmpeg decoded, or clearly fewer than its header states.
        """
        array, self._second = self._second, None
        if array is None:
            array = self._next_array()
        if array is not None:
            self._frames += 1
            if self._frames == 1:
                self._second = self._next_array()
                if self._second is None and not self._gives_encoded:  # FFmpeg fills what is missing in a still image
                    raise SourceError(f"{self.description}: one frame, so not a video, and not an image that is read")
            return Picture(image=self._image_of(array, f"{self.description}, frame {self._frames}", strict=True))
        if self._frames == 0:
            raise SourceError(f"{self.description}: no frame can be decoded")
        if self._frames < self._stated_frames - max(1.0, COUNT_SLACK * self._stated_frames):
            raise SourceError(
                f"{self.description}: ends after {self._frames} of {self._stated_frames:.0f} frames: "
                "it is cut short or damaged"
            )
        return None


class PicturesSource:
    """Picture files, in the order given."""

    lossless, endless = True, False

    def __init__(self, paths: Sequence[Path], name: str, bit_depth: int | None = None) -> None:
        self.description = f"pictures {name}"
        self._paths = list(paths)
        self._bit_depth = bit_depth

    def __enter__(self) -> Self:
        self._left = iter(self._paths)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two reads."""

    def read(self) -> Picture | None:
        """The next picture, None at the end.

        Raises:
            DamagedPicture: this file cannot be read as a picture; the next call reads the next one.
        """
        path = next(self._left, None)
        if path is None:
            return None
        name = name_of(path)
        try:
            return Picture(image=read_image(path, self._bit_depth), source_name=name)
        except ImageError as error:
            raise DamagedPicture(str(error), source_name=name) from error
