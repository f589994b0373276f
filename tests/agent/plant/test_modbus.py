import re
import time
from collections.abc import Iterator
from typing import Literal

import pytest
from pymodbus.client import ModbusTcpClient
from result_maker import make_result

from zsad_agent.plant import Handshake, ModbusServer, plant_map
from zsad_core.types import Verdict


class Plant:
    """Two cameras behind one server, and a client that knows the printed map alone."""

    def __init__(self, word_order: Literal["high_first", "low_first"]) -> None:
        self.asked: list[str] = []
        self.machines = [
            Handshake(self.asked.append, session=session, result_timeout_s=60, ack_timeout_s=60)
            for session in (0xBEEF, 0xCAFE)
        ]
        self.server = ModbusServer(self.machines, "127.0.0.1", 0, word_order=word_order)
        self.order: Literal["big", "little"] = "big" if word_order == "high_first" else "little"
        self.map = plant_map(["left", "right"], ["bottle"], word_order)

    def __enter__(self) -> "Plant":
        self.server.start()
        deadline_s = time.monotonic() + 30
        while not self.server.port and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self.client = ModbusTcpClient("127.0.0.1", port=self.server.port, timeout=30, retries=0)
        while not self.client.connect() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        self.client.read_coils(0, count=1)
        time.sleep(0.3)
        for machine in self.machines:
            machine.tick(available=True, program=1)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.stop(time.monotonic() + 5)

    def row(self, name: str, camera: str) -> tuple[str, int | None, int, int | None]:
        """Type, coil, register and bit of a signal, as printed."""
        block = self.map.split(f"Camera {camera}\n")[1].split("\n\n")[0]
        line = next(line for line in block.splitlines() if line.split()[0] == name)
        found = re.match(r"\s+\w+\s+(bit|u16|u32|f32)\s+(?:(\d+) \[\d+\]\s+)?(\d+) \[\d+\](?: bit (\d+))?", line)
        assert found is not None, line
        return found[1], int(found[2]) if found[2] else None, int(found[3]), int(found[4]) if found[4] else None

    def read(self, name: str, camera: str = "left") -> float:
        kind, coil, register, bit = self.row(name, camera)
        if coil is not None:
            bits = [
                self.client.read_coils(coil, count=1).bits[0],
                self.client.read_discrete_inputs(coil, count=1).bits[0],
            ]
            word = self.client.read_input_registers(register, count=1).registers[0]
            assert bits[0] == bits[1] == bool(word >> (bit or 0) & 1)
            return bits[0]
        types = self.client.DATATYPE
        wanted = {"u16": types.UINT16, "u32": types.UINT32, "f32": types.FLOAT32}[kind]
        words = self.client.read_holding_registers(register, count=wanted.value[1]).registers
        return self.client.convert_from_registers(words, wanted, word_order=self.order)  # type: ignore[return-value]

    def write(self, name: str, value: int, camera: str = "left") -> None:
        kind, coil, register, _ = self.row(name, camera)
        if coil is not None:
            answer = self.client.write_coil(coil, bool(value))
        else:
            types = self.client.DATATYPE
            words = self.client.convert_to_registers(
                value, types.UINT32 if kind == "u32" else types.UINT16, word_order=self.order
            )
            answer = self.client.write_registers(register, words)
        assert not answer.isError()


@pytest.fixture(scope="module", params=["high_first", "low_first"])
def plant(request: pytest.FixtureRequest) -> Iterator[Plant]:
    with Plant(request.param) as plant:
        yield plant


@pytest.mark.parametrize(("camera", "which"), [("left", 0), ("right", 1)])
def test_a_cycle_by_the_printed_map(plant: Plant, camera: str, which: int) -> None:
    counted = plant.read("PartCounter", camera)
    assert plant.read("TriggerReady", camera)
    plant.write("PartId", 0x0001_0002, camera)
    plant.write("Trigger", 1, camera)
    assert plant.read("Busy", camera) and not plant.read("TriggerReady", camera)
    assert plant.read("PartCounter", camera) == counted + 1
    plant.machines[which].accept(
        make_result(seq=70_000, trigger_id=plant.asked[-1], verdict=Verdict.ANOMALOUS, anomaly_score=0.75)
    )
    assert plant.read("ResultsReady", camera)
    assert (plant.read("Ok", camera), plant.read("Ng", camera), plant.read("Unknown", camera)) == (False, True, False)
    assert plant.read("ResultId", camera) == 70_000
    assert plant.read("PartIdOut", camera) == 0x0001_0002
    assert (plant.read("Score", camera), plant.read("ScorePermille", camera)) == (0.75, 750)
    assert plant.read("Threshold", camera) == 0.5
    assert plant.read("Session", camera) == (0xBEEF, 0xCAFE)[which]
    plant.write("ResultsAck", 1, camera)
    assert not plant.read("ResultsReady", camera)
    plant.write("ResultsAck", 0, camera)
    plant.write("Trigger", 0, camera)
    assert plant.read("TriggerReady", camera)
    assert plant.read("Missed", camera) == 0


def test_a_cycle_with_registers_alone(plant: Plant) -> None:
    _, _, control, trigger_bit = plant.row("Trigger", "left")
    _, _, _, ack_bit = plant.row("ResultsAck", "left")
    _, _, status, ng_bit = plant.row("Ng", "left")
    assert None not in (trigger_bit, ack_bit, ng_bit)
    trigger, ack = 1 << (trigger_bit or 0), 1 << (ack_bit or 0)
    plant.client.write_register(control, trigger)
    plant.machines[0].accept(make_result(trigger_id=plant.asked[-1]))
    assert plant.client.read_holding_registers(status, count=1).registers[0] >> (ng_bit or 0) & 1
    plant.client.write_register(control, trigger | ack)
    plant.client.write_register(control, 0)
    assert plant.read("TriggerReady")


def test_writes_of_nonsense_are_refused(plant: Plant) -> None:
    before = plant.machines[0].outputs
    for address in (5, 16, 20, 50, 99, 116, 199, 65_535):
        assert plant.client.write_register(address, 0xFFFF).isError(), address
        assert plant.client.write_coil(address, True).isError(), address
    assert plant.client.write_registers(0, [0] * 20).isError()
    assert plant.client.write_registers(95, [1] * 10).isError()
    assert plant.machines[0].outputs == before
    assert not plant.client.write_registers(0, [0, 0, 0, 0]).isError()


def test_a_port_that_is_taken_is_a_fault_until_it_is_free() -> None:
    with Plant("high_first") as first:
        second = ModbusServer(first.machines, "127.0.0.1", first.server.port, word_order="high_first")
        with second:
            deadline_s = time.monotonic() + 30
            while second.fault is None and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert "Address already in use" in str(second.fault)
            assert second.alive
            first.server.stop(time.monotonic() + 5)
            while second.fault is not None and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert second.fault is None
