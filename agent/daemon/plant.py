"""Joins the handshake with a PLC and digital outputs to the running agent. Imported only when the config has one."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent.config import INSTALL_PLANT, PlantConfig, split_listen
from zsad_agent.inspection import Station
from zsad_agent.plant import DigitalOutputs, PlantStations
from zsad_agent.system import Service
from zsad_core.errors import ConfigError

if TYPE_CHECKING:
    from zsad_agent.plant import Commands, Handshake


class Plant:
    """The handshakes and their doors, and the digital outputs."""

    def __init__(self, config: PlantConfig, stations: Sequence[Station], state_dir: Path) -> None:
        """Starts nothing."""
        self._config, self._state_dir = config, state_dir
        self._commands: Commands | None = None
        by_name = {station.name: station for station in stations}
        self._outputs = [DigitalOutputs(output, by_name[output.camera or stations[0].name]) for output in config.gpio]
        self.stations = (
            PlantStations(
                [station for station in stations if station.capture.triggered],
                self._get_commands,
                programs=config.programs,
                result_timeout_s=config.result_timeout_s,
                ack_timeout_s=config.ack_timeout_s,
            )
            if config.on
            else None
        )

    @property
    def sinks(self) -> list[PlantStations | DigitalOutputs]:
        """What gets every result."""
        return [*self._outputs] if self.stations is None else [self.stations, *self._outputs]

    def services(self, commands: "Commands | None") -> list[Service]:
        """What serves the PLC, not started yet.

        Raises:
            ConfigError: a library is missing.
        """
        self._commands = commands
        if self._outputs:
            _require("gpiod", "plant.gpio")
        doors = [] if self.stations is None else self._doors(self.stations.machines)
        return [*self.sinks, *doors]

    def _doors(self, machines: "Mapping[str, Handshake]") -> Iterator[Service]:
        modbus, opcua = self._config.modbus, self._config.opcua
        if modbus.on:
            from zsad_agent.plant import ModbusServer

            host, port = split_listen(modbus.listen)
            yield ModbusServer(list(machines.values()), host, port, word_order=modbus.word_order)
        if opcua.on:
            _require("asyncua", "plant.opcua")
            from zsad_agent.plant import OpcUaServer

            host, port = split_listen(opcua.listen)
            yield OpcUaServer(
                list(machines.values()),
                list(machines),
                host,
                port,
                programs=self._config.programs,
                folder=self._state_dir / "opcua",
                certificates=opcua.certificates,
            )

    def _get_commands(self) -> "Commands":
        assert self._commands is not None
        return self._commands


def _require(library: str, key: str) -> None:
    if find_spec(library) is None:
        raise ConfigError(f"{key} needs {library}, which is not installed: {INSTALL_PLANT}")
