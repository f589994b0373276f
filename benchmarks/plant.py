"""Measures the time from a trigger to the verdict at a client: Modbus TCP, OPC UA and MQTT, with one real agent.

    python benchmarks/plant.py --json plant.json

The camera is a folder of pictures that are read at the trigger. The clients ask again as soon as they have an answer.
In turns each door inspects some parts, so other load changes the ratios less than the times. Takes about a minute.
Needs mosquitto and the extra `plant`.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from asyncua import ua
from asyncua.sync import Client, SyncNode
from paho.mqtt.enums import CallbackAPIVersion
from pymodbus.client import ModbusTcpClient

ROOT = Path(__file__).parents[1]
DEVICE = "bench"
START_S = 60.0
TRIGGER, ACK, READY, RESULTS = 0, 1, 16, 18  # coils, see zsad-agent plant map


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def until(condition: Callable[[], bool]) -> None:
    """Asks again and again."""
    end_s = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > end_s:
            raise SystemExit("no answer: see the log of the agent above")


class Modbus:
    """A PLC on Modbus TCP."""

    def __init__(self, port: int) -> None:
        self._client = ModbusTcpClient("127.0.0.1", port=port)
        until(lambda: bool(self._client.connect()))
        until(lambda: self._bit(READY))

    def close(self) -> None:
        """Ends the connection."""
        self._client.close()

    def _bit(self, coil: int) -> bool:
        return bool(self._client.read_coils(coil, count=1).bits[0])

    def inspect(self) -> float:
        """Milliseconds from the trigger to the verdict."""
        until(lambda: self._bit(READY))
        begun_s = time.perf_counter()
        self._client.write_coil(TRIGGER, True)
        until(lambda: self._bit(RESULTS))
        took_ms = 1000 * (time.perf_counter() - begun_s)
        self._client.write_coil(ACK, True)
        until(lambda: not self._bit(RESULTS))
        self._client.write_coil(ACK, False)
        self._client.write_coil(TRIGGER, False)
        return took_ms


class OpcUa:
    """A PLC on OPC UA, without certificates."""

    def __init__(self, port: int) -> None:
        self._client = Client(f"opc.tcp://127.0.0.1:{port}/zsad", timeout=60)
        end_s = time.monotonic() + START_S
        while True:
            try:
                self._client.connect()
                break
            except (TimeoutError, OSError):
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.2)
        self._space = self._client.get_namespace_index("urn:zsad:machine-vision")
        self._ready, self._results = self._node("TriggerReady"), self._node("ResultsReady")
        self._trigger, self._ack = self._node("Trigger"), self._node("ResultsAck")

    def close(self) -> None:
        """Ends the connection and its thread, which the process would wait for."""
        self._client.disconnect()

    def _node(self, name: str) -> SyncNode:
        return self._client.get_node(ua.NodeId(ua.String(f"cam0.Signals.{name}"), ua.Int16(self._space)))

    def inspect(self) -> float:
        """Milliseconds from the trigger to the verdict."""
        until(lambda: bool(self._ready.read_value()))
        begun_s = time.perf_counter()
        self._trigger.write_value(True)
        until(lambda: bool(self._results.read_value()))
        took_ms = 1000 * (time.perf_counter() - begun_s)
        self._ack.write_value(True)
        until(lambda: not self._results.read_value())
        self._ack.write_value(False)
        self._trigger.write_value(False)
        return took_ms


class Mqtt:
    """A program on MQTT."""

    def __init__(self, port: int) -> None:
        self._arrived = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda *_: self._arrived.set()
        self._client.on_socket_open = _without_delay
        self._client.connect("127.0.0.1", port)
        self._client.subscribe(f"zsad/{DEVICE}/cam0/result", qos=1)
        self._client.loop_start()

    def close(self) -> None:
        """Ends the connection."""
        self._client.loop_stop()

    def inspect(self) -> float:
        """Milliseconds from the trigger to the result."""
        self._arrived.clear()
        begun_s = time.perf_counter()
        self._client.publish(f"zsad/{DEVICE}/cam0/trigger", b"", qos=1)
        if not self._arrived.wait(START_S):
            raise SystemExit("no result over MQTT")
        return 1000 * (time.perf_counter() - begun_s)


def _without_delay(client: object, userdata: object, sock: socket.socket) -> None:
    """Else the next trigger waits 40 ms for the TCP acknowledgement of the PUBACK before it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def running(bundle: str, source: Path, *, tcp_nodelay: bool) -> Iterator[dict[str, Any]]:
    """Broker and agent until the end of the block. Gives the doors by name."""
    with tempfile.TemporaryDirectory() as folder:
        modbus, opcua, broker = free_port(), free_port(), free_port()
        of_broker = Path(folder, "mosquitto.conf")
        of_broker.write_text(
            f"listener {broker} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay {str(tcp_nodelay).lower()}\n"
        )
        config = Path(folder, "agent.yaml")
        config.write_text(
            f"device_id: {DEVICE}\ninference: {{bundle: {bundle}}}\nmqtt: {{broker: 'mqtt://127.0.0.1:{broker}'}}\n"
            f"source: {{source: {source.resolve()}, loop: true, trigger: mqtt}}\nhttp: {{listen: 'off'}}\n"
            f"plant:\n  modbus: {{listen: '127.0.0.1:{modbus}'}}\n"
            f"  opcua: {{listen: '127.0.0.1:{opcua}', certificates: false}}\n"
        )
        places = {"STATE_DIRECTORY": str(Path(folder, "state")), "CACHE_DIRECTORY": str(Path(folder, "cache"))}
        command = [sys.executable, "-m", "zsad_agent.cli", "--config", str(config)]
        path = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
        with (
            subprocess.Popen(["mosquitto", "-c", str(of_broker)], env=path, stderr=subprocess.DEVNULL) as mosquitto,
            subprocess.Popen(command, env={**os.environ, **places}, stdout=subprocess.DEVNULL) as process,
        ):
            doors: dict[str, Any] = {}
            try:
                for name, door, port in (
                    ("Modbus TCP", Modbus, modbus),
                    ("OPC UA", OpcUa, opcua),
                    ("MQTT", Mqtt, broker),
                ):
                    doors[name] = door(port)
                yield doors
            finally:
                for door in doors.values():
                    door.close()
                process.kill()
                mosquitto.kill()


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", default="zsad-tiny")
    parser.add_argument("--source", type=Path, default=ROOT / "demo/stream", help="folder of pictures")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--parts", type=int, default=10, help="of a door in each round (default: %(default)s)")
    parser.add_argument("--tcp-nodelay", action="store_true", help="mosquitto with set_tcp_nodelay true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    times_ms: defaultdict[str, list[float]] = defaultdict(list)
    with running(arguments.bundle, arguments.source, tcp_nodelay=arguments.tcp_nodelay) as doors:
        for door in doors.values():
            door.inspect()
        for _ in range(arguments.rounds):
            for name, door in doors.items():
                times_ms[name] += [door.inspect() for _ in range(arguments.parts)]
    rows = [
        {"door": name, "parts": len(times), **dict(zip(("p50_ms", "p99_ms"), _quantiles(times), strict=True))}
        for name, times in times_ms.items()
    ]
    print("|door|parts|p50 ms|p99 ms|\n|---|---:|---:|---:|")
    for row in rows:
        print(f"|{row['door']}|{row['parts']}|{row['p50_ms']:.1f}|{row['p99_ms']:.1f}|")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _quantiles(values: list[float]) -> tuple[float, float]:
    cut = statistics.quantiles(values, n=100)
    return cut[49], cut[98]


if __name__ == "__main__":
    raise SystemExit(main())
