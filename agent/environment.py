"""What OpenCV reads from the process environment. Imports nothing of it: some is read while `cv2` is imported."""

import math
import os


def prepare_environment(stale_after_s: float | None = None) -> None:
    """To be called before `cv2` is imported. What the user has set stays.

    Args:
        stale_after_s: longest wait for one frame of a V4L2 camera, rounded up to whole seconds; OpenCV's own is 10.
            None where no such camera is read: processes that are started inherit the environment, and each has its own.
    """
    if stale_after_s is not None:
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(stale_after_s)))
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "100000000")  # as `zsad_core.imaging.MAX_PIXELS`, unread above
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # its warnings repeat on every attempt; ours are said once
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg's messages hold the URL with its credentials
