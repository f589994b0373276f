"""Joins the handshake with a PLC to the running agent. Imported only when a door of `plant` is open."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from zsad_agent.config import PlantConfig, split_listen
from zsad_agent.inspection import Station
from zsad_agent.plant import PlantStations
from zsad_agent.system import Service
from zsad_core.errors import ConfigError

if TYPE_CHECKING:
    from zsad_agent.plant import Commands

INSTALL = "pip install 'zsad-agent[plant]'"


class Plant:
    """The handshakes, a sink of the pipeline, and their doors."""

    def __init__(self, config: PlantConfig, stations: Sequence[Station]) -> None:
        """Starts nothing."""
        self._config = config
        self._commands: Commands | None = None
        self.stations = PlantStations(
            [station for station in stations if station.capture.triggered],
            self._get_commands,
            programs=config.programs,
            result_timeout_s=config.result_timeout_s,
            ack_timeout_s=config.ack_timeout_s,
        )

    def services(self, commands: "Commands") -> list[Service]:
        """What serves the PLC, not started yet.

        Raises:
            ConfigError: a library is missing.
        """
        self._commands = commands
        return [self.stations, *(door() for door in self._doors())]

    def _doors(self) -> list[Callable[[], Service]]:
        return [self._modbus] if self._config.modbus.on else []

    def _modbus(self) -> Service:
        try:
            from zsad_agent.plant import ModbusServer
        except ImportError as error:
            raise ConfigError(f"plant.modbus needs a library that is not installed: {INSTALL}") from error
        host, port = split_listen(self._config.modbus.listen)
        machines = list(self.stations.machines.values())
        return ModbusServer(machines, host, port, word_order=self._config.modbus.word_order)

    def _get_commands(self) -> "Commands":
        assert self._commands is not None
        return self._commands
