"""OpenCV's own V4L2 code, and ours, against a driver that is preloaded: no camera is needed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

DRIVER = Path(__file__).parents[2] / "v4l2_driver.c"
READ_ALL = """
import sys
from pathlib import Path
from zsad_agent.sources.camera import V4l2Source
from zsad_core.errors import ImageError, SourceError
bit_depth = int(sys.argv[2]) if len(sys.argv) > 2 else None
with V4l2Source(Path(sys.argv[1]), width=64, height=48, bit_depth=bit_depth) as source:
    while True:
        try:
            image = source.read().image
        except ImageError as error:
            print("bad", error)
        except SourceError as error:
            break
        else:
            print(*image.shape, round(float(image[-8:].mean()), -1))
"""


needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="the driver is compiled with gcc")


def read_all(folder: Path, *arguments: str, **driver_env: str) -> list[str]:
    """The output of READ_ALL for a camera that delivers the files of the folder."""
    driver, device = folder / "driver.so", folder / "video0"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(driver), str(DRIVER), "-ldl"], check=True)
    device.write_bytes(bytes(1 << 20))
    preload = {"LD_PRELOAD": str(driver), "FAKE_V4L2_PICTURES": str(folder)}
    size = {"FAKE_V4L2_WIDTH": "64", "FAKE_V4L2_HEIGHT": "48"}
    return subprocess.run(
        [sys.executable, "-c", READ_ALL, str(device), *arguments],
        env={**os.environ, **preload, **size, **driver_env},
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    ).stdout.splitlines()


@needs_gcc
def test_cut_picture_of_a_motion_jpeg_camera_is_refused_and_not_filled_from_the_previous_one(tmp_path: Path) -> None:
    levels = [0, 200, 20, 100, 100, 200, 20]  # OpenCV reads the first frame at the opening and drops it
    for index, level in enumerate(levels):
        grain = np.random.default_rng(index).integers(0, 20, (48, 64, 3), np.uint8)
        jpeg = cv2.imencode(".jpg", grain + np.uint8(level))[1].tobytes()
        (tmp_path / f"{index}.jpg").write_bytes(jpeg[: len(jpeg) // 2] if index in (2, 4) else jpeg)
    told = read_all(tmp_path)
    cut = f"bad camera {tmp_path / 'video0'}: the JPEG is truncated: it has no end-of-image marker"
    assert told[-6:] == ["48 64 3 210.0", cut, "48 64 3 110.0", cut, "48 64 3 210.0", "48 64 3 30.0"]


@needs_gcc
@pytest.mark.parametrize(("bit_depth", "level"), [(["10"], 120.0), (["12"], 30.0), ([], 0.0)])
def test_low_bits_of_a_16_bit_camera_are_the_picture_with_their_depth(
    tmp_path: Path, bit_depth: list[str], level: float
) -> None:
    for index in range(4):
        (tmp_path / f"{index}.jpg").write_bytes(np.full((48, 64), 480 + index, np.uint16).tobytes())
    assert read_all(tmp_path, *bit_depth, FAKE_V4L2_Y16="1")[-1] == f"48 64 3 {level}"


OPEN = """
import sys
from pathlib import Path
from zsad_agent.sources.camera import V4l2Source
from zsad_core.errors import SourceError
settings = dict(pixel_format=sys.argv[2] or None, exposure_us=float(sys.argv[3]), gain=float(sys.argv[4]))
try:
    with V4l2Source(Path(sys.argv[1]), width=64, height=48, **settings) as source:
        print("read", source.read().image.shape)
except SourceError as error:
    print(error)
"""
EXPOSURE_AUTO, EXPOSURE_ABSOLUTE, GAIN = 0x9A0901, 0x9A0902, 0x980913  # linux/v4l2-controls.h


def open_with(folder: Path, pixel_format: str, *, has_controls: bool = True) -> tuple[str, list[str]]:
    """What OPEN tells, and what the driver noted."""
    for index in range(4):
        (folder / f"{index}.jpg").write_bytes(cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes())
    driver, device, log = folder / "driver.so", folder / "video0", folder / "log"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(driver), str(DRIVER), "-ldl"], check=True)
    device.write_bytes(bytes(1 << 20))
    log.touch()
    env = {"LD_PRELOAD": str(driver), "FAKE_V4L2_PICTURES": str(folder)}
    env |= {"FAKE_V4L2_WIDTH": "64", "FAKE_V4L2_HEIGHT": "48"} | ({"FAKE_V4L2_LOG": str(log)} if has_controls else {})
    told = subprocess.run(
        [sys.executable, "-c", OPEN, str(device), pixel_format, "2500", "7"],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    ).stdout
    return told.replace(str(device), "DEVICE"), log.read_text().splitlines()


@needs_gcc
def test_pixel_format_exposure_and_gain_reach_the_driver(tmp_path: Path) -> None:
    told, noted = open_with(tmp_path, "MJPG")
    assert told == "read (48, 64, 3)\n"
    assert f"format {cv2.VideoWriter.fourcc(*'MJPG')} 0" in noted
    set_controls = [line for line in noted if line.startswith("control")]
    assert set_controls == [  # the exposure in units of 100 us, after the automatic one is off
        f"control {EXPOSURE_AUTO} 1",
        f"control {EXPOSURE_ABSOLUTE} 25",
        f"control {GAIN} 7",
    ]


@needs_gcc
def test_format_that_the_camera_does_not_give_is_refused(tmp_path: Path) -> None:
    told, _ = open_with(tmp_path, "YUYV")
    expected = "camera DEVICE: gives the pixel_format MJPG instead of YUYV. `zsad-agent doctor` lists its formats\n"
    assert told == expected


@needs_gcc
def test_camera_without_exposure_control_refuses_it(tmp_path: Path) -> None:
    assert open_with(tmp_path, "", has_controls=False)[0] == "camera DEVICE: refuses exposure_us 2500\n"
