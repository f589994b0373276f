import http.server
import re
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_agent.config import SourceConfig
from zsad_agent.sources import (
    DamagedPicture,
    GrabberSource,
    PicturesSource,
    Source,
    StreamSource,
    VideoFileSource,
    make_source,
)
from zsad_agent.sources.camera import V4l2Source
from zsad_agent.sources.opencv import ask_for_encoded
from zsad_core.errors import ConfigError, ImageError, SourceError
from zsad_core.picture import decode_image
from zsad_core.redaction import redacted


def write_video(path: Path, frames: int, hw: tuple[int, int] = (48, 64), *, codec: str = "MJPG") -> Path:
    """Frame i is grey of brightness 10 * i."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 10, (hw[1], hw[0]))
    assert writer.isOpened()
    for index in range(frames):
        writer.write(np.full((*hw, 3), 10 * index, np.uint8))
    writer.release()
    return path


def read_all(source: Source) -> list[np.ndarray]:
    frames = []
    with source:
        while (picture := source.read()) is not None:
            frames.append(picture.image)
    return frames


def test_video_gives_every_frame_in_order_and_again_after_reopening(tmp_path: Path) -> None:
    source = make_source(SourceConfig(source=str(write_video(tmp_path / "v.avi", 7))))
    assert source.lossless
    for _ in range(2):
        frames = read_all(source)
        assert [round(float(frame.mean()) / 10) for frame in frames] == list(range(7))
        assert all(frame.shape == (48, 64, 3) and frame.dtype == np.uint8 for frame in frames)


@pytest.mark.parametrize(
    ("name", "codec"), [("v.avi", "MJPG"), ("v.mov", "jpeg"), ("v.mkv", "MJPG"), ("v.mp4", "MJPG")]
)
def test_cut_picture_in_a_video_is_refused_and_the_others_are_read(tmp_path: Path, name: str, codec: str) -> None:
    path = write_video(tmp_path / name, 4, codec=codec)
    content = path.read_bytes()
    start = content.find(b"\xff\xd8\xff", content.find(b"\xff\xd8\xff") + 1)
    last = content.find(b"\xff\xd9", start) + 2
    half = (start + last) // 2
    path.write_bytes(content[:half] + bytes(last - half) + content[last:])
    levels: list[int | None] = []
    with VideoFileSource(path) as source:
        for _ in range(4):
            try:
                picture = source.read()
            except ImageError as error:
                assert f"{name}, frame 2: the JPEG is truncated" in str(error)
                levels.append(None)
            else:
                assert picture is not None
                levels.append(round(float(picture.image.mean()) / 10))
        assert source.read() is None
    assert levels == [0, None, 2, 3]


def test_picture_in_a_video_whose_middle_is_missing_is_refused(tmp_path: Path) -> None:
    jpeg = jpeg_of().tobytes()
    (tmp_path / "v.mjpeg").write_bytes(jpeg[: len(jpeg) // 2] + jpeg[-400:] + jpeg)
    with VideoFileSource(tmp_path / "v.mjpeg") as source, pytest.raises(ImageError, match="frame 1: "):
        source.read()


def test_several_jpegs_in_a_file_of_another_suffix_are_refused(tmp_path: Path) -> None:
    (tmp_path / "v.jpg").write_bytes(2 * jpeg_of().tobytes())
    with (
        make_source(SourceConfig(source=str(tmp_path / "v.jpg"))) as source,
        pytest.raises(ImageError, match="several"),
    ):
        source.read()


def test_cut_picture_in_a_video_of_pngs_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 4, codec="MPNG")
    content = path.read_bytes()
    second_end = [found.start() for found in re.finditer(b"IEND", content)][1]
    path.write_bytes(content[: second_end - 20] + bytes(28) + content[second_end + 8 :])
    with VideoFileSource(path) as source:
        assert source.read() is not None
        with pytest.raises(ImageError, match="frame 2: "):
            source.read()
        with pytest.raises(SourceError, match="ends after 2 of 4 frames"):
            source.read()


def test_motion_jpeg_of_one_picture_is_inspected_if_it_is_complete(tmp_path: Path) -> None:
    jpeg = jpeg_of().tobytes()
    (tmp_path / "v.mjpeg").write_bytes(jpeg)
    assert len(read_all(make_source(SourceConfig(source=str(tmp_path / "v.mjpeg"))))) == 1
    assert len(read_all(make_source(SourceConfig(source=str(write_video(tmp_path / "v.avi", 1)))))) == 1
    (tmp_path / "v.mjpeg").write_bytes(jpeg[: len(jpeg) // 2] + jpeg[-2:])
    with pytest.raises(ImageError, match="the JPEG is damaged"):
        read_all(make_source(SourceConfig(source=str(tmp_path / "v.mjpeg"))))


def test_cut_picture_in_a_file_of_bare_jpegs_is_refused(tmp_path: Path) -> None:
    jpeg = jpeg_of().tobytes()
    (tmp_path / "v.mjpeg").write_bytes(jpeg + jpeg[: len(jpeg) // 3] + jpeg)
    source = make_source(SourceConfig(source=str(tmp_path / "v.mjpeg")))
    with source:
        whole = source.read()
        with pytest.raises(ImageError, match="frame 2: the JPEG is truncated"):
            source.read()
        assert whole is not None and np.array_equal(whole.image, cv2.imdecode(jpeg_of(), cv2.IMREAD_COLOR))
        assert source.read() is not None and source.read() is None


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(100_000)])
def test_damaged_video_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v.mp4").write_bytes(content)
    with pytest.raises(SourceError, match=r"v\.mp4: (not a readable video|no frame)"):
        read_all(VideoFileSource(tmp_path / "v.mp4"))


def test_truncated_video_ends_with_an_error(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "v.avi", 20, (240, 320)).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    source = VideoFileSource(tmp_path / "cut.avi")
    frames = []
    with source, pytest.raises(SourceError, match=r"ends after \d+ of 20 frames"):
        while True:
            with suppress(ImageError):  # the last one is cut
                frames.append(source.read())
    assert 3 < len(frames) < 18


def test_folder_is_read_by_name_and_a_bad_picture_does_not_stop_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9), 257 * 30, np.uint16))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 not really")
    cv2.imwrite(str(tmp_path / "sub" / "c.png"), np.full((9, 9, 4), 60, np.uint8))
    (tmp_path / "notes.txt").touch()
    source = make_source(SourceConfig(source=str(tmp_path)))
    assert source.lossless
    with source:
        first = source.read()
        assert first is not None and (first.image == 30).all()
        with pytest.raises(ImageError, match=r"b\.jpg"):
            source.read()
        last = source.read()
        assert last is not None and (last.image == 60).all()
        assert source.read() is None


def test_a_picture_and_a_glob_are_sources(tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b1.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((9, 9, 3), np.uint8))
    assert len(read_all(make_source(SourceConfig(source=str(tmp_path / "b1.png"))))) == 1
    assert len(read_all(make_source(SourceConfig(source=str(tmp_path / "a*.png"))))) == 2


@pytest.mark.parametrize("name", ["a.jfif", "a.jpe", "a", "a.mp4", "a.jpg.part"])
def test_truncated_jpeg_is_refused_with_any_file_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(jpeg_of()[:1500].tobytes())
    source = make_source(SourceConfig(source=str(tmp_path / name)))
    with source, pytest.raises(ImageError, match="the JPEG is truncated"):
        source.read()


@pytest.mark.parametrize("source", ["", "/*"])
def test_folder_and_glob_give_pictures_of_any_name_and_report_other_files_once(
    tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a", "b.jfif", "c.dat"):
        (tmp_path / name).write_bytes(jpeg_of().tobytes())
    for name in ("notes.txt", "map.npy"):
        (tmp_path / name).write_text("not a picture")
    assert len(read_all(make_source(SourceConfig(source=f"{tmp_path}{source}")))) == 3
    (message,) = caplog.messages
    assert f"2 files are not pictures and are skipped, for example {tmp_path}/map.npy" in message


def test_motion_jpeg_is_recognised_as_a_video_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "v.mjpeg").write_bytes(b"".join(jpeg_of().tobytes() for _ in range(3)))
    (tmp_path / "v.jpg").write_bytes((tmp_path / "v.mjpeg").read_bytes())
    assert isinstance(make_source(SourceConfig(source=str(tmp_path / "v.mjpeg"))), VideoFileSource)
    with pytest.raises(ImageError, match="several images"):
        read_all(make_source(SourceConfig(source=str(tmp_path / "v.jpg"))))


@pytest.mark.parametrize("trigger", ["free", "folder"])
@pytest.mark.parametrize(("bit_depth", "level"), [("auto", 3), (16, 3), (12, 62), (10, 249)])
def test_bit_depth_says_which_bits_of_a_16_bit_file_are_the_picture(
    tmp_path: Path, trigger: str, bit_depth: object, level: int
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((9, 9), 1000, np.uint16))
    config = SourceConfig.model_validate({"source": str(tmp_path), "trigger": trigger, "bit_depth": bit_depth})
    with make_source(config) as source:
        while (picture := source.read()) is None:
            time.sleep(0.05)
    assert (picture.image == level).all()


def test_file_with_brackets_in_its_name_is_no_glob(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "part[1].png"), np.zeros((9, 9, 3), np.uint8))
    assert len(read_all(make_source(SourceConfig(source=str(tmp_path / "part[1].png"))))) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nix.avi", "no such video, picture or folder"),
        (".", "no pictures found"),
        ("*.png", "no pictures found"),
    ],
)
def test_source_with_nothing_to_read_is_an_error(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        make_source(SourceConfig(source=f"{tmp_path}/{source}"))


def test_no_source_and_wrong_forms_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="--camera 0"):
        make_source(SourceConfig())
    with pytest.raises(ConfigError, match="'front': expected an index"):
        make_source(SourceConfig(camera="front"))


def test_camera_is_chosen_by_index_and_by_path() -> None:
    by_index = make_source(SourceConfig(camera="7"))
    by_path = make_source(SourceConfig(camera="/dev/v4l/by-id/usb-x"))
    assert isinstance(by_index, GrabberSource) and by_index.description == "camera /dev/video7"
    assert by_path.description == "camera /dev/v4l/by-id/usb-x"
    assert not by_index.lossless


def test_missing_camera_error_lists_those_present() -> None:
    source = make_source(SourceConfig(camera="250"))
    with pytest.raises(SourceError, match=r"/dev/video250: does not exist\. Cameras: "), source:
        pass


def test_device_that_is_no_camera_is_refused() -> None:
    with pytest.raises(SourceError, match="not a camera"), V4l2Source(Path("/dev/null"), width=None, height=None):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:secret@10.0.0.5:554/ch1", "rtsp://***@10.0.0.5:554/ch1"),
        ("rtsp://user:p@ss/word@host/ch1", "rtsp://***@host/ch1"),
        ("rtsp://user:secret/word@host/ch1", "rtsp://***@host/ch1"),
        ("rtsp://user:secret?word@host/ch1", "rtsp://***@host/ch1"),
        ("rtsp:/user:secret@host/ch1", "rtsp:/***@host/ch1"),
        ("user:secret@host/ch1", "***@host/ch1"),
        ("/data/line@1/a?.png", "/data/line@1/a?.png"),
        ("line@1/a:b.png", "line@1/a:b.png"),
        ("http://host/video?token=secret", "http://host/video?…"),
        ("http://host/video?token=@secret", "http://***"),
        ("http://host?token=@secret", "http://***"),
        ("http://[bad:secret@host/x", None),
        ("http://host/x", "http://host/x"),
        ("rtsp://user:secret", "rtsp://***"),
        ("rtsp://user:12secret/x", "rtsp://***"),
        ("mqtt://localhost:1883:", "mqtt://localhost:1883:"),
        ("rtsp://::1:8554/x", "rtsp://::1:8554/x"),
    ],
)
def test_credentials_are_never_shown(url: str, shown: str | None) -> None:
    assert "secret" not in redacted(url)
    assert shown is None or redacted(url) == shown


def test_unreachable_stream_is_an_error_without_credentials() -> None:
    source = StreamSource("rtsp://user:secret@127.0.0.1:9/x", timeout_s=2)
    with pytest.raises(SourceError, match=r"stream rtsp://\*\*\*@127\.0\.0\.1:9/x: cannot be opened"), source:
        pass


@pytest.fixture
def video_url(tmp_path: Path) -> Iterator[str]:
    content = write_video(tmp_path / "v.avi", 5).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v.avi"
    server.shutdown()


def test_http_stream_is_live_and_lost_at_its_end(video_url: str) -> None:
    source = make_source(SourceConfig(source=video_url))
    assert not source.lossless
    pictures = []
    with source, pytest.raises(SourceError, match="gives no more frames"):
        while (picture := source.read()) is not None:
            pictures.append(picture)
    assert len(pictures) + sum(picture.skipped for picture in pictures) == 5
    assert round(float(pictures[-1].image.mean()) / 10) == 4


def jpeg_of(*options: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    encoded, jpeg = cv2.imencode(".jpg", noise, options)
    assert encoded
    return jpeg


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]])
@pytest.mark.parametrize("behind", [b"", b"\r\n", bytes(500), b"\xff\xd9"])
def test_live_jpeg_is_read_with_any_bytes_after_it(options: list[int], behind: bytes) -> None:
    jpeg = jpeg_of(*options)
    came = np.concatenate([jpeg, np.frombuffer(behind, np.uint8)])
    assert np.array_equal(decode_image(came, "cam"), cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


@pytest.mark.parametrize("left", [0, 1, 2, 20, 700, -3, -2, -1])
def test_live_jpeg_with_a_missing_part_is_refused(left: int) -> None:
    with pytest.raises(ImageError, match="cam: "):
        decode_image(jpeg_of()[:left], "cam")


def test_incomplete_live_jpeg_before_the_next_one_is_refused() -> None:
    jpeg = jpeg_of()
    with pytest.raises(ImageError, match="truncated"):
        decode_image(np.concatenate([jpeg[: jpeg.size // 2], jpeg]), "cam")


def test_live_jpeg_without_the_tables_that_all_cameras_share_is_read() -> None:
    jpeg = jpeg_of().tobytes()
    while (start := jpeg.find(b"\xff\xc4")) >= 0:
        jpeg = jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]
    assert decode_image(np.frombuffer(jpeg, np.uint8), "cam").shape == (48, 64, 3)


class FakeCapture:
    def __init__(self, fourcc: str, *, lets_itself_be_asked: bool) -> None:
        self._fourcc, self._lets = fourcc, lets_itself_be_asked
        self.asked: list[tuple[int, float]] = []

    def get(self, setting: int) -> float:
        return float(cv2.VideoWriter.fourcc(*self._fourcc)) if setting == cv2.CAP_PROP_FOURCC else 0.0

    def set(self, setting: int, value: float) -> bool:
        self.asked.append((setting, value))
        return self._lets


@pytest.mark.parametrize(
    ("fourcc", "lets", "gives"), [("MJPG", True, True), ("MJPG", False, False), ("h264", True, False)]
)
def test_only_motion_jpeg_is_read_undecoded_if_the_driver_allows_it(fourcc: str, lets: bool, gives: bool) -> None:
    capture = FakeCapture(fourcc, lets_itself_be_asked=lets)
    assert ask_for_encoded(capture, cv2.CAP_PROP_FORMAT, -1) is gives  # type: ignore[arg-type]
    assert capture.asked == ([(cv2.CAP_PROP_FORMAT, -1)] if fourcc == "MJPG" else [])


def test_pictures_source_starts_again_when_entered_again(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    source = PicturesSource([tmp_path / "a.png"], "a")
    assert len(read_all(source)) == len(read_all(source)) == 1


def test_pictures_and_damaged_ones_have_the_names_of_their_files(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8")
    with PicturesSource([tmp_path / "a.png", tmp_path / "b.jpg"], "two") as source:
        picture = source.read()
        assert picture is not None and picture.source_name == "a.png"
        with pytest.raises(DamagedPicture) as damaged:
            source.read()
    assert damaged.value.source_name == "b.jpg" and damaged.value.receipt is None


def test_still_image_that_only_ffmpeg_reads_is_no_video(tmp_path: Path) -> None:
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 64, 48, 24, 0x20)
    (tmp_path / "a.tga").write_bytes(header + bytes(64 * 48 * 3))
    with pytest.raises(SourceError, match="one frame, so not a video"):
        read_all(VideoFileSource(tmp_path / "a.tga"))
    with pytest.raises(ImageError, match="not an image that OpenCV can decode"):
        read_all(make_source(SourceConfig(source=str(tmp_path / "a.tga"))))
