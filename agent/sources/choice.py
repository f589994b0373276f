"""Makes the source that the config names."""

import glob
import logging
import threading
from pathlib import Path

from zsad_agent.cameras import GenicamCamera, GenicamSettings, SnapshotCamera
from zsad_agent.config import SourceConfig, is_url
from zsad_agent.sources.camera import DirectSource, HttpSource, StreamSource, V4l2Source
from zsad_agent.sources.camera_process import GrabberSource
from zsad_agent.sources.files import PicturesSource, VideoFileSource
from zsad_agent.sources.source import Source
from zsad_agent.sources.watched_folder import FolderDropSource
from zsad_core.errors import ConfigError, SourceError
from zsad_core.picture import HEAD_BYTES, READ_FORMATS, FoundFiles, find_files, format_of, is_picture, sort_out
from zsad_core.redaction import redacted

logger = logging.getLogger(__name__)
MOTION_JPEG = (".mjpeg", ".mjpg")  # such a file can hold many JPEGs
SNAPSHOTS_PER_S = 1.0  # without fps
MAX_INDEX_DIGITS = 6
MAX_SHOWN_CHARACTERS = 300


def make_source(config: SourceConfig, *, may_come_later: bool = False, stop: threading.Event | None = None) -> Source:
    """The source that the config names, not yet opened.

    Args:
        config: the camera's config.
        may_come_later: True: a missing watched folder is not an error. It counts as lost until it exists.
        stop: when it is set, nothing waits for a camera any more.

    Raises:
        ConfigError: no source is named, or its form is unknown.
        SourceError: the file, folder or glob has nothing to read.
    """
    if config.camera is not None:
        path = _camera_path(config.camera)
        camera = V4l2Source(
            path,
            width=config.width,
            height=config.height,
            bit_depth=config.used_bits,
            pixel_format=config.pixel_format,
            exposure_us=config.exposure_us,
            gain=config.gain,
        )
        return GrabberSource(camera, stale_after_s=config.stale_after_s, stop=stop)
    if config.aravis is not None:
        return GrabberSource(
            DirectSource(_genicam(config, config.aravis), stale_after_s=config.stale_after_s),
            stale_after_s=config.stale_after_s,
            stop=stop,
            may_be_silent=config.has_hardware_trigger,
        )
    if config.source is None:
        raise ConfigError(
            "no camera and no source. Name one with --camera 0 or --source rtsp://…, a video, picture, folder or glob, "
            "or set source.camera or source.source in the config file"
        )
    if is_url(config.source):
        if config.trigger == "folder":
            raise ConfigError(f"source {redacted(config.source)!r}: trigger: folder needs the path of a folder")
        stale_after_s, every_s = config.stale_after_s, 1.0 / (config.fps or SNAPSHOTS_PER_S)
        stream: Source
        if config.snapshot:
            snapshots = SnapshotCamera(config.source, every_s=every_s, timeout_s=stale_after_s)
            stream = DirectSource(snapshots, stale_after_s=stale_after_s)
        elif config.source.startswith("http"):
            stream = HttpSource(config.source, every_s=every_s, timeout_s=stale_after_s)
        else:
            stream = StreamSource(config.source, timeout_s=stale_after_s)
        return GrabberSource(stream, stale_after_s=config.stale_after_s, stop=stop)
    try:
        if config.trigger != "folder":
            return _source_of_path(config.source, config.used_bits)
        path = Path(config.source).expanduser()
        if not path.is_dir() and (path.exists() or not may_come_later):
            raise SourceError(f"{redacted(config.source)}: no such folder to watch (trigger: folder). Create it first")
        return FolderDropSource(
            path,
            stale_after_s=config.stale_after_s,
            sort_by_verdict=config.sort_by_verdict,
            bit_depth=config.used_bits,
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: `~name` of an unknown user
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{redacted(config.source)[:MAX_SHOWN_CHARACTERS]}: {reason}") from error


def _genicam(config: SourceConfig, camera_id: str) -> GenicamCamera:
    size = (config.width, config.height) if config.width is not None and config.height is not None else None
    return GenicamCamera(
        GenicamSettings(
            camera_id=camera_id,
            timeout_s=config.stale_after_s,
            pixel_format=config.pixel_format,
            wh=size,
            exposure_us=config.exposure_us,
            gain=config.gain,
            trigger=config.aravis_trigger.removeprefix("hardware "),
            bit_depth=config.used_bits,
        )
    )


def _source_of_path(text: str, bit_depth: int | None) -> Source:
    path = Path(text).expanduser()
    if path.is_dir():
        found = find_files(path)
        if found.pictures == [path]:
            raise SourceError(f"{path}: this folder cannot be listed. Give this user read permission")
    elif path.is_file():
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not is_picture(path.name, head) or (format_of(head) == "JPEG" and path.suffix.lower() in MOTION_JPEG):
            return VideoFileSource(path)
        found = FoundFiles([path], [])
    elif any(character in text for character in "*?["):
        found = sort_out(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
    else:
        raise SourceError(f"{redacted(text)}: no such video, picture or folder")
    if not found.pictures:
        note = f" ({found.note})" if found.skipped else ""
        raise SourceError(f"{redacted(text)}: no pictures found{note}. Supported: {', '.join(READ_FORMATS)}")
    if found.skipped:
        logger.warning("%s: %s", path, found.note)
    return PicturesSource(found.pictures, str(path), bit_depth)


def _camera_path(camera: str) -> Path:
    """The device file of a camera's index or path."""
    if camera.isascii() and camera.isdigit() and len(camera) <= MAX_INDEX_DIGITS:
        return Path(f"/dev/video{int(camera)}")
    if camera.startswith("/dev/"):
        return Path(camera)
    raise ConfigError(
        f"camera {redacted(camera)[:MAX_SHOWN_CHARACTERS]!r}: expected an index such as 0 or a path such as "
        "/dev/v4l/by-id/…; a stream or file is named with --source"
    )
