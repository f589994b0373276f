"""The agent's settings, as in `/etc/zsad-agent/agent.yaml`. Strict: see `zsad_core.config`."""

import itertools
import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from zsad_agent.config.camera import ON_DEMAND, CameraConfig, DecisionConfig, SourceConfig, TopicLevel
from zsad_agent.config.device_id import default_device_id
from zsad_agent.config.mqtt import EMBEDDED_BROKER, EMBEDDED_LISTEN, ControlConfig, MqttConfig, UpdateConfig
from zsad_agent.config.paths import SHIPPED_BUNDLE, SHIPPED_BUNDLES, default_cache_dir
from zsad_agent.config.plant import HomeAssistantConfig, PlantConfig, SparkplugConfig
from zsad_agent.config.web import OFF, HistoryConfig, OffInYaml, WebConfig, is_same_port
from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.config import FaultyKeyError, StrictModel

RESERVED_NAMES = {"available", "bundle", "recipe", "reload", "stats", "update"}  # topics of the device, not of a camera


def _shipped(bundle: Path) -> Path:
    """The shipped bundle of this name, if the path is only a name and no such file exists in the current folder."""
    shipped = SHIPPED_BUNDLES / bundle
    taken = os.path.exists(bundle)  # noqa: PTH110 - Path.exists raises where a name is too long
    return shipped if len(bundle.parts) == 1 and not taken and shipped in SHIPPED_BUNDLES.iterdir() else bundle


class InferenceConfig(StrictModel):
    bundle: Annotated[Path, AfterValidator(_shipped)] = SHIPPED_BUNDLE  # folder, .zip, or the name of one that ships
    product: str = GENERIC_PRODUCT
    device: str = "CPU"  # OpenVINO name: CPU, GPU, GPU.1, NPU, AUTO, AUTO:GPU,CPU
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None  # CPU threads; None: OpenVINO's choice
    precision: Literal["f32", "auto"] = "f32"  # auto lets the device compute in bf16/f16: faster, scores shift a little
    # which model of a bundle with two; auto: the one that zsad-agent bench measured as faster, else the main one
    model: Literal["auto", "fp", "int8"] = "auto"
    # compiled models, and which of a bundle's models is faster on this machine; default: in the service's cache folder
    cache_dir: Path = Field(default_factory=lambda: default_cache_dir() / "compiled")
    # PEM files of Ed25519 public keys: only bundles signed by one of them are accepted. None: unsigned bundles are
    # accepted too. The bundle that ships inside the program is always accepted.
    trusted_keys: tuple[Path, ...] = ()
    # most milliseconds for a picture of a taught product: the highest level of the bundle whose measured time fits is
    # used, at least zero-shot. None: the highest level
    budget_ms: Annotated[float, Field(gt=0, le=600_000)] | None = None


class HeatmapConfig(StrictModel):
    enabled: bool = True
    max_width: Annotated[int, Field(ge=32, le=8192)] = 640  # pixels
    max_bytes: Annotated[int, Field(ge=1024, le=16_777_216)] = 100_000  # AWS IoT disconnects a client above 128 KB
    jpeg_quality: Annotated[int, Field(ge=10, le=100)] = 80


class SpoolConfig(StrictModel):
    path: Path | None = None  # None: spool.sqlite3 in the service's state folder
    max_results: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000  # above it the oldest are deleted
    max_bytes: Annotated[int, Field(ge=65_536, le=10**13)] = 2_000_000_000  # of the file; pictures are deleted first
    max_age_h: Annotated[float, Field(gt=0, le=87_600)] = 24.0 * 30  # hours
    # overlays that are stored until the broker has them, and sent on <camera>/evidence/<id>
    pictures: Annotated[Literal["off", "rejects", "all"], OffInYaml] = "off"
    # each: a result is fsynced before it is accepted, a power cut loses none; periodic: a power cut loses up to 2 s
    fsync: Literal["each", "periodic"] = "each"


class EvidenceConfig(StrictModel):
    """Pictures, overlays and results on disk, for people who examine rejects."""

    enabled: bool | None = None  # None: on when web is on. See `AgentConfig.keeps_evidence`
    path: Path | None = None  # None: evidence in the service's state folder
    passes_every: Annotated[int, Field(ge=0, le=10**9)] = 0  # also every n-th pass; 0: only rejects and unknowns
    max_days: Annotated[float, Field(gt=0, le=3650)] = 30.0
    max_bytes: Annotated[int, Field(ge=1_000_000, le=10**13)] = 5_000_000_000
    min_free_bytes: Annotated[int, Field(ge=0, le=10**13)] = 1_000_000_000  # of the disk, for other programs
    jpeg_quality: Annotated[int, Field(ge=10, le=100)] = 90


class LearningConfig(StrictModel):
    """Learning a product from the parts that pass by, while nothing was taught about it."""

    # offer: a person takes what was learned into use (command teach); use: the agent does it by itself
    mode: Annotated[Literal["off", "offer", "use"], OffInYaml] = "offer"
    parts: Annotated[int, Field(ge=20, le=1000)] = 60  # different pictures that are needed
    # until then the threshold follows the scores of the parts so far, within bounds; not if the mode is off
    provisional_threshold: bool = True
    follow: bool = False  # adapt, within a bound, to slow changes of parts and light after that


def _listen_address(listen: str) -> str:
    address = re.fullmatch(r"127\.0\.0\.1:([0-9]{1,5})", listen)
    if listen != "off" and (address is None or int(address[1]) > 65_535):
        raise ValueError("expected off or 127.0.0.1:port with a port from 0 (any free port) to 65535")
    return listen


class HttpConfig(StrictModel):
    """/metrics (Prometheus), /healthz and /readyz."""

    listen: Annotated[str, OffInYaml, AfterValidator(_listen_address)] = "127.0.0.1:9464"


class AgentConfig(StrictModel):
    device_id: TopicLevel = Field(default_factory=default_device_id)  # stays the same once the daemon ran
    source: SourceConfig = SourceConfig()
    cameras: tuple[CameraConfig, ...] = ()  # several cameras, in place of `source`
    inference: InferenceConfig = Field(default_factory=InferenceConfig)
    decision: DecisionConfig = DecisionConfig()
    # folder of what was taught (zsad-agent teach); None: profiles in the service's state folder; off: nothing taught is
    # used
    profiles: Annotated[Literal["off"] | Path | None, Field(union_mode="left_to_right"), OffInYaml] = None
    mqtt: MqttConfig = MqttConfig()
    control: ControlConfig = ControlConfig()
    update: UpdateConfig = UpdateConfig()
    heatmap: HeatmapConfig = HeatmapConfig()
    spool: SpoolConfig = SpoolConfig()
    evidence: EvidenceConfig = EvidenceConfig()
    learning: LearningConfig = LearningConfig()
    http: HttpConfig = HttpConfig()
    web: WebConfig = WebConfig()
    history: HistoryConfig = HistoryConfig()
    plant: PlantConfig = PlantConfig()
    home_assistant: HomeAssistantConfig = HomeAssistantConfig()
    sparkplug: SparkplugConfig = SparkplugConfig()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"  # json: one object per line

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.cameras and self.source.origin is not None:
            raise ValueError("source and cameras both name a camera: remove one of the two sections")
        if self.cameras and self.source != SourceConfig():
            raise ValueError("source is not used beside cameras: move its settings to each camera, and delete it")
        names = [camera.name for camera in self.every_camera]
        if double := _repeated(names):
            raise ValueError(f"cameras: {double} is the name of more than one camera: each needs its own name")
        if taken := RESERVED_NAMES & set(names):
            raise ValueError(f"a camera cannot be called {min(taken)}: that is a topic of the device")
        if unnamed := [camera.name for camera in self.cameras if camera.origin is None]:
            raise ValueError(f"cameras: {', '.join(unnamed)} names no camera, source or aravis")
        watched = [os.path.realpath(camera.source or "") for camera in self.cameras if camera.trigger == "folder"]
        if shared := _repeated(watched):
            raise ValueError(f"cameras: {shared} is watched by more than one: each picture would be inspected twice")
        self._check_plant()
        if self.update.enabled and not self.control.enabled:
            raise ValueError("update.enabled: updates are commands: set control.enabled: true too")
        if self.update.enabled and not (self.inference.trusted_keys or self.update.unsigned):
            raise ValueError(
                "update.enabled: set inference.trusted_keys, or update.unsigned: true to take bundles from anybody who "
                "may send commands"
            )
        if self.spool.pictures != "off" and not self.heatmap.enabled:
            raise ValueError(f"spool.pictures is {self.spool.pictures}, but heatmap.enabled is false: set it to true")
        return self

    def _check_plant(self) -> None:
        """Raises FaultyKeyError."""
        plant, modes = self.plant, [camera.trigger for camera in self.cameras or (self.source,)]
        if plant.on and not set(modes) & set(ON_DEMAND):
            door = "modbus" if plant.modbus.on else "opcua"
            why = "A PLC triggers cameras with trigger: plc or mqtt, and there is none"
            raise FaultyKeyError(("plant", door, "listen"), getattr(plant, door).listen, why)
        if "plc" in modes and not plant.on:
            where = ("cameras", modes.index("plc")) if self.cameras else ("source",)
            raise FaultyKeyError((*where, "trigger"), "plc", "It needs plant.modbus or plant.opcua, which the PLC uses")
        if twice := _repeated(list(plant.programs)):
            raise FaultyKeyError(("plant", "programs"), twice, "It is there more than once: Program would be ambiguous")
        names = [camera.name for camera in self.every_camera]
        for number, output in enumerate(plant.gpio):
            if output.camera not in names and (output.camera is not None or len(names) > 1):
                why = f"camera is {output.camera or 'not set'}, but the cameras are {', '.join(names)}"
                raise FaultyKeyError(("plant", "gpio", number), output.chip, why)

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        listens = {
            ("http", "listen"): self.http.listen,
            ("mqtt", "broker"): EMBEDDED_LISTEN if self.mqtt.broker == EMBEDDED_BROKER else OFF,
            ("web", "listen"): self.web.listen,
            ("plant", "modbus", "listen"): self.plant.modbus.listen,
            ("plant", "opcua", "listen"): self.plant.opcua.listen,
        }
        for (one, first), (other, second) in itertools.combinations(listens.items(), 2):
            if OFF not in (first, second) and is_same_port(first, second):
                raise FaultyKeyError(other, second, f"{'.'.join(one)} has this port too, {first}: choose another one")
        return self

    def profiles_folder(self, state_dir: Path) -> Path | None:
        """The folder of `profiles`; None: nothing taught is used."""
        if self.profiles == "off":
            return None
        return state_dir / "profiles" if self.profiles is None else self.profiles

    @property
    def keeps_evidence(self) -> bool:
        """Whether `evidence` is on."""
        return self.web.on if self.evidence.enabled is None else self.evidence.enabled

    @property
    def keeps_history(self) -> bool:
        """Whether `history` is on."""
        return self.web.on if self.history.enabled is None else self.history.enabled

    @property
    def every_camera(self) -> tuple[CameraConfig, ...]:
        """`cameras`, or the one of `source`; product and decision filled in."""
        cameras = self.cameras or (CameraConfig(**dict(self.source)),)
        product, decision = self.inference.product, self.decision
        return tuple(
            camera.model_copy(update={"product": camera.product or product, "decision": camera.decision or decision})
            for camera in cameras
        )


def _repeated(values: list[str]) -> str:
    """The values that occur more than once, in one text; empty if there are none."""
    return ", ".join(sorted({value for value in values if values.count(value) > 1}))
