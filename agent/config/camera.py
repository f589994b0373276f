"""The settings of one camera: its source, when a picture is taken, and which part of it is inspected."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from zsad_agent.config.address import STREAM_SCHEMES, is_url, parse_address
from zsad_core.config import StrictModel

_STREAM_LIKE = re.compile(r"(https?|rtsps?):", re.IGNORECASE)
Seconds = Annotated[float, Field(ge=0, le=86_400)]
TopicLevel = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
GreyLevel = Annotated[float, Field(ge=0, le=255)]
Offset = Annotated[int, Field(ge=0, le=65_535)]
Side = Annotated[int, Field(ge=8, le=65_535)]
FrameSide = Annotated[int, Field(ge=16, le=16_384)]
Share = Annotated[float, Field(ge=0, le=1)]
TriggerMode = Literal["free", "mqtt", "plc", "folder"]
ON_DEMAND: tuple[TriggerMode, ...] = ("mqtt", "plc")  # two names of one mode: a frame for each trigger, from anywhere


def _without_minus(value: float) -> float:
    if math.copysign(1.0, value) < 0:
        raise ValueError("-0 is not allowed: write 0")
    return value


Threshold = Annotated[float, Field(ge=0, le=1), AfterValidator(_without_minus)]
IndexAsText = BeforeValidator(lambda camera: str(camera) if type(camera) is int and camera >= 0 else camera)


def _source(source: str) -> str:
    """A stream's address is checked, with its scheme in lower case. A path stays as it is."""
    if is_url(source):
        return parse_address(source, STREAM_SCHEMES).url
    if _STREAM_LIKE.match(source):
        raise ValueError("expected :// after the scheme of a stream")
    return source


class HealthConfig(StrictModel):
    """Limits for pictures. Beyond one the verdict is `unknown`, and a live camera is degraded.

    `dark_below`, `bright_above` and `plain_below` apply to every source, the others to live cameras.
    """

    frozen_after_s: Seconds = 10.0  # pictures that are equal, bit for bit, for this long are frozen; 0: no check
    # a picture whose 99th percentile of grey is lower is black, as 10 or 12 bits in a 16-bit file are; 0: no check
    dark_below: GreyLevel = 16.0
    bright_above: GreyLevel = 250.0  # a picture whose 1st percentile of grey is higher is overexposed; 255: no check
    # a picture with less structure, in grey levels, shows a covered lens or nothing; 0: no check. The plainest of 2,571
    # pictures of products has 1.8, lenses covered by a hand or paper have up to 1.1 (docs/measurements.md)
    plain_below: GreyLevel = 1.2
    reference: Path | None = None  # made by `zsad-agent reference`; None: focus and position are not checked
    focus_share: Share = 0.4  # a picture with less than this share of the reference's sharpness is out of focus
    moved_share: Share = 0.03  # a background that is shifted by this share of the picture's width has moved
    scene_match: Share = 0.5  # a background that is less similar than this to the reference's is another scene


class DecisionConfig(StrictModel):
    threshold: Threshold | None = None  # None: the bundle's
    debounce_k: Annotated[int, Field(ge=1, le=1000)] = 1  # anomalous when k of the last n frames are
    debounce_n: Annotated[int, Field(ge=1, le=1000)] = 1
    hold_s: Seconds = 0.0
    region_level: Annotated[float, Field(gt=0, le=1)] | None = None  # lowest map value of a region; None: the bundle's

    @model_validator(mode="after")
    def _k_of_n(self) -> Self:
        if self.debounce_k > self.debounce_n:
            raise ValueError(f"debounce_k must be at most debounce_n, {self.debounce_n}")
        return self


class SourceConfig(StrictModel):
    """One of `camera`, `source` and `aravis`."""

    camera: Annotated[str, IndexAsText] | None = None  # V4L2 index or /dev/v4l/by-id/… path
    # RTSP or HTTP URL, video file, image, folder or glob
    source: Annotated[str, Field(min_length=1), AfterValidator(_source)] | None = None
    # a GenICam camera, `vendor-serial` as aravis lists it, or its IP address
    aravis: Annotated[str, Field(pattern=r"^[!-~][ -~]{0,199}$")] | None = None
    name: TopicLevel = "cam0"  # the topic level and `camera` of every result
    width: FrameSide | None = None  # requested from a camera, pixels; None: V4L2 640 x 480, GenICam the camera's own
    height: FrameSide | None = None
    pixel_format: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,32}$")] | None = None  # V4L2: MJPG, GenICam: Mono12p …
    exposure_us: Annotated[float, Field(gt=0, le=1e8)] | None = None  # None: the camera's own, perhaps automatic
    gain: Annotated[float, Field(ge=-100, le=100_000)] | None = None  # in the camera's unit
    # software: the agent triggers each frame; hardware LINE: an input line of the camera does, for example Line1
    aravis_trigger: Annotated[str, Field(pattern=r"^(off|software|hardware [A-Za-z0-9_]{1,32})$")] = "off"
    snapshot: bool = False  # the HTTP address `source` gives one picture for each request; fps of them, else 1 a second
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None  # most frames taken per second; None: no limit
    loop: bool = False  # start a file or folder again when it ends
    # free: every frame; mqtt, plc: one frame for each trigger of a PLC, message on <camera>/trigger, or request;
    # folder: every picture in the folder `source`; a picture is moved when its result is stored
    trigger: TriggerMode = "free"
    sort_by_verdict: bool = False  # trigger: folder moves to inspected/ok, inspected/anomalous and inspected/unknown
    # low bits of a 16-bit file or camera that hold the picture; auto: what the file states, else 16
    bit_depth: Literal["auto", 8, 10, 12, 14, 16] = "auto"
    stale_after_s: Annotated[float, Field(gt=0, le=3600)] = 5.0  # a camera without a frame for this long is lost
    reopen_max_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # longest pause between attempts to open
    # x, y, width, height in pixels of the frame: the part that is inspected; None: all of it
    region_xywh: tuple[Offset, Offset, Side, Side] | None = None
    ignore_mask: Path | None = None  # a picture of the frame's shape; defects in its white areas are ignored
    health: HealthConfig = HealthConfig()

    @property
    def used_bits(self) -> int | None:
        """`bit_depth` for `read_image`."""
        return None if self.bit_depth == "auto" else self.bit_depth

    @property
    def origin(self) -> str | None:
        """The camera, address or path; None if the config names none."""
        return self.camera or self.source or self.aravis

    @property
    def has_hardware_trigger(self) -> bool:
        return self.aravis_trigger.startswith("hardware")

    @property
    def each_picture_is_a_part(self) -> bool:
        """Whether something outside decides when a picture is taken, so that none comes between two parts."""
        return self.trigger != "free" or self.has_hardware_trigger

    @model_validator(mode="after")
    def _camera_settings(self) -> Self:
        if self.camera is None and self.aravis is None:
            for key in ("pixel_format", "exposure_us", "gain"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} needs camera or aravis: it is set in the camera")
        if self.camera is not None and len(self.pixel_format or "") > 4:
            raise ValueError("pixel_format of a V4L2 camera has at most four characters, for example MJPG or YUYV")
        if self.aravis_trigger != "off" and self.aravis is None:
            raise ValueError("aravis_trigger needs aravis")
        if self.has_hardware_trigger and self.trigger != "free":
            raise ValueError("aravis_trigger: hardware needs trigger: free: the camera itself is triggered")
        if self.snapshot and not (self.source or "").startswith(("http://", "https://")):
            raise ValueError("snapshot needs source, an address with http:// or https://")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = [key for key in ("camera", "source", "aravis") if getattr(self, key) is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} are both set: keep one of them")
        if (self.width is None) != (self.height is None):  # OpenCV would silently request neither
            raise ValueError("width and height go together: set both or neither")
        if self.trigger == "folder" and (self.source is None or self.loop):
            raise ValueError("trigger: folder needs source, the folder that is watched, and no loop")
        if self.sort_by_verdict and self.trigger != "folder":
            raise ValueError("sort_by_verdict needs trigger: folder: only a watched folder's pictures are moved")
        return self


class CameraConfig(SourceConfig):
    """One of several cameras of an agent. The defaults are those of a single camera."""

    product: str | None = None  # None: inference.product
    decision: DecisionConfig | None = None  # None: the section `decision`
