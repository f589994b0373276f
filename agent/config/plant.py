"""The settings for machines and dashboards of the plant. All are off unless they are set."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from zsad_agent.config.web import OFF, OffInYaml, listen_address
from zsad_core.config import StrictModel

Listen = Annotated[str, OffInYaml, AfterValidator(listen_address)]
Timeout = Annotated[float, Field(gt=0, le=3600)]


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


class PlantConfig(StrictModel):
    """The handshake with a PLC. It triggers the cameras with `trigger: plc` or `mqtt`."""

    modbus: ModbusConfig = ModbusConfig()
    opcua: OpcUaConfig = OpcUaConfig()
    programs: tuple[str, ...] = ()  # products that the PLC may select; the first is program 1
    result_timeout_s: Timeout = 5.0  # longest time from a trigger to its result; then the part is Unknown
    ack_timeout_s: Timeout = 10.0  # longest time from a result to its acknowledgement; then this is an error

    @property
    def on(self) -> bool:
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
