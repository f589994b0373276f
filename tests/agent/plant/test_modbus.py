import contextlib
import re
import socket
import struct
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
        self.map = plant_map(["left", "right"], ["bottle"], word_order, "127.0.0.1:502")

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


def test_the_addresses_of_released_signals_stay(plant: Plant) -> None:
    coils = [plant.row(name, "right")[1] for name in ("Trigger", "ResultsAck", "Reset", "TriggerReady", "Error")]
    numbers = ("ProgramSelect", "PartId", "ErrorCode", "Program", "PartIdOut", "Score", "Threshold", "ResultProgram")
    assert coils == [100, 101, 102, 116, 122]
    assert [plant.row(name, "right")[2] for name in numbers] == [101, 102, 117, 118, 126, 130, 132, 134]


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


def test_a_request_may_span_two_cameras(plant: Plant) -> None:
    session = plant.row("Session", "left")[2]
    words = plant.client.read_holding_registers(session, count=101).registers
    assert (words[0], words[100]) == (0xBEEF, 0xCAFE)
    start, ready = plant.row("Error", "left")[1] or 0, plant.row("TriggerReady", "right")[1] or 0
    assert plant.client.read_coils(start, count=ready + 1 - start).bits[ready - start] == plant.read(
        "TriggerReady", "right"
    )


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


def ask(connection: socket.socket, *bodies: bytes) -> list[bytes]:
    """Sends all requests at once, and gives the answers from the function code on."""
    packets = [struct.pack(">HHHB", number, 0, len(body) + 1, 7) + body for number, body in enumerate(bodies)]
    connection.sendall(b"".join(packets))
    answers = []
    with connection.makefile("rb") as stream:
        for number in range(len(bodies)):
            transaction, protocol, length, unit = struct.unpack(">HHHB", stream.read(7))
            assert (transaction, protocol, unit) == (number, 0, 7)
            answers.append(stream.read(length - 1))
    return answers


def test_requests_that_arrive_at_once_are_all_carried_out(plant: Plant) -> None:
    machine = plant.machines[0]
    missed, counted = machine.outputs.missed, machine.outputs.part_counter
    on, off, reset = b"\5\0\0\xff\0", b"\5\0\0\0\0", b"\5\0\2\xff\0"
    with socket.create_connection(("127.0.0.1", plant.server.port), timeout=60) as connection:
        requests = [on, off, on, off, reset, b"\5\0\2\0\0", b"\1\0\x10\0\1"]
        assert ask(connection, *requests) == [*requests[:-1], b"\1\1\1"]
    assert (machine.outputs.part_counter, machine.outputs.missed) == (counted + 1, missed + 2)


@pytest.mark.parametrize(
    ("request_body", "answer"),
    [
        (b"\x2b\x0e\1\0", b"\xab\1"),  # no such function
        (b"\1\0\0\0\0", b"\x81\3"),  # no coil
        (b"\1\0\0\7\xd1", b"\x81\3"),  # 2001 coils
        (b"\3\0\0\0\x7e", b"\x83\3"),  # 126 registers
        (b"\3\0\xc7\0\2", b"\x83\2"),  # beyond the last one
        (b"\5\0\0\0\1", b"\x85\3"),  # neither on nor off
        (b"\6\0\0\0", b"\x86\3"),  # too short
        (b"\x0f\0\0\0\3\2\7\0", b"\x8f\3"),  # two bytes for three coils
        (b"\x10\0\0\0\2\4\0\0\0", b"\x90\3"),  # three bytes for two registers
        (b"\x16\0\x10\xff\xff\0\0", b"\x96\2"),  # a register of the agent
        (b"\x17\0\0\0\0\0\2\0\1\2\0\1", b"\x97\3"),  # reads nothing, so it writes nothing
        (b"\x17\0\2\0\2\0\2\0\2\4\1\2\3\4", b"\x17\4\1\2\3\4"),  # writes PartId, then reads it
        (b"\x16\0\2\0\xff\2\0", b"\x16\0\2\0\xff\2\0"),  # a mask of PartId
    ],
)
def test_each_function_checks_its_request(plant: Plant, request_body: bytes, answer: bytes) -> None:
    with socket.create_connection(("127.0.0.1", plant.server.port), timeout=60) as connection:
        assert ask(connection, request_body, b"\3\0\0\0\2") == [answer, b"\3\4\0\0\0\0"]


def test_what_is_no_modbus_ends_the_connection(plant: Plant) -> None:
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\0\1\0\0\0\1\1", b"\0\1\0\0\xff\xff\1\1"):
        with socket.create_connection(("127.0.0.1", plant.server.port), timeout=60) as connection:
            connection.sendall(sent)
            assert connection.recv(100) == b""


def test_clients_that_hang_do_not_keep_others_out(plant: Plant) -> None:
    """More than the server has places for; one of them asks all the time and reads nothing."""
    hanging = [socket.create_connection(("127.0.0.1", plant.server.port), timeout=60) for _ in range(40)]
    hanging[-1].setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += hanging[-1].send(b"\0\1\0\0\0\6\1\3\0\0\0\x64" * 1000)
    with socket.create_connection(("127.0.0.1", plant.server.port), timeout=60) as connection:
        assert ask(connection, b"\1\0\x10\0\1")[0][:2] == b"\1\1"
        clients = [client.get_extra_info("socket") for client in list(plant.server._clients)]
        assert 1 <= len(clients) <= 33
        assert all(one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for one in clients)
    for each in hanging:
        each.close()


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
