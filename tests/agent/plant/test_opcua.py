import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from asyncua import Client, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256
from cryptography.x509.oid import ExtendedKeyUsageOID
from mosquitto_broker import free_port
from result_maker import make_result

from zsad_agent.plant import INPUTS, NO_PART, OUTPUTS, ErrorCode, Handshake, Inputs, OpcUaServer
from zsad_core.types import Verdict

T = TypeVar("T")
SIGNALS = {signal.name for signal in (*INPUTS, *OUTPUTS)}
WAIT_S = 60.0


class Station:
    """The server, its machine, and its camera."""

    def __init__(self, folder: Path, *, certificates: bool) -> None:
        self.port = free_port()
        self.asked: list[str] = []
        self.machine = Handshake(self.asked.append, session=0xBEEF, result_timeout_s=600, ack_timeout_s=600)
        self.server = OpcUaServer(
            [self.machine],
            ["cam0"],
            "127.0.0.1",
            self.port,
            programs=["bottle", "capsule"],
            folder=folder,
            certificates=certificates,
        )
        self.url = f"opc.tcp://127.0.0.1:{self.port}/zsad"

    def tick(self, program: int = 1) -> None:
        self.machine.tick(available=True, program=program)

    def __enter__(self) -> "Station":
        self.server.start()
        wait_for(self._listens)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(time.monotonic() + 5)

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


class Plc:
    """A client that sets and reads signals by name."""

    def __init__(self, client: Client, station: Station) -> None:
        self.client, self.station = client, station

    async def node(self, name: str) -> Any:
        space = await self.client.get_namespace_index("urn:zsad:machine-vision")
        return self.client.get_node(ua.NodeId(f"cam0.Signals.{name}" if name in SIGNALS else f"cam0.{name}", space))

    async def top(self) -> Any:
        return await (await self.node("VisionStateMachine")).get_parent()

    async def set(self, name: str, value: int | bool, kind: ua.VariantType = ua.VariantType.Boolean) -> None:
        await (await self.node(name)).write_value(ua.Variant(value, kind))

    async def until(self, name: str, value: object) -> None:
        node = await self.node(name)
        deadline_s = time.monotonic() + WAIT_S
        while (found := await node.read_value()) != value:
            assert time.monotonic() < deadline_s, f"{name} is {found}, not {value}"
            self.station.tick()
            await asyncio.sleep(0.02)

    async def call(self, name: str, *inputs: ua.Variant) -> None:
        space = await self.client.get_namespace_index("urn:zsad:machine-vision")
        await (await self.top()).call_method(ua.NodeId(f"cam0.{name}", space), *inputs)


def run(station: Station, play: Callable[[Plc], Awaitable[T]], prepare: Callable[[Client], Any] | None = None) -> T:
    async def body() -> T:
        client = Client(station.url, timeout=60)
        if prepare is not None:
            await prepare(client)
        async with client:
            return await play(Plc(client, station))

    return asyncio.run(body())


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with Station(tmp_path_factory.mktemp("opcua"), certificates=False) as station:
        yield station


def test_a_trigger_ends_a_dry_test(station: Station) -> None:
    """The first test: a dry test waits until no part can wait for an answer any more."""

    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        station.machine.start_dry_test(Verdict.OK)
        await plc.until("Ok", True)
        found = {name: await (await plc.node(name)).read_value() for name in ("TriggerReady", "ErrorCode", "PartIdOut")}
        assert found == {"TriggerReady": False, "ErrorCode": ErrorCode.DRY_TEST, "PartIdOut": NO_PART}
        await plc.set("Trigger", True)
        await plc.until("Ok", False)
        await plc.until("Missed", 1)
        await plc.set("Trigger", False)
        await plc.until("TriggerReady", True)

    run(station, play)
    assert station.asked == []


def test_a_cycle_by_signals(station: Station) -> None:
    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        await plc.set("PartId", 4711, ua.VariantType.UInt32)
        await plc.set("Trigger", True)
        await plc.until("CurrentState", "SingleExecution")
        station.machine.accept(make_result(seq=9, trigger_id=station.asked[-1], verdict=Verdict.ANOMALOUS))
        await plc.until("ResultsReady", True)
        found = {name: await (await plc.node(name)).read_value() for name in ("Ok", "Ng", "Unknown", "PartIdOut")}
        assert found == {"Ok": False, "Ng": True, "Unknown": False, "PartIdOut": 4711}
        await plc.set("ResultsAck", True)
        await plc.until("ResultsReady", False)
        await plc.set("ResultsAck", False)
        await plc.set("Trigger", False)
        await plc.until("CurrentState", "Ready")

    run(station, play)


def test_a_part_number_counts_for_the_trigger_of_the_same_request(station: Station) -> None:
    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        nodes = [await plc.node("Trigger"), await plc.node("PartId")]
        parts = ua.Variant(True, ua.VariantType.Boolean), ua.Variant(4712, ua.VariantType.UInt32)
        await plc.client.write_values(nodes, list(parts))
        await plc.until("CurrentState", "SingleExecution")
        station.machine.accept(make_result(seq=10, trigger_id=station.asked[-1], verdict=Verdict.OK))
        await plc.until("ResultsReady", True)
        assert await (await plc.node("PartIdOut")).read_value() == 4712
        await plc.set("ResultsAck", True)
        await plc.until("ResultsReady", False)
        await plc.set("ResultsAck", False)
        await plc.set("Trigger", False)
        await plc.until("CurrentState", "Ready")

    run(station, play)


def test_a_cycle_by_methods(station: Station) -> None:
    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        await plc.call("StartSingleJob", ua.Variant(12, ua.VariantType.UInt32))
        await plc.until("Busy", True)
        with pytest.raises(ua.UaStatusCodeError):
            await plc.call("Acknowledge")
        station.machine.accept(make_result(trigger_id=station.asked[-1], verdict=Verdict.OK))
        await plc.until("ResultsReady", True)
        assert await (await plc.node("Ok")).read_value()
        with pytest.raises(ua.UaStatusCodeError):
            await plc.call("StartSingleJob", ua.Variant(13, ua.VariantType.UInt32))
        await plc.call("Acknowledge")
        await plc.until("TriggerReady", True)

    run(station, play)


def test_a_job_that_another_door_acknowledges_holds_no_trigger(station: Station) -> None:
    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        await plc.call("StartSingleJob", ua.Variant(14, ua.VariantType.UInt32))
        await plc.until("Busy", True)
        station.machine.accept(make_result(trigger_id=station.asked[-1], verdict=Verdict.OK))
        await plc.until("ResultsReady", True)
        station.machine.write("modbus", Inputs(results_ack=True))
        station.machine.write("modbus", Inputs())
        await plc.until("TriggerReady", True)

    run(station, play)


def test_a_job_that_is_missed_holds_no_trigger(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera is lost while the call is on its way."""
    machine, write = station.machine, station.machine.write

    def lost_before(door: str, inputs: Inputs) -> None:
        machine.tick(available=not inputs.trigger, program=1)
        write(door, inputs)

    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        missed = machine.outputs.missed
        with monkeypatch.context() as patch:
            patch.setattr(machine, "write", lost_before)
            await plc.call("StartSingleJob", ua.Variant(14, ua.VariantType.UInt32))
            await plc.until("Missed", missed + 1)
        await plc.until("TriggerReady", True)
        await plc.call("StartSingleJob", ua.Variant(15, ua.VariantType.UInt32))
        await plc.until("Busy", True)
        await plc.call("Reset")
        await plc.until("TriggerReady", True)

    run(station, play)


def test_a_wrong_number_of_arguments_is_refused(station: Station) -> None:
    async def play(plc: Plc) -> None:
        number = ua.Variant(1, ua.VariantType.UInt32)
        for name, inputs in (("StartSingleJob", []), ("StartSingleJob", [number, number]), ("Reset", [number])):
            code = ua.StatusCodes.BadTooManyArguments if inputs else ua.StatusCodes.BadArgumentsMissing
            with pytest.raises(ua.UaStatusCodeError) as refused:
                await plc.call(name, *inputs)
            assert refused.value.code == code

    run(station, play)


def test_a_refused_recipe_can_be_selected_again(station: Station) -> None:
    async def play(plc: Plc) -> None:
        for _ in range(2):
            await plc.call("SelectRecipe", ua.Variant("capsule", ua.VariantType.String))
            await asyncio.to_thread(wait_for, lambda: station.machine.program_to_set == 2)
            station.machine.program_set(2, refused=True)
        await plc.until("TriggerReady", True)

    run(station, play)


def test_recipes_are_the_programs(station: Station) -> None:
    async def play(plc: Plc) -> None:
        assert await (await plc.node("Recipes")).read_value() == ["bottle", "capsule"]
        await plc.call("SelectRecipe", ua.Variant("capsule", ua.VariantType.String))
        await asyncio.to_thread(wait_for, lambda: station.machine.program_to_set == 2)
        station.machine.program_set(2, refused=False)
        await plc.until("ActiveRecipe", "bottle")  # as the camera says
        with pytest.raises(ua.UaStatusCodeError):
            await plc.call("SelectRecipe", ua.Variant("screw", ua.VariantType.String))

    run(station, play)


def test_outputs_and_wrong_types_are_refused(station: Station) -> None:
    async def play(plc: Plc) -> None:
        for name, value, kind in (("Ok", True, ua.VariantType.Boolean), ("Trigger", 7, ua.VariantType.Int32)):
            with pytest.raises(ua.UaStatusCodeError):
                await plc.set(name, value, kind)

    run(station, play)


def test_a_part_that_is_no_number_is_refused(station: Station) -> None:
    numbers = ua.Variant([1, 2], ua.VariantType.UInt32)
    parts = [
        ua.Variant(float("nan"), ua.VariantType.Float),
        ua.Variant("seven", ua.VariantType.String),
        ua.Variant(-1, ua.VariantType.Int32),
        ua.Variant(True, ua.VariantType.Boolean),
        ua.Variant(2**40, ua.VariantType.UInt64),
        numbers,
    ]

    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        for part in parts:
            for method in ("StartSingleJob", "SelectRecipe"):
                with pytest.raises(ua.UaStatusCodeError):
                    await plc.call(method, part)
        with contextlib.suppress(ua.UaStatusCodeError):
            await (await plc.node("PartId")).write_value(numbers)
        await plc.set("Trigger", False)
        await plc.until("TriggerReady", True)

    asked = len(station.asked)
    run(station, play)
    assert len(station.asked) == asked
    assert all(type(inputs.part_id) is int for inputs in station.machine._doors.values())


def test_what_a_client_left_counts_as_0_after_it_has_gone(station: Station) -> None:
    async def leave_trigger(plc: Plc) -> None:
        await plc.until("TriggerReady", True)
        await plc.set("Trigger", True)
        await plc.until("Busy", True)

    run(station, leave_trigger)
    station.machine.accept(make_result(trigger_id=station.asked[-1]))

    async def acknowledge(plc: Plc) -> None:
        await plc.until("Trigger", False)
        await plc.until("ResultsReady", True)
        await plc.call("Acknowledge")
        await plc.until("TriggerReady", True)

    wait_for(lambda: not station.machine._any("trigger"))
    run(station, acknowledge)


def test_what_a_client_left_that_came_and_went_at_once_counts_as_0_too(station: Station) -> None:
    async def set_trigger(plc: Plc) -> None:
        await plc.set("Trigger", True)

    for _ in range(4):
        run(station, set_trigger)
        wait_for(lambda: "Trigger" in station.machine.wiring.seen_s)
        wait_for(lambda: not station.machine._any("trigger"))

    async def reset(plc: Plc) -> None:
        await plc.call("Reset")
        await plc.until("TriggerReady", True)

    run(station, reset)


def test_a_process_that_is_killed_is_started_again(station: Station) -> None:
    process = station.server._process
    assert process is not None
    process.kill()
    wait_for(lambda: station.server.fault is not None)
    wait_for(lambda: station.server.fault is None)

    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)

    run(station, play)


def test_only_trusted_certificates_are_accepted(tmp_path: Path) -> None:
    folder = tmp_path / "server"

    async def encrypted(client: Client) -> None:
        key, own = tmp_path / "plc-key.pem", tmp_path / "plc.der"
        client.application_uri = "urn:plc"
        await setup_self_signed_certificate(key, own, "urn:plc", "plc", [ExtendedKeyUsageOID.CLIENT_AUTH], {})
        await client.set_security(SecurityPolicyBasic256Sha256, certificate=own, private_key=key)

    async def play(plc: Plc) -> None:
        await plc.until("TriggerReady", True)

    with Station(folder, certificates=True) as station:
        with pytest.raises(Exception, match=r"(?i)security|endpoint|policy"):
            run(station, play)
        with pytest.raises(ua.UaError):
            run(station, play, encrypted)
        (refused,) = (folder / "rejected").iterdir()
        refused.rename(folder / "trusted" / refused.name)
        run(station, play, encrypted)
