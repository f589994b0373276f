"""Reads, checks and writes the config file, with its comments kept."""

import base64
import hashlib
import io
import os
import re
import stat
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
from fastapi import APIRouter, BackgroundTasks, HTTPException
from pydantic import BaseModel, Field
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from zsad_agent.config import ON_DEMAND, TriggerMode, load_settings
from zsad_agent.inspection import Station
from zsad_agent.system import in_thread, write_whole
from zsad_agent.web.live import Camera, Text, station_of
from zsad_agent.web.ports import Body, ForAdmin, Parts, WebParts
from zsad_core.errors import ConfigError, ImageError
from zsad_core.picture import decode_image
from zsad_core.redaction import redacted

ORIGINS = ("camera", "source", "aravis")  # a camera has one of them
DOORS = {"modbus_listen": ("plant", "modbus", "listen"), "opcua_listen": ("plant", "opcua", "listen")}
MAX_YAML = 60_000  # characters
MAX_MASK = 990_000  # characters of base64
MASKS = "masks"  # folder in the state folder
PNG = b"\x89PNG\r\n\x1a\n"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_HIDDEN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?:\*\*\*|[^\s'\"]*\?…)[^\s'\"]*")  # as `redacted` writes it
CHECK_S, MAX_CHECKS = 20.0, 3  # longest check, and most at a time
_checks = threading.BoundedSemaphore(MAX_CHECKS)
_writing = threading.Lock()  # one change at a time

router = APIRouter(tags=["config"])
Offset = Annotated[int, Field(ge=0, le=65_535, strict=True)]
Side = Annotated[int, Field(ge=8, le=65_535, strict=True)]


class Draft(Body):
    yaml: Annotated[str, Field(max_length=MAX_YAML)]


class Edited(Draft):
    sha256: Annotated[str, Field(max_length=64, description="Of the file that was edited, from GET.")]


class ConfigBody(BaseModel):
    path: str | None = Field(description="Null: the agent runs without a config file.")
    writable: bool
    yaml: str = Field(description="Passwords in addresses are shown as *** and stay as they are when written back.")
    sha256: str
    faults: list[str]


class Faults(BaseModel):
    faults: list[str]


class Written(BaseModel):
    sha256: str
    reload: Literal["asked"] = "asked"


class CameraSettings(Body):
    """What is not given stays; null removes a key, so that its default applies."""

    region_xywh: Annotated[tuple[Offset, Offset, Side, Side], Field(strict=False)] | None = None
    ignore_mask_png: (
        Annotated[str, Field(max_length=MAX_MASK, description="PNG of the frame's size, base64.")] | None
    ) = None
    trigger: TriggerMode | None = None
    modbus_listen: Text | None = Field(None, description="`plant.modbus.listen`, where a PLC connects to this device.")
    product: Text | None = None
    camera: Text | None = None
    source: Text | None = None
    aravis: Text | None = None
    name: Text | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    loop: bool | None = None


@router.get("/config")
def read_config(parts: Parts, visitor: ForAdmin) -> ConfigBody:
    """Gives the config file."""
    if parts.config_path is None:
        return ConfigBody(path=None, writable=False, yaml="", sha256="", faults=[_NO_FILE])
    text, sha256 = _read(parts.config_path)
    faults = _faults(parts, text)
    writable = _is_writable(parts.config_path)
    return ConfigBody(path=str(parts.config_path), writable=writable, yaml=_hidden(text), sha256=sha256, faults=faults)


@router.post("/config/check")
def check_config(body: Draft, parts: Parts, visitor: ForAdmin) -> Faults:
    """Checks a config without using it."""
    visitor.noted = True  # changes nothing
    path = parts.config_path
    try:
        text = body.yaml if path is None else _restored(body.yaml, _read(path)[0])
    except ConfigError as error:
        return Faults(faults=[str(error)])
    return Faults(faults=_faults(parts, text))


@router.put("/config")
def write_config(body: Edited, parts: Parts, visitor: ForAdmin, after: BackgroundTasks) -> Written:
    """Writes the whole file, and asks the agent to start again with it."""
    path = _path_to_write(parts)
    with _writing:
        before, sha256 = _read(path)
        if body.sha256 != sha256:
            raise HTTPException(409, f"{path} has changed since you read it: read it again")
        text = _restored(body.yaml, before)
        written = _write(parts, path, text)
    visitor.note("config", sha256[:12], written.sha256[:12])
    after.add_task(parts.reload)
    return written


@router.patch("/cameras/{camera}/settings")
def change_settings(
    camera: Camera, body: CameraSettings, parts: Parts, visitor: ForAdmin, after: BackgroundTasks
) -> Written:
    """Changes settings of a camera in the config file, and asks the agent to start again with it.

    A `trigger` that leaves no camera for a PLC also switches the handshake off.
    """
    station = station_of(parts, camera)
    path = _path_to_write(parts)
    origins = [key for key in ORIGINS if getattr(body, key) is not None]
    if len(origins) > 1:
        raise HTTPException(422, f"{' and '.join(origins)} are both set: keep one of them")
    if not body.model_fields_set:
        raise HTTPException(422, "nothing to change: name a setting")
    changes = {key: getattr(body, key) for key in body.model_fields_set if key != "ignore_mask_png"}
    changes |= {key: None for key in ORIGINS if origins and key not in origins}
    if body.region_xywh is not None:
        _check_region(station, body.region_xywh)
    mask: tuple[Path, bytes] | None = None
    if "ignore_mask_png" in body.model_fields_set:
        if body.ignore_mask_png is not None:
            mask = _mask(parts, station, body.ignore_mask_png)
        changes["ignore_mask"] = None if mask is None else str(mask[0])
    with _writing:
        _check_used(parts, path, camera, changes)
        text = _read(path)[0]
        if body.source is not None:
            changes["source"] = in_full(body.source, parts, camera)
        edited, old = _edited(text, camera, changes)
        written = _write_with_mask(parts, path, edited, mask)
    visitor.note(f"{camera} settings", _shown(old), _shown(changes))
    after.add_task(parts.reload)
    return written


_NO_FILE = "the agent runs without a config file: start it with --config /etc/zsad-agent/agent.yaml"


def _path_to_write(parts: WebParts) -> Path:
    if parts.config_path is None:
        raise HTTPException(409, _NO_FILE)
    path = parts.config_path.resolve()  # a link stays a link
    if not _is_writable(path):
        raise HTTPException(
            409,
            f"{path} cannot be written by the agent (user {os.getuid()}). Give this user write access to the file and "
            "its folder; a systemd service also needs ReadWritePaths. Or edit the file on the device and reload",
        )
    return path


def _is_writable(path: Path) -> bool:
    return os.access(path.resolve().parent, os.W_OK) and os.access(path, os.W_OK)


def _read(path: Path) -> tuple[str, str]:
    """Text and SHA-256."""
    try:
        content = path.read_bytes()
        return content.decode("utf-8"), hashlib.sha256(content).hexdigest()
    except (OSError, UnicodeDecodeError) as error:
        raise HTTPException(409, f"{path} cannot be read: {error}") from error


def _hidden(text: str) -> str:
    """Without the credentials of addresses."""
    return _URL.sub(lambda found: redacted(found[0]), text)


def _restored(text: str, before: str) -> str:
    """With the credentials of `before` where `text` hides them.

    Raises:
        ConfigError: it is not clear which credentials are meant.
    """
    known: dict[str, set[str]] = {}
    for found in _URL.findall(before):
        known.setdefault(redacted(found), set()).add(found)

    def restore(found: re.Match[str]) -> str:
        meant = known.get(found[0], set())
        if len(meant) != 1:
            raise ConfigError(f"{found[0]}: write this address in full, with user and password")
        return meant.copy().pop()

    return _HIDDEN.sub(restore, text)


def in_full(source: str, parts: WebParts, camera: str | None = None) -> str:
    """A source with the credentials that the page does not show. `camera`: whose source is looked at first.

    Raises:
        ConfigError: it is not clear which credentials are meant.
    """
    cameras = sorted(parts.config.every_camera, key=lambda one: one.name != camera)
    for known in (one.source for one in cameras if one.source is not None):
        if redacted(known) == source:
            return known
    if _HIDDEN.search(source):
        raise ConfigError(f"{source}: write this address in full, with user and password")
    return source


def _faults(parts: WebParts, text: str) -> list[str]:
    """Of a config with this text; they name the config file. In a thread: a source may be a large or dead folder."""
    if not _checks.acquire(blocking=False):
        raise HTTPException(503, f"{MAX_CHECKS} configs are being checked: try again")
    check = in_thread("check-config", lambda: _faults_in_trial(parts, text))
    check.add_done_callback(lambda _: _checks.release())
    try:
        return check.result(CHECK_S)
    except TimeoutError as error:
        text = f"the check takes longer than {CHECK_S:g} s: does a source name a very large folder, or a dead disk?"
        raise HTTPException(422, text) from error
    except OSError as error:
        raise HTTPException(409, f"{parts.state_dir} cannot be written: {error.strerror or error}") from error


def _faults_in_trial(parts: WebParts, text: str) -> list[str]:
    with tempfile.TemporaryDirectory(dir=parts.state_dir, prefix=".check-") as folder:  # for this user only
        trial = Path(folder) / "agent.yaml"
        trial.write_text(text, encoding="utf-8", errors="surrogatepass")
        place = str(parts.config_path or "agent.yaml")
        return [fault.replace(str(trial), place) for fault in parts.check_config(trial)]


def _write(parts: WebParts, path: Path, text: str) -> Written:
    """Replaces the file if the text has no fault. The caller holds the lock."""
    if faults := _faults(parts, text):
        raise HTTPException(422, "\n".join(faults))
    content = text.encode()  # valid: the check has read it
    try:
        write_whole(path, content, mode=stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        raise HTTPException(409, f"{path} cannot be written: {error.strerror or error}") from error
    return Written(sha256=hashlib.sha256(content).hexdigest())


def _write_with_mask(parts: WebParts, path: Path, text: str, mask: tuple[Path, bytes] | None) -> Written:
    """As `_write`. The mask is there before the file that names it, and is deleted if that is refused."""
    if mask is None:
        return _write(parts, path, text)
    file, content = mask
    is_new = not file.exists()
    try:
        file.parent.mkdir(mode=0o750, exist_ok=True)
        write_whole(file, content)
        written = _write(parts, path, text)
    except OSError as error:
        raise HTTPException(409, f"{file} cannot be written: {error.strerror or error}") from error
    except HTTPException:
        if is_new:
            file.unlink(missing_ok=True)
        raise
    camera = file.name.rpartition("-")[0]
    used = {file, *(one.ignore_mask for one in parts.config.every_camera)}  # the earlier config may be needed again
    for older in file.parent.iterdir():
        if older not in used and re.fullmatch(re.escape(camera) + r"-[0-9a-f]{12}\.png", older.name):
            older.unlink(missing_ok=True)
    return written


def _check_region(station: Station, region: tuple[int, int, int, int]) -> None:
    for image in station.capture.newest_images(1):
        h, w = image.shape[:2]
        if region[0] + region[2] > w or region[1] + region[3] > h:
            raise HTTPException(422, f"region_xywh: {list(region)} is not inside the picture of {w}x{h}")


def _mask(parts: WebParts, station: Station, encoded: str) -> tuple[Path, bytes]:
    """File and content of a mask."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise HTTPException(422, f"ignore_mask_png: not base64: {error}") from error
    if not content.startswith(PNG):
        raise HTTPException(422, "ignore_mask_png: not a PNG")
    try:
        mask = cv2.cvtColor(decode_image(np.frombuffer(content, np.uint8), "ignore_mask_png"), cv2.COLOR_BGR2GRAY)
    except ImageError as error:
        raise HTTPException(422, str(error)) from error
    newest = station.capture.newest_images(1)
    if not newest:
        raise HTTPException(409, f"{station.name} has not given a picture yet, so the mask cannot be checked")
    if mask.shape != newest[-1].shape[:2]:
        raise HTTPException(
            422,
            f"ignore_mask_png: {mask.shape[1]}x{mask.shape[0]} pixels, but the picture has "
            f"{newest[-1].shape[1]}x{newest[-1].shape[0]}",
        )
    png = cv2.imencode(".png", mask)[1].tobytes()
    return parts.state_dir / MASKS / f"{station.name}-{hashlib.sha256(png).hexdigest()[:12]}.png", png


def _check_used(parts: WebParts, path: Path, camera: str, changes: Mapping[str, Any]) -> None:
    """Refuses a change that would have no effect: a command or a flag of the command line overrides the file."""
    if "product" in changes and parts.commands.state(camera, "product")["source"] == "command":
        raise HTTPException(
            409,
            f"a command chose the product of {camera}, which overrides the file: choose it under Inspect, or set it "
            "to null first",
        )
    try:
        in_file = load_settings(path).config.every_camera
    except ConfigError as error:
        raise HTTPException(409, f"the file has faults, correct it first: {error}") from error
    running = next(one for one in parts.config.every_camera if one.name == camera)
    stored = next((one for one in in_file if one.name == camera), None)
    if stored is None:
        raise HTTPException(
            409, f"{path} has no camera {camera}: a flag of the command line names it, which overrides the file"
        )
    for key in changes.keys() - DOORS.keys():
        if key != "name" and getattr(running, key) != getattr(stored, key):
            raise HTTPException(
                409,
                f"{key} is {_shown({key: getattr(running, key)})[key]!r} by a flag of the command line, which "
                "overrides the file: start the agent without it. If the file was edited since the start, reload first",
            )


def _edited(text: str, camera: str, changes: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text with the changes, and the earlier values."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    if (nested := re.search(r"^( +)- ", text, re.MULTILINE)) is not None:
        yaml.indent(mapping=2, sequence=len(nested[1]) + 2, offset=len(nested[1]))
    try:
        data = yaml.load(text)
    except YAMLError as error:
        raise HTTPException(409, f"the file is not YAML: {error}") from error
    is_empty = data is None
    if is_empty:  # only comments, which ruamel does not keep without a key
        data = CommentedMap()
    had_source = "source" in data
    places: dict[str, tuple[str, ...]] = dict(DOORS)
    items = data.get("cameras")
    if items:
        section = next(item for item in items if item.get("name", "cam0") == camera)
    else:
        section = _section(data, "source")
        places["product"] = ("inference", "product")
    old = _apply(section, {key: value for key, value in changes.items() if key not in places})
    if "trigger" in changes and not any(one.get("trigger") in ON_DEMAND for one in items or [section]):
        changes = {**changes, **dict.fromkeys(DOORS)}
    old |= {key: _set(data, places[key], changes[key]) for key in changes.keys() & places.keys()}
    if not (had_source or items or section):
        del data["source"]
    out = io.StringIO()
    yaml.dump(data, out)
    if is_empty:
        return text.rstrip("\n") + "\n" + out.getvalue(), old
    return out.getvalue(), old


def _set(section: CommentedMap, place: Sequence[str], value: Any) -> Any:
    """Sets the key at a place below the section; if the value is None it goes. Returns the earlier value."""
    *above, key = place
    for name in above:
        if value is None and section.get(name) is None:
            return None
        section = _section(section, name)
    return _apply(section, {key: value})[key]


def _section(data: CommentedMap, name: str) -> CommentedMap:
    if data.get(name) is None:
        data[name] = CommentedMap()
    section: CommentedMap = data[name]
    return section


def _apply(section: CommentedMap, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Sets the keys; one whose value is None goes. Returns the earlier values."""
    old = {}
    for key, value in changes.items():
        old[key] = section.get(key)
        if value is None:
            section.pop(key, None)
        elif isinstance(value, tuple):
            section[key] = CommentedSeq(value)
            section[key].fa.set_flow_style()
        else:  # quoted, because YAML reads a bare off or 0 as something else than a text
            section[key] = DoubleQuotedScalarString(value) if isinstance(value, str) else value
    return old


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without credentials."""
    return {key: redacted(value) if isinstance(value, str) else value for key, value in values.items()}
