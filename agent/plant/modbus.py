"""The Modbus TCP server: the registers of all cameras. It answers every unit id.

Source: Modbus Application Protocol 1.1b3 and Modbus Messaging on TCP/IP 1.0b. Requests of a client are answered in
order, also if several arrive at once.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Sequence
from typing import Any

from zsad_agent.plant.handshake import Handshake
from zsad_agent.plant.registers import (
    BLOCK,
    INPUT_COILS,
    INPUT_WORDS,
    OUTPUTS_AT,
    WordOrder,
    pack,
    unpack,
    unpack_coils,
)
from zsad_agent.system import RestartingService, keep_alive

SERVER = "modbus"
COILS, WORDS = "modbus coils", "modbus registers"  # the two doors
MOST_CLIENTS = 32  # a further one ends the connection that was silent the longest
PAUSE_S = 0.001  # between two requests of a client: one that asks all the time leaves the processor to the inspection
MOST_BITS_READ, MOST_WORDS_READ = 2000, 125  # of one request
HEAD = struct.Struct(">HHHB")  # transaction, protocol 0, bytes that follow, unit
ON, OFF = 0xFF00, 0x0000  # of a single coil
FUNCTION, ADDRESS, VALUE = 1, 2, 3  # exception codes: illegal


class _RefusedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ModbusServer(RestartingService):
    """Owns a thread with an event loop. All cameras share one server."""

    name = SERVER
    stop_s = 0.5

    def __init__(self, machines: Sequence[Handshake], host: str, port: int, *, word_order: WordOrder) -> None:
        """Listens after `start`.

        Args:
            machines: in the order of the blocks of registers.
            host: an address of this machine, without brackets.
            port: 0: any free one.
            word_order: of the values in two registers.
        """
        super().__init__("zsad-modbus", place=f"{host}:{port}")
        self._machines = machines
        self._host, self.port = host, port
        self._order: WordOrder = word_order
        self._coils = [[False] * INPUT_COILS for _ in machines]
        self._words = [[0] * INPUT_WORDS for _ in machines]
        self._clients: dict[asyncio.StreamWriter, float] = {}  # when it last asked, monotonic seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._functions: dict[int, Callable[[bytes], bytes]] = {
            1: self._read_bits,
            2: self._read_bits,
            3: self._read_words,
            4: self._read_words,
            5: self._write_coil,
            6: self._write_word,
            15: self._write_coils,
            16: self._write_words,
            22: self._mask_word,
            23: self._write_and_read_words,
        }

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(ended.set)
        self._wait(deadline_s)

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._converse, sock=self._bound())
        self._works()
        if not self._stop.is_set():
            await self._ended.wait()
        server.close()
        while self._clients:  # each ends as soon as it notices
            for client in self._clients:
                client.transport.abort()
            await asyncio.sleep(0.005)

    def _bound(self) -> socket.socket:
        family, kind, _, _, address = socket.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keep_alive(listener)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        self.port = int(listener.getsockname()[1])
        self._place = f"{self._host}:{self.port}"
        return listener

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client until it ends the connection or sends something else than Modbus."""
        if len(self._clients) >= MOST_CLIENTS:
            silent = min(self._clients, key=lambda client: self._clients[client])
            del self._clients[silent]
            silent.transport.abort()
        try:
            while True:
                self._clients[writer] = time.monotonic()
                transaction, protocol, length, unit = HEAD.unpack(await reader.readexactly(HEAD.size))
                if protocol != 0 or not 2 <= length <= 254:
                    return
                answer = self._answer(await reader.readexactly(length - 1))
                writer.write(HEAD.pack(transaction, 0, len(answer) + 1, unit) + answer)
                await writer.drain()  # a client that does not read is not read either
                await asyncio.sleep(PAUSE_S)
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._clients.pop(writer, None)
            writer.close()

    def _answer(self, request: bytes) -> bytes:
        """Function code and what follows it, of the answer to a request."""
        for machine in self._machines:
            machine.touch(SERVER)
        code = request[0]
        try:
            if code not in self._functions:
                raise _RefusedError(FUNCTION)
            return bytes([code]) + self._functions[code](request[1:])
        except _RefusedError as error:
            return bytes([code | 0x80, error.code])

    def _read_bits(self, body: bytes) -> bytes:
        start, count = self._range(body, MOST_BITS_READ)
        bits = self._values(self._coils, 1, start, count)
        packed = sum(bit << at for at, bit in enumerate(bits))
        size = -(-count // 8)
        return bytes([size]) + packed.to_bytes(size, "little")

    def _read_words(self, body: bytes) -> bytes:
        start, count = self._range(body, MOST_WORDS_READ)
        return struct.pack(f">B{count}H", 2 * count, *self._values(self._words, 0, start, count))

    def _values(self, written: Sequence[Sequence[int]], part: int, start: int, count: int) -> list[int]:
        """The values from address `start` on: what the PLC has `written`, and the `part` of `pack`."""
        first, after = start // BLOCK, -(-(start + count) // BLOCK)  # packing all cameras would take 50 µs for each
        values = [0] * (BLOCK * (after - first))
        for number in range(first, after):
            at = BLOCK * (number - first)
            _put(values, at, written[number])
            _put(values, at + OUTPUTS_AT, pack(self._machines[number].outputs, self._order)[part])
        return values[start - BLOCK * first :][:count]

    def _write_coil(self, body: bytes) -> bytes:
        address, value = _fields(">HH", body)
        if value not in (ON, OFF):
            raise _RefusedError(VALUE)
        self._write(self._coils, address, [value == ON])
        return body

    def _write_word(self, body: bytes) -> bytes:
        address, value = _fields(">HH", body)
        self._write(self._words, address, [value])
        return body

    def _write_coils(self, body: bytes) -> bytes:
        address, count, size = _fields(">HHB", body[:5])
        if count == 0 or size != -(-count // 8) or len(body) != 5 + size:
            raise _RefusedError(VALUE)
        packed = int.from_bytes(body[5:], "little")
        self._write(self._coils, address, [bool(packed >> at & 1) for at in range(count)])
        return body[:4]

    def _write_words(self, body: bytes) -> bytes:
        address, count, size = _fields(">HHB", body[:5])
        if count == 0 or size != 2 * count:
            raise _RefusedError(VALUE)
        self._write(self._words, address, _fields(f">{count}H", body[5:]))
        return body[:4]

    def _mask_word(self, body: bytes) -> bytes:
        address, kept, added = _fields(">HHH", body)
        which, offset = self._place_of(self._words, address, 1)
        self._write(self._words, address, [self._words[which][offset] & kept | added & ~kept & 0xFFFF])
        return body

    def _write_and_read_words(self, body: bytes) -> bytes:
        self._range(body[:4], MOST_WORDS_READ)  # nothing is written if the reading is refused
        self._write_words(body[4:])
        return self._read_words(body[:4])

    @property
    def _size(self) -> int:
        return BLOCK * len(self._machines)

    def _range(self, body: bytes, most: int) -> tuple[int, int]:
        """First address and number of what is to be read."""
        start, count = _fields(">HH", body)
        if not 1 <= count <= most:
            raise _RefusedError(VALUE)
        if start + count > self._size:
            raise _RefusedError(ADDRESS)
        return start, count

    def _place_of(self, blocks: Sequence[Sequence[int]], address: int, count: int) -> tuple[int, int]:
        """The camera's number, and the offset of its signals that are to be written."""
        which, offset = divmod(address, BLOCK)
        if which >= len(blocks) or offset + count > len(blocks[which]):
            raise _RefusedError(ADDRESS)
        return which, offset

    def _write(self, blocks: Sequence[list[int]] | Sequence[list[bool]], address: int, values: Sequence[int]) -> None:
        which, offset = self._place_of(blocks, address, len(values))
        _put(blocks[which], offset, values)
        coils, words = self._coils[which], self._words[which]
        self._machines[which].write(WORDS, unpack(words, self._order))
        self._machines[which].write(COILS, unpack_coils(coils, words, self._order))


def _put(values: list[Any], at: int, some: Sequence[int]) -> None:
    values[at : at + len(some)] = some


def _fields(layout: str, body: bytes) -> tuple[int, ...]:
    if len(body) != struct.calcsize(layout):
        raise _RefusedError(VALUE)
    return struct.unpack(layout, body)
