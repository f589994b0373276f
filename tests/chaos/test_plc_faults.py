"""A real agent whose PLC hangs, is cut off, triggers at any time, or sends nonsense, over Modbus TCP and OPC UA.

Each part is answered once or counted in Missed, and Ok is only shown for a result that was published as ok.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent_process import AgentProcess
from asyncua import Client, ua
from modbus_plc import (
    ACK,
    MISSED,
    PART_COUNTER,
    PART_ID,
    READY,
    RESULTS,
    TRIGGER,
    LostError,
    ModbusPlc,
)
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener
from namespace import Namespace
from opcua_plc import OpcUaPlc
from plc_agent import VERDICTS, plc_agent, plc_results, results_by_part
from plc_misuse import Nonsense, Watcher, trigger_at_any_time

pytestmark = pytest.mark.chaos

DOORS: dict[str, type[ModbusPlc]] = {"modbus": ModbusPlc, "opcua": OpcUaPlc}
CUT_S = 20.0
GONE_S = 90.0  # until the agent has noticed that a client vanished
ESTABLISHED = "01"
SECONDS = 60.0  # of nonsense


class Plant:
    """Broker, listener and agent, in a network of its own if there is one."""

    def __init__(self, folder: Path, bundle: Path, broker: MosquittoBroker, network: Namespace | None = None) -> None:
        self.host = "127.0.0.1" if network is None else network.there
        self.ports = {"modbus": free_port(), "opcua": free_port()}
        self.listener = MqttListener(broker.port, session="listener")
        address = broker.url if network is None else f"mqtt://{network.here}:{broker.port}"
        opcua = f"opcua: {{listen: '{self.host}:{self.ports['opcua']}', certificates: false}}"
        self.agent: AgentProcess = plc_agent(
            folder,
            bundle,
            address,
            self.ports["modbus"],
            plant=f"{opcua}\n  ack_timeout_s: 2.0\n  programs: [object, bottle]",
            host=self.host,
            wrapper=() if network is None else network.wrapper,
        )

    def __enter__(self) -> "Plant":
        self._stack = ExitStack()
        self._stack.enter_context(self.listener)
        self._stack.enter_context(self.agent)
        self.agent.wait_for_output("opcua at", 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        print(self.agent.output[-3000:])

    def plc(self, door: str = "modbus") -> ModbusPlc:
        return DOORS[door](self.ports[door], host=self.host, answer_s=3.0)

    def check_inspected(self, accepted: int) -> None:
        """Each accepted trigger has exactly one result."""
        self.listener.wait_for(lambda: len(plc_results(self.listener)) >= accepted, timeout_s=90)
        triggers = Counter(result["trigger_id"] for result in plc_results(self.listener).values())
        assert set(triggers.values()) <= {1}, triggers
        assert len(triggers) == accepted


@pytest.fixture
def plant(tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker]) -> Iterator[Plant]:
    with Plant(tmp_path, tiny_bundle, mosquitto()) as plant:
        yield plant


@pytest.mark.parametrize("door", DOORS)
def test_a_plc_that_hangs_anywhere_in_a_cycle(plant: Plant, door: str) -> None:
    """It holds what it has set, and its connection stays open. Another PLC program starts meanwhile."""
    choice = random.Random(door)
    rises = acknowledged = 0
    with ExitStack() as hanging:
        for part in range(1, 41):
            plc = hanging.enter_context(plant.plc(door))
            plc.connect()
            plc.give_up()
            plc.wait(READY)
            plc.set_number(PART_ID, part)
            plc.set(TRIGGER, True)
            rises += 1
            how_far = choice.randrange(4)
            if how_far >= 1:
                assert plc.wait(RESULTS)[RESULTS]
            if how_far >= 2:
                plc.set(ACK, True)
                acknowledged += 1
            if how_far >= 3:
                plc.set(ACK, False)
            time.sleep(choice.choice((0.0, 0.2, 2.5)))  # longer than ack_timeout_s
        last = hanging.enter_context(plant.plc(door))
        last.connect()
        last.give_up()
        assert last.inspect(41) in ("ok", "ng")
        rises, acknowledged = rises + 1, acknowledged + 1
        assert (last.number(PART_COUNTER), last.number(MISSED)) == (rises, rises - acknowledged)
        plant.check_inspected(rises)


@pytest.mark.parametrize("door", DOORS)
def test_a_network_cut_in_mid_cycle(
    tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker], door: str
) -> None:
    with Namespace() as network:
        broker = mosquitto(extra=f"listener {(port := free_port())} {network.here}", port=port)
        with Plant(tmp_path, tiny_bundle, broker, network) as plant, plant.plc(door) as plc:
            verdicts: dict[int, str] = {}
            recovered_s: list[float] = []
            ended, healed_s = threading.Event(), [0.0]

            def work() -> None:
                plc.connect()
                part = 0
                while not ended.is_set():
                    part += 1
                    try:
                        verdicts[part] = plc.inspect(part)
                        if healed_s[0]:
                            recovered_s.append(time.monotonic() - healed_s[0])
                            healed_s[0] = 0.0
                    except LostError:
                        verdicts[part] = "lost"
                        connect_again(plc)

            worker = threading.Thread(target=work)
            worker.start()
            for cut in range(3):
                before = len(verdicts)
                wait_for(lambda before=before: len(verdicts) > before + 5)  # type: ignore[misc]
                time.sleep(0.013 * cut)
                network.black_hole()
                time.sleep(CUT_S)
                network.heal()
                healed_s[0] = time.monotonic()
                wait_for(lambda: not healed_s[0])
            ended.set()
            worker.join()
            counted = Counter(verdicts.values())
            accepted, missed = plc.number(PART_COUNTER), plc.number(MISSED)
            answered = len(verdicts) - counted["lost"]
            print(f"{door}: {counted}, accepted {accepted}, missed {missed}, recovered after {recovered_s} s")
            assert max(recovered_s) < 30
            assert counted["unknown"] == 0
            assert answered <= accepted <= answered + counted["lost"]  # the agent may have got what the PLC gave up
            plant.check_inspected(accepted)
            results = results_by_part(plant.listener)
            judged = {part: verdict for part, verdict in verdicts.items() if verdict != "lost"}
            assert {part: [one["verdict"] for one in results[part]] for part in judged} == {
                part: [VERDICTS[verdict]] for part, verdict in judged.items()
            }


@pytest.mark.parametrize("door", DOORS)
def test_a_plc_without_power_leaves_no_connection(
    tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker], door: str
) -> None:
    with Namespace() as network:
        broker = mosquitto(extra=f"listener {(port := free_port())} {network.here}", port=port)
        with Plant(tmp_path, tiny_bundle, broker, network) as plant, plant.plc(door) as plc:
            plc.connect()
            plc.inspect(1)
            assert connections(plant, door) == 1
            network.black_hole()
            wait_for(lambda: connections(plant, door) == 0, GONE_S)
            network.heal()


@pytest.mark.parametrize("door", DOORS)
def test_triggers_at_any_time_and_faster_than_inference(plant: Plant, door: str) -> None:
    with plant.plc(door) as plc:
        plc.connect()
        plc.wait(READY)
        rises, acknowledged = trigger_at_any_time(plc, random.Random(door), answers=200)
        assert plc.number(MISSED) == rises - acknowledged > 0
        assert plc.number(PART_COUNTER) == acknowledged
        plant.check_inspected(acknowledged)


def test_nonsense_elsewhere_disturbs_no_cycle(plant: Plant) -> None:
    with plant.plc() as plc:
        plc.connect()
        with Nonsense(plc.port, 1, inputs=False) as nonsense, OpcUaNonsense(plant.ports["opcua"], inputs=False) as more:
            verdicts, end_s = [], time.monotonic() + SECONDS
            while time.monotonic() < end_s:
                verdicts.append(plc.inspect(len(verdicts) + 1))
        parts = len(verdicts)
        print(f"{parts} parts, {nonsense.sent} packets and {more.sent} OPC UA requests of nonsense")
        assert min(parts, nonsense.sent, more.sent) > 50
        assert verdicts == (["ok", "ng"] * parts)[:parts]
        assert (plc.number(PART_COUNTER), plc.number(MISSED)) == (parts, 0)
        plant.check_inspected(parts)


def test_nonsense_in_the_signals_themselves_shows_no_ok_without_an_inspection(plant: Plant) -> None:
    with plant.plc() as plc, plant.plc() as reader:
        plc.connect()
        assert reader.open()
        rounds, end_s = 0, time.monotonic() + SECONDS
        with Watcher(lambda: reader.words(16, 20)) as watcher:
            while time.monotonic() < end_s:
                with (
                    Nonsense(plc.port, rounds, inputs=True),
                    OpcUaNonsense(plant.ports["opcua"], inputs=True),
                ):
                    time.sleep(0.3)
                for word in range(4):
                    plc.set_number(word, 0, words=1)
                connect_again(plc)
                plc.inspect()
                rounds += 1
        accepted = plc.number(PART_COUNTER)
        print(f"{rounds} rounds, {accepted} accepted, {len(watcher.shown)} results were seen")
        assert accepted >= rounds > 20
        plant.check_inspected(accepted)
        published = {result["seq"]: result["verdict"] for result in plc_results(plant.listener).values()}
        shown = {number: verdicts for number, verdicts in watcher.shown.items() if number}  # 0: no result came in time
        assert len(shown) >= rounds and watcher.shown.get(0, {"unknown"}) == {"unknown"}
        assert {number: {VERDICTS[name] for name in names} for number, names in shown.items()} == {
            number: {published[number]} for number in shown
        }
        assert plant.agent.running


class OpcUaNonsense:
    """A client that writes random values to random nodes and calls methods, in a thread of its own."""

    SIGNALS = ("Trigger", "ResultsAck", "Reset", "ProgramSelect", "PartId")
    METHODS = ("StartSingleJob", "Acknowledge", "SelectRecipe", "Reset")

    def __init__(self, port: int, *, inputs: bool) -> None:
        self._url, self._inputs = f"opc.tcp://127.0.0.1:{port}/zsad", inputs
        self._choice = random.Random(port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.sent = 0

    def __enter__(self) -> "OpcUaNonsense":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    async def _run(self) -> None:
        pick = self._choice
        values = (
            lambda: ua.Variant(pick.random() < 0.1, ua.VariantType.Boolean),
            lambda: ua.Variant(pick.choice((0,) * 20 + (1, 2, 9, 65_535)), ua.VariantType.UInt16),
            lambda: ua.Variant(pick.randrange(2**32), ua.VariantType.UInt32),
            lambda: ua.Variant(float("nan"), ua.VariantType.Float),
            lambda: ua.Variant("x" * pick.randrange(1000), ua.VariantType.String),
            lambda: ua.Variant([True] * 9, ua.VariantType.Boolean),
        )
        async with Client(self._url, timeout=60) as client:
            space = await client.get_namespace_index("urn:zsad:machine-vision")
            known = [ua.NodeId(f"cam0.Signals.{name}", space) for name in self.SIGNALS]
            others = [ua.NodeId(f"cam0.Signals.{name}", space) for name in ("Ok", "TriggerReady", "Heartbeat", "no")]
            others += [ua.NodeId(number, 0) for number in (84, 85, 2253, 2256, 2258, 11_492)]
            nodes = known * 3 + others if self._inputs else others
            while not self._stop.is_set():
                self.sent += 1
                try:
                    if self._inputs and pick.random() < 0.2:
                        method = ua.NodeId(f"cam0.{pick.choice(self.METHODS)}", space)
                        await client.get_node(ua.NodeId("cam0", space)).call_method(method, pick.choice(values)())
                    else:
                        await client.get_node(pick.choice(nodes)).write_value(pick.choice(values)())
                except ua.UaError:
                    continue


def connections(plant: Plant, door: str) -> int:
    """Connections of clients in the network of the agent."""
    rows = [line.split() for line in Path(f"/proc/{plant.agent.pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{plant.ports[door]:04X}") and row[3] == ESTABLISHED for row in rows)


def connect_again(plc: ModbusPlc) -> None:
    """As a PLC does after it has lost the agent."""
    deadline_s = time.monotonic() + 120
    while True:
        try:
            plc.connect(patience_s=120)
            plc.give_up()
            return
        except LostError:
            assert time.monotonic() < deadline_s


def wait_for(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
