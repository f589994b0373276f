"""Misuse of the handshake over Modbus, with a camera in memory. The long version has a real agent: tests/chaos."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import pytest
from modbus_plc import ACK, MISSED, PART_COUNTER, RESET, TRIGGER, ModbusPlc
from mqtt_listener import wait_until
from plc_misuse import Nonsense, trigger_at_any_time
from result_maker import make_result

from zsad_agent.plant import Handshake, ModbusServer
from zsad_core.types import Verdict

VERDICTS = (Verdict.OK, Verdict.ANOMALOUS)


@contextmanager
def answering_agent() -> Iterator[tuple[ModbusPlc, list[str], Handshake]]:
    """A connected PLC, the ids of its triggers, and the machine. The answers come after 2 ms: ng, ok, ng, …"""
    asked: SimpleQueue[str | None] = SimpleQueue()
    seen: list[str] = []
    machine = Handshake(asked.put, session=7, result_timeout_s=60, ack_timeout_s=60)
    server = ModbusServer([machine], "127.0.0.1", 0, word_order="high_first")

    def camera() -> None:
        while (trigger_id := asked.get()) is not None:
            time.sleep(0.002)
            seen.append(trigger_id)
            machine.accept(make_result(len(seen), trigger_id=trigger_id, verdict=VERDICTS[len(seen) % 2]))

    worker = threading.Thread(target=camera)
    worker.start()
    with server:
        wait_until(lambda: server.port)
        with ModbusPlc(server.port) as plc:
            plc.connect()
            wait_until(lambda: machine.tick(available=True, program=1) or machine.outputs.trigger_ready)
            yield plc, seen, machine
    asked.put(None)
    worker.join()


@pytest.mark.parametrize("seed", range(2))
def test_triggers_at_any_time_are_answered_once_or_missed(seed: int) -> None:
    with answering_agent() as (plc, seen, _):
        rises, acknowledged = trigger_at_any_time(plc, random.Random(seed), answers=20)
        assert plc.number(MISSED) == rises - acknowledged > 0
        assert plc.number(PART_COUNTER) == acknowledged == len(set(seen)) == len(seen)


def test_nonsense_elsewhere_disturbs_no_cycle() -> None:
    with answering_agent() as (plc, _, _), Nonsense(plc.port, 1, inputs=False) as nonsense:
        assert [plc.inspect(part) for part in range(1, 21)] == ["ng", "ok"] * 10
        assert (plc.number(PART_COUNTER), plc.number(MISSED)) == (20, 0)
        wait_until(lambda: nonsense.sent > 20)


def test_after_nonsense_in_its_own_signals_the_next_cycle_works() -> None:
    with answering_agent() as (plc, seen, machine):
        with Nonsense(plc.port, 2, inputs=True):
            deadline_s = time.monotonic() + 60
            while len(seen) < 5:
                assert time.monotonic() < deadline_s
                machine.program_set(machine.program_to_set, refused=True)
                time.sleep(0.001)
        machine.program_set(machine.program_to_set, refused=True)
        for coil in (TRIGGER, ACK, RESET):
            plc.set(coil, False)
        for word in range(4):
            plc.set_number(word, 0, words=1)
        plc.give_up()
        expected = ["ok" if len(seen) % 2 else "ng", "ng" if len(seen) % 2 else "ok"]
        assert [plc.inspect(), plc.inspect()] == expected
        assert plc.number(PART_COUNTER) == len(set(seen)) == len(seen)
