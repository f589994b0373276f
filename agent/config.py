"""The agent's settings, as `/etc/zsad-agent/agent.yaml` holds them. Strict: see `zsad_core.config`."""

import os
import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from zsad_core.config import StrictModel
from zsad_core.errors import ConfigError
from zsad_core.prompts import GENERIC_PRODUCT

DEFAULT_CONFIG_PATH = Path("/etc/zsad-agent/agent.yaml")
SHIPPED_BUNDLE = Path(__file__).parent / "bundles" / "zsad-tiny"
EMBEDDED_BROKER = "embedded"

Seconds = Annotated[float, Field(ge=0, le=86_400)]
TopicLevel = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _default_device_id() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "zsad"


def default_state_dir() -> Path:
    """Where the spool lives: systemd's StateDirectory, else the user's XDG state folder."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    return _xdg_folder("XDG_STATE_HOME", ".local/state")


def default_cache_dir() -> Path:
    """Where compiled models live: systemd's CacheDirectory, else the user's XDG cache folder."""
    if cache := os.environ.get("CACHE_DIRECTORY"):
        return Path(cache.split(":")[0])
    return _xdg_folder("XDG_CACHE_HOME", ".cache")


def _xdg_folder(variable: str, below_home: str) -> Path:
    """Our folder in the one that `variable` names, which counts only if absolute (XDG base directories), else at home.

    Raises:
        ConfigError: neither, as for a user id without an account.
    """
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "zsad-agent"
    try:
        return Path.home() / below_home / "zsad-agent"
    except RuntimeError as error:
        raise ConfigError(f"this user has no home folder. Set {variable} to an absolute path.") from error


def _broker_url(url: str) -> str:
    if url == EMBEDDED_BROKER:
        return url
    parts = urlsplit(url)
    if parts.scheme != "mqtt" or not parts.hostname:
        raise ValueError("expected mqtt://host[:port] or 'embedded'")
    if parts.username or parts.password:
        raise ValueError("credentials do not belong in the URL: set username and password_file")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("expected mqtt://host[:port] with nothing after it; the topic prefix is mqtt.topic_prefix")
    if parts.port == 0 or any(character.isspace() for character in url):  # `port` raises ValueError out of range
        raise ValueError("expected mqtt://host[:port] with a port from 1 and no blanks")
    return url


def _index_as_text(camera: object) -> object:
    return str(camera) if type(camera) is int and camera >= 0 else camera


class SourceConfig(StrictModel):
    """One of `camera` and `source`."""

    camera: Annotated[str, BeforeValidator(_index_as_text)] | None = None  # V4L2 index or /dev/v4l/by-id/… path
    source: Annotated[str, Field(min_length=1)] | None = None  # RTSP or HTTP URL, video file, image, folder or glob
    name: TopicLevel = "cam0"  # the topic level and `camera` of every result
    width: Annotated[int, Field(ge=16, le=16_384)] | None = None  # asked of a V4L2 camera, pixels; None: 640 x 480
    height: Annotated[int, Field(ge=16, le=16_384)] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None  # most frames a second taken; None: as they come
    loop: bool = False  # start a file or folder again when it ends
    stale_after_s: Annotated[float, Field(gt=0, le=3600)] = 5.0  # no frame for this long is a lost camera
    reopen_max_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # longest back-off between attempts to open

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.camera is not None and self.source is not None:
            raise ValueError("camera and source are both set: keep one of them")
        return self

    @model_validator(mode="after")
    def _whole_size(self) -> Self:
        if (self.width is None) != (self.height is None):  # OpenCV would ask the camera for neither, and not say so
            raise ValueError("width and height go together: set both or neither")
        return self


class InferenceConfig(StrictModel):
    bundle: Path = SHIPPED_BUNDLE
    product: str = GENERIC_PRODUCT
    device: str = "CPU"  # OpenVINO name: CPU, GPU, GPU.1, NPU, AUTO, AUTO:GPU,CPU
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # CPU threads; None: OpenVINO's choice
    precision: Literal["f32", "auto"] = "f32"  # auto lets the device compute in bf16/f16: faster, scores shift a little
    cache_dir: Path | None = None  # compiled models; None: the service's cache folder


class DecisionConfig(StrictModel):
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None  # None: the bundle's
    debounce_k: Annotated[int, Field(ge=1, le=1000)] = 1  # anomalous when k of the last n frames are
    debounce_n: Annotated[int, Field(ge=1, le=1000)] = 1
    hold_s: Seconds = 0.0
    region_level: Annotated[float, Field(gt=0, le=1)] | None = (
        None  # map value that a region starts at; None: the bundle's
    )

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.debounce_k > self.debounce_n:
            raise ValueError(f"debounce_k must be at most debounce_n, {self.debounce_n}")
        return self


class MqttConfig(StrictModel):
    broker: Annotated[str, AfterValidator(_broker_url)] = "mqtt://localhost:1883"
    username: str | None = None
    password_file: Path | None = None
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64})*$")] = "zsad"
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20  # results sent and not yet acknowledged


class HeatmapConfig(StrictModel):
    enabled: bool = True
    max_width: Annotated[int, Field(ge=32, le=8192)] = 640  # pixels
    max_bytes: Annotated[int, Field(ge=1024, le=16_777_216)] = 100_000  # AWS IoT cuts a client off above 128 KB
    jpeg_quality: Annotated[int, Field(ge=10, le=100)] = 80


class SpoolConfig(StrictModel):
    path: Path | None = None  # None: spool.sqlite3 in the service's state folder
    max_results: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000  # the oldest go first above it


class AgentConfig(StrictModel):
    device_id: TopicLevel = Field(default_factory=_default_device_id)
    source: SourceConfig = SourceConfig()
    inference: InferenceConfig = InferenceConfig()
    decision: DecisionConfig = DecisionConfig()
    mqtt: MqttConfig = MqttConfig()
    heatmap: HeatmapConfig = HeatmapConfig()
    spool: SpoolConfig = SpoolConfig()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
