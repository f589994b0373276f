"""Misuse of the handshake with a PLC: triggers at the wrong time, and writes of nonsense."""

import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Self

from modbus_plc import ACK, BUSY, RESULTS, TRIGGER, ModbusPlc

INPUT_WORDS, INPUT_COILS, BLOCK = 4, 3, 100  # see zsad-agent plant map
READS, WRITES = (1, 2, 3, 4), (5, 6, 15, 16, 22)


def trigger_at_any_time(plc: ModbusPlc, choice: random.Random, answers: int) -> tuple[int, int]:
    """Sets and clears Trigger whatever the agent says, and sometimes reads and acknowledges.

    Returns:
        Number of rising edges, and of results that were acknowledged.
    """
    rises = acknowledged = 0
    while acknowledged < answers:
        for _ in range(choice.randrange(1, 6)):
            plc.set(TRIGGER, True)
            plc.set(TRIGGER, False)
            rises += 1
        acknowledged += _acknowledge(plc)
    plc.wait(BUSY, False)
    return rises, acknowledged + _acknowledge(plc)


def _acknowledge(plc: ModbusPlc) -> bool:
    status = plc.status()
    if status[RESULTS]:
        assert sum(status[3:6]) == 1, status
        plc.set(ACK, True)
        plc.wait(RESULTS, False)
        plc.set(ACK, False)
    return status[RESULTS]


class Nonsense:
    """A client that sends nonsense in a thread of its own: random functions, addresses, values and bytes.

    Args:
        inputs: it also writes the signals of the PLC; else it leaves them alone.
    """

    def __init__(self, port: int, seed: int, *, inputs: bool) -> None:
        self._port, self._choice, self._inputs = port, random.Random(seed), inputs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                with socket.create_connection(("127.0.0.1", self._port), timeout=60) as connection:
                    for _ in range(self._choice.randrange(1, 100)):
                        if self._stop.is_set():
                            return
                        connection.sendall(self._packet())
                        self.sent += 1
                        if not connection.recv(300):
                            break
        except ConnectionError:
            self._run()  # what is no Modbus ends the connection
        except Exception as error:
            self.error = error

    def _packet(self) -> bytes:
        pick = self._choice
        if pick.random() < 0.1:
            return b"\1" * 4 + pick.randbytes(pick.randrange(4, 200))  # no protocol id
        body = (
            self._request() if pick.random() < 0.9 else bytes([pick.choice((0, 7, 8, 17, 43, 99))]) + pick.randbytes(4)
        )
        return struct.pack(">HHHB", pick.randrange(65_536), 0, len(body) + 1, pick.randrange(256)) + body

    def _request(self) -> bytes:
        pick = self._choice
        if self._inputs and pick.random() < 0.6:  # else the signals would hardly ever all be 0, as for a next trigger
            clear = (b"\x0f\0\0\0\3\1\0", b"\x10\0\0\0\4\x08" + bytes(8), b"\5\0\0\xff\0")
            return pick.choice(clear)
        function = pick.choice(READS + WRITES)
        address = pick.choice((pick.randrange(BLOCK), pick.randrange(65_536)))
        if self._inputs and pick.random() < 0.7:
            address = pick.randrange(INPUT_WORDS)
        elif function in WRITES:
            address = max(address, INPUT_WORDS)
        value = pick.choice((0, 1, 0xFF00, pick.randrange(65_536)))
        if function in (15, 16):
            count = pick.randrange(1, 6)
            size = 2 * count if function == 16 else 1
            return struct.pack(">BHHB", function, address, count, size) + pick.randbytes(size)
        return struct.pack(">BHHH", function, address, value, 0)[: 7 if function == 22 else 5]


class Watcher:
    """Reads StatusWord, ResultId and the verdicts in one request, again and again, until the end of the block."""

    def __init__(self, ask: Callable[[], list[int]]) -> None:
        self._ask = ask
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.shown: dict[int, set[str]] = {}  # ResultId -> verdicts

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while not self._stop.is_set():
            words = self._ask()
            if words[0] >> RESULTS & 1:
                names = [name for bit, name in enumerate(("ok", "ng", "unknown"), 3) if words[0] >> bit & 1]
                self.shown.setdefault(words[8] << 16 | words[9], set()).add("+".join(names))
