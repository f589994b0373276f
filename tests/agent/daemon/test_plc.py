"""A PLC over Modbus and a real agent. The camera is a folder of pictures, of which each second is defective."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from agent_process import AgentProcess
from modbus_plc import ACK, BUSY, ERROR_CODE, MISSED, PART_COUNTER, READY, SESSION, TRIGGER, LostError, ModbusPlc
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener, wait_until
from plc_agent import VERDICTS, plc_agent, results_by_part

from zsad_agent.plant import ErrorCode

PASS, REJECT = "ok", "ng"


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(
    tmp_path: Path, tiny_bundle: Path, port: int, mosquitto: Callable[..., MosquittoBroker]
) -> Iterator[Callable[..., AgentProcess]]:
    """Gives an agent that is not started yet; `start.broker` is its broker."""
    broker = mosquitto()

    def make(plant: str = "", more: str = "") -> AgentProcess:
        return plc_agent(tmp_path, tiny_bundle, broker.url, port, plant=plant, more=more)

    make.broker = broker  # type: ignore[attr-defined]
    yield make


def test_each_part_gets_the_verdict_of_its_own_picture(start: Callable[..., AgentProcess], port: int) -> None:
    with (
        MqttListener(start.broker.port) as listener,  # type: ignore[attr-defined]
        start(),
        ModbusPlc(port) as plc,
    ):
        plc.connect()
        verdicts = [plc.inspect(part) for part in range(1, 41)]
        assert verdicts == [PASS, REJECT] * 20
        assert (plc.number(PART_COUNTER), plc.number(MISSED)) == (40, 0)
        listener.wait_for(lambda: len(results_by_part(listener)) == 40)
        assert all(len(results) == 1 for results in results_by_part(listener).values())


def test_a_trigger_during_the_inspection_is_missed_and_said(start: Callable[..., AgentProcess], port: int) -> None:
    with start(), ModbusPlc(port) as plc:
        plc.connect()
        plc.wait(READY)
        plc.set(TRIGGER, True)
        plc.set(TRIGGER, False)
        plc.set(TRIGGER, True)
        assert plc.number(MISSED) == 1
        assert plc.number(ERROR_CODE, 1) in (ErrorCode.BUSY, ErrorCode.NOT_ACKNOWLEDGED)
        plc.wait(BUSY, False)
        plc.set(ACK, True)
        plc.set(ACK, False)
        plc.set(TRIGGER, False)
        assert plc.inspect() in (PASS, REJECT)


def test_a_program_selects_the_product(start: Callable[..., AgentProcess], port: int) -> None:
    with start("programs: [object, bottle]"), ModbusPlc(port) as plc:
        plc.connect()
        plc.wait(READY)
        plc.set_number(1, 7, words=1)
        until_s = time.monotonic() + 60
        while plc.number(ERROR_CODE, 1) != ErrorCode.PROGRAM:
            assert time.monotonic() < until_s
        assert plc.inspect() == PASS


@pytest.mark.parametrize(
    ("cycles", "kills"), [(60, 2), pytest.param(10_000, 60, marks=pytest.mark.chaos, id="10000-60")]
)
def test_a_killed_agent_answers_each_part_once_or_not_at_all(
    start: Callable[..., AgentProcess], port: int, cycles: int, kills: int
) -> None:
    """The PLC goes on with the next part after the agent was lost, and rejects the one that had no verdict."""
    choice, ended = random.Random(7), threading.Event()
    agent = start()

    def kill_again_and_again() -> None:
        for _ in range(kills):
            ended.wait(choice.uniform(3.0, 6.0))
            if ended.is_set():
                return
            agent.kill()
            agent.__enter__()

    with (
        MqttListener(start.broker.port, session="listener") as listener,  # type: ignore[attr-defined]
        agent,
        ModbusPlc(port) as plc,
    ):
        plc.connect()
        killer = threading.Thread(target=kill_again_and_again)
        killer.start()
        verdicts: dict[int, str] = {}
        sessions = {plc.number(SESSION, 1)}
        part = 0
        try:
            while part < cycles or killer.is_alive():
                part += 1
                try:
                    verdicts[part] = plc.inspect(part)
                except LostError:
                    verdicts.setdefault(part, "lost")
                    plc.connect()
        finally:
            ended.set()
            killer.join()
        assert plc.inspect(part + 1) in (PASS, REJECT)
        sessions.add(plc.number(SESSION, 1))
        judged = {part for part, verdict in verdicts.items() if verdict != "lost"}
        listener.wait_for(lambda: judged <= results_by_part(listener).keys())
        results = results_by_part(listener)
        assert all(len(found) == 1 for found in results.values()), "a part was judged twice"
        assert {part: results[part][0]["verdict"] for part in judged} == {
            part: VERDICTS[verdicts[part]] for part in judged
        }
        counted = Counter(verdicts.values())
        assert counted["unknown"] == 0 and counted["lost"] <= 2 * kills, counted
        assert len(sessions) == 2


def test_a_plant_without_a_triggered_camera_is_a_fault_of_the_config(
    start: Callable[..., AgentProcess], tmp_path: Path
) -> None:
    agent = start()
    config = tmp_path / "agent.yaml"
    config.write_text(config.read_text().replace("trigger: plc", "trigger: free"))
    with agent:
        assert agent.wait() == 2
        assert "plant.modbus.listen: got" in agent.output and "and there is none" in agent.output


def test_the_page_has_lights_for_the_plc_and_the_outputs(start: Callable[..., AgentProcess], port: int) -> None:
    page = free_port()

    def light(name: str = "PLC") -> dict[str, str]:
        with urlopen(f"http://127.0.0.1:{page}/api/v1/health", timeout=30) as answer:
            lights = json.loads(answer.read())["lights"]
        return next(light for light in lights if light["name"] == name)

    gpio = "gpio: [{chip: /dev/gpiochip99, ok: 17}]"
    with start(gpio, more=f"web: {{listen: '127.0.0.1:{page}'}}\n") as agent, ModbusPlc(port) as plc:
        agent.wait_for_output("page at")
        assert (light()["state"], light()["text"]) == ("warn", "no PLC asks")
        plc.connect()
        wait_until(lambda: plc.status() and (light()["state"], light()["text"]) == ("ok", "the PLC asks"))
        assert "/dev/gpiochip99: No such file or directory" in light("outputs")["text"]
        assert plc.inspect() == PASS
