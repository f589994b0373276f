"""The handshakes of all cameras that a PLC triggers, joined to the pipeline and to the product of each camera."""

import logging
import math
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from zsad_agent.capture import CAMERA, MODEL
from zsad_agent.inspection import Station
from zsad_agent.messages import Result
from zsad_agent.plant.handshake import Handshake, Wiring
from zsad_agent.plant.printed_map import plant_map
from zsad_agent.plant.registers import WordOrder
from zsad_agent.plant.signals import INPUTS, OUTPUTS, named
from zsad_agent.system import Service, in_thread
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

TICK_S = 0.05


class Commands(Protocol):
    """Carries out commands as those over MQTT, for example `Controller`."""

    def perform(self, camera: str | None, key: str, value: Any, *, by: str, to_the_end: bool) -> dict[str, Any]: ...


def can_inspect(station: Station) -> bool:
    """Whether a part in front of the camera would get a picture and a model.

    Also after an inference that failed: only the next part can show that it was a single fault.
    """
    lost = station.status.fault_of(CAMERA) or station.status.fault_of(MODEL)
    return not lost and not station.capture.paused


class PlantStations(Service):
    """Owns the thread that checks time limits and selects products. A sink of the pipeline."""

    name = "plant"
    vital = False
    stop_s = 0.3

    def __init__(
        self,
        stations: Sequence[Station],
        commands: Callable[[], Commands],
        *,
        programs: Sequence[str],
        result_timeout_s: float,
        ack_timeout_s: float,
    ) -> None:
        """Starts nothing.

        Args:
            stations: those of a camera that is triggered, in the order of their registers.
            commands: gives what carries out commands; called after the start.
            programs: products; the first is program 1.
            result_timeout_s: longest time from a trigger to its result.
            ack_timeout_s: longest time from a result to its acknowledgement.
        """
        session = secrets.randbelow(65_535) + 1
        self._commands = commands
        self._programs = tuple(programs)
        self._stations = {station.name: station for station in stations}
        self._machines = {
            station.name: Handshake(
                station.capture.trigger,
                session=session,
                result_timeout_s=result_timeout_s,
                ack_timeout_s=ack_timeout_s,
            )
            for station in stations
        }
        self._selecting: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zsad-plant", daemon=True)

    @property
    def machines(self) -> dict[str, Handshake]:
        """By the camera's name."""
        return self._machines

    @property
    def silent_s(self) -> float:
        """Seconds since a PLC asked for something; infinite before the first time."""
        return min((machine.silent_s for machine in self._machines.values()), default=math.inf)

    def wiring(self) -> list[dict[str, Any]]:
        """`Wiring` of each camera as JSON, with the names of the printed map."""
        return [_as_json(camera, machine.wiring) for camera, machine in self._machines.items()]

    def printed_map(self, word_order: WordOrder, listen: str) -> str:
        """As `plant_map`."""
        return plant_map(list(self._machines), self._programs, word_order, listen)

    def start_dry_test(self, camera: str, verdict: Verdict) -> None:
        """As `Handshake.start_dry_test`.

        Raises:
            ConflictError: not now.
        """
        self._machines[camera].start_dry_test(verdict)
        logger.warning("%s: dry test: %s is shown to the PLC", camera, verdict)

    def end_dry_test(self, camera: str) -> None:
        self._machines[camera].end_dry_test()

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Gives a stored result to the handshake of its camera."""
        machine = self._machines.get(result.camera)
        if machine is not None:
            machine.accept(result, program=self._number(result.product))

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        self._wait(deadline_s)

    def _run(self) -> None:
        while not self._stop.wait(TICK_S):
            for name, station in self._stations.items():
                machine = self._machines[name]
                machine.tick(available=can_inspect(station), program=self._number(station.inspector.product))
                wanted = machine.program_to_set
                if wanted and name not in self._selecting:
                    self._selecting.add(name)
                    in_thread(f"zsad-program-{name}", partial(self._select, name, wanted))

    def _number(self, product: str) -> int:
        return self._programs.index(product) + 1 if product in self._programs else 0

    def _select(self, name: str, number: int) -> None:
        """Sets the product. It may wait for the thread of commands."""
        refused = True
        try:
            if number > len(self._programs):
                raise ZsadError(f"ProgramSelect is {number}, but plant.programs has {len(self._programs)}")
            product = self._programs[number - 1]
            if product != self._stations[name].inspector.product:
                # A program that is reported as refused must not come into use later.
                self._commands().perform(name, "product", product, by="plc", to_the_end=True)
            refused = False
        except ZsadError as error:
            logger.error("%s: program %d is not selected: %s", name, number, error)
        finally:
            self._machines[name].program_set(number, refused=refused)
            self._selecting.discard(name)


def _as_json(camera: str, wiring: Wiring) -> dict[str, Any]:
    return {
        "camera": camera,
        "state": wiring.state,
        "from_plc": {door: named(INPUTS, inputs) for door, inputs in wiring.inputs.items()},
        "to_plc": named(OUTPUTS, wiring.outputs),
        "silent_s": wiring.silent_s,
        "seen_s": wiring.seen_s,
        "dry_test_left_s": wiring.dry_test_left_s,
    }
