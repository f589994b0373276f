"""The settings for machines and dashboards of the plant. All are off unless they are set."""

import os
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from zsad_agent.config.camera import TopicLevel
from zsad_agent.config.web import OFF, OffInYaml, listen_address
from zsad_core.config import FaultyKeyError, StrictModel

Listen = Annotated[str, OffInYaml, AfterValidator(listen_address)]
Timeout = Annotated[float, Field(gt=0, le=3600)]


def _as_text(line: object) -> object:
    if type(line) is int and line >= 0:
        return str(line)
    if not isinstance(line, str):
        raise ValueError("expected the line's number, from 0 on, or its name")
    return line


# a GPIO line: its number in the chip, or its name
Line = Annotated[str, BeforeValidator(_as_text), Field(pattern=r"^[!-~]{1,31}$")]
Milliseconds = Annotated[float, Field(ge=0, le=60_000)]
INSTALL_PLANT = "pip install 'zsad-agent[plant]', or on Debian the package zsad-agent-plant"
SHOWN, PULSED = ("ok", "ng", "unknown"), ("reject",)  # the signals that last for hold_ms, and for reject_ms
SIGNALS = (*SHOWN, *PULSED, "ready", "heartbeat")


class ModbusConfig(StrictModel):
    """A Modbus TCP server for a PLC. Modbus has no passwords: use it only in the machine's own network."""

    listen: Listen = OFF  # host:port, such as 127.0.0.1:502, or 0.0.0.0:502 for every network
    word_order: Literal["high_first", "low_first"] = "high_first"  # of numbers in two registers

    @property
    def on(self) -> bool:
        return self.listen != OFF


class OpcUaConfig(StrictModel):
    """An OPC UA server, in a process of its own."""

    listen: Listen = OFF  # host:port, such as 127.0.0.1:4840, or 0.0.0.0:4840 for every network
    # only encrypted connections of clients whose certificate is in opcua/trusted of the state folder. false: anybody
    # in the network controls the line
    certificates: bool = True

    @property
    def on(self) -> bool:
        return self.listen != OFF


class GpioConfig(StrictModel):
    """Digital outputs for the results of a camera, without a PLC. Name the lines that are wired."""

    chip: Annotated[str, Field(pattern=r"^/dev/[!-~]{1,100}$")]  # such as /dev/gpiochip0; gpioinfo lists the lines
    camera: TopicLevel | None = None  # None: the only one
    ok: Line | None = None  # these three are active for hold_ms after a result
    ng: Line | None = None
    unknown: Line | None = None
    hold_ms: Annotated[Milliseconds, Field(gt=0)] = 500.0  # shorter than from part to part, if each has a picture
    reject: Line | None = None  # a pulse for each result that is not ok
    reject_ms: Annotated[Milliseconds, Field(gt=0)] = 100.0  # length of the pulse
    reject_delay_ms: Milliseconds = 0.0  # from the capture to the pulse; 0: as soon as the result is there
    ready: Line | None = None  # active while the camera can inspect
    heartbeat: Line | None = None  # changes every 500 ms while the camera can inspect
    active_low: bool = False  # of all these lines

    @property
    def lines(self) -> dict[str, str]:
        """The wired signals and their lines."""
        return {name: line for name in SIGNALS if (line := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.lines:
            raise ValueError(f"names no line: set one of {', '.join(SIGNALS)}")
        for key, needed in (("hold_ms", SHOWN), ("reject_ms", PULSED), ("reject_delay_ms", PULSED)):
            if key in self.model_fields_set and not self.lines.keys() & set(needed):
                raise FaultyKeyError(
                    (key,), getattr(self, key), f"It has no effect without the line {' or '.join(needed)}: set one too"
                )
        return self


class PlantConfig(StrictModel):
    """The handshake with a PLC, which triggers the cameras with `trigger: plc` or `mqtt`, and digital outputs."""

    modbus: ModbusConfig = ModbusConfig()
    opcua: OpcUaConfig = OpcUaConfig()
    gpio: tuple[GpioConfig, ...] = ()
    programs: tuple[str, ...] = ()  # products that the PLC may select; the first is program 1
    result_timeout_s: Timeout = 5.0  # longest time from a trigger to its result; then the part is Unknown
    ack_timeout_s: Timeout = 10.0  # longest time from a result to its acknowledgement; then this is an error

    @model_validator(mode="after")
    def _lines_differ(self) -> Self:
        taken: dict[tuple[str, str], str] = {}
        for number, output in enumerate(self.gpio):
            for signal, line in output.lines.items():
                place = (os.path.realpath(output.chip), str(int(line)) if line.isdecimal() else line)
                if place in taken:
                    raise FaultyKeyError(
                        ("gpio", number, signal), line, f"plant.gpio.{taken[place]} has this line of {output.chip} too"
                    )
                taken[place] = f"{number}.{signal}"
        return self

    @property
    def on(self) -> bool:
        """Whether a PLC is served."""
        return self.modbus.on or self.opcua.on


class SparkplugConfig(StrictModel):
    """The agent publishes Sparkplug B, over a connection of its own to the broker of `mqtt`."""

    enabled: bool = False
    group: Annotated[str, Field(pattern=r"^[A-Za-z0-9 _.-]{1,128}$")] = "zsad"  # Sparkplug's group id


class HomeAssistantConfig(StrictModel):
    """The agent announces itself to Home Assistant, over the broker of `mqtt`."""

    enabled: bool = False
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_/-]{1,128}$")] = "homeassistant"  # Home Assistant's own setting
    # device: one message, for Home Assistant from 2024.11 on; components: one for each entity, also for older ones
    format: Literal["device", "components"] = "device"
