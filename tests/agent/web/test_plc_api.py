"""The test of the PLC's wiring: a real handshake, Modbus server and client, and the page's API."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from modbus_plc import ACK, ERROR_CODE, MISSED, NG, OK, PART_ID_OUT, READY, RESULTS, TRIGGER, ModbusPlc
from mqtt_listener import wait_until
from page_server import Client, make_server

from zsad_agent.plant import NO_PART, ErrorCode, ModbusServer, PlantStations

DRY_TEST = "/cameras/cam0/plc/dry-test"
SETTINGS = {"plant": {"modbus": {"listen": "127.0.0.1:1502"}}, "source": {"camera": "0", "trigger": "mqtt"}}


def station(name: str, asked: list[str], *, triggered: bool = True) -> Any:
    capture = SimpleNamespace(triggered=triggered, paused=False, trigger=asked.append)
    status = SimpleNamespace(fault_of=lambda cause: None)
    return SimpleNamespace(name=name, capture=capture, status=status, inspector=SimpleNamespace(product="nut"))


@dataclass
class Wiring:
    client: Client
    plc: ModbusPlc
    asked: list[str]  # trigger ids

    def show(self) -> Any:
        return self.client.ask("GET", "/plc").json

    def start(self, verdict: str) -> None:
        """Once it is not refused any more."""
        wait_until(lambda: self.client.ask("POST", DRY_TEST, {"verdict": verdict}).status == 200)


@pytest.fixture
def wiring(tmp_path: Path) -> Iterator[Wiring]:
    asked: list[str] = []
    stations = [station("cam0", asked), station("free", asked, triggered=False)]
    unused: Any = None
    plant = PlantStations(stations[:1], unused, programs=(), result_timeout_s=1, ack_timeout_s=60)
    modbus = ModbusServer(list(plant.machines.values()), "127.0.0.1", 0, word_order="high_first")
    with plant, modbus:
        wait_until(lambda: modbus.port and modbus.fault is None)
        snapshot = SimpleNamespace(service_faults={})
        server = make_server(tmp_path, settings=SETTINGS, plc=plant, stations=stations, snapshot=lambda: snapshot)
        with server, ModbusPlc(modbus.port) as plc:
            assert server.port is not None
            yield Wiring(Client(server.port).open(), plc, asked)


def test_a_dry_test_is_seen_by_the_plc_and_no_part_passes(wiring: Wiring) -> None:
    plc, client = wiring.plc, wiring.client
    refused = client.ask("POST", DRY_TEST, {"verdict": "ok"})
    assert refused.status == 409 and "Connect the PLC first" in refused.error
    assert "Trigger         bit   0 [1]" in client.ask("GET", "/plc/map").body.decode()
    assert wiring.show()["doors"] == [{"name": "modbus", "listen": "127.0.0.1:1502", "fault": None, "silent_s": None}]
    plc.connect()
    plc.wait(READY)

    wiring.start("ok")
    assert not plc.status()[READY]
    shown = plc.wait(OK)
    assert shown[RESULTS] and not shown[READY] and not shown[NG]
    assert (plc.number(PART_ID_OUT), plc.number(ERROR_CODE, 1)) == (NO_PART, ErrorCode.DRY_TEST)
    (camera,) = wiring.show()["cameras"]
    assert camera["state"] == "dry_test" and 0 < camera["dry_test_left_s"] <= 11
    assert camera["to_plc"]["Ok"] is True and camera["seen_s"] == {}

    plc.set(TRIGGER, True)
    missed = plc.status()
    assert not (missed[OK] or missed[RESULTS] or missed[READY])
    assert (plc.number(MISSED), plc.number(ERROR_CODE, 1), wiring.asked) == (1, ErrorCode.DRY_TEST, [])
    refused = client.ask("POST", DRY_TEST, {"verdict": "ok"})
    assert refused.status == 409 and "the PLC holds Trigger at 1" in refused.error
    (camera,) = wiring.show()["cameras"]
    assert camera["from_plc"]["modbus coils"]["Trigger"] is True and camera["seen_s"].keys() == {"Trigger"}
    plc.set(TRIGGER, False)

    wiring.start("anomalous")
    assert not plc.wait(NG)[OK]
    plc.set(ACK, True)
    assert not any(plc.status()[:6])
    plc.set(ACK, False)
    assert plc.wait(READY)
    assert wiring.show()["cameras"][0]["seen_s"].keys() == {"Trigger", "ResultsAck"}

    wiring.start("unknown")
    assert client.ask("DELETE", DRY_TEST).json["cameras"][0]["dry_test_left_s"] is None
    assert plc.wait(READY)
    audit = [line["after"] for line in client.ask("GET", "/audit").json if line["what"] == "cam0 PLC dry test"]
    assert audit == ["ended", "unknown", "anomalous", "ok"]
    plc.set(TRIGGER, True)
    wait_until(lambda: wiring.asked)


def test_what_cannot_be_tested_is_refused(wiring: Wiring, tmp_path: Path) -> None:
    ask = wiring.client.ask
    assert ask("POST", "/cameras/cam9/plc/dry-test", {"verdict": "ok"}).status == 404
    free = ask("POST", "/cameras/free/plc/dry-test", {"verdict": "ok"})
    assert free.status == 409 and "free has no handshake with the PLC. Set trigger: plc" in free.error
    assert ask("POST", DRY_TEST, {"verdict": "paused"}).status == ask("POST", DRY_TEST, {}).status == 422
    with make_server(tmp_path / "off", stations=[station("cam0", [])]) as server:
        client = Client(server.port or 0).open()
        assert client.ask("GET", "/plc").json == {"doors": [], "cameras": []}
        refused = client.ask("POST", DRY_TEST, {"verdict": "ok"})
        assert refused.status == 409 and "Set plant.modbus.listen or plant.opcua.listen" in refused.error
