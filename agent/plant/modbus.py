"""The Modbus TCP server. It answers every unit id. A write to anything but the PLC's signals is refused."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from zsad_agent.plant.handshake import Handshake
from zsad_agent.plant.registers import (
    BLOCK,
    INPUT_COILS,
    INPUT_WORDS,
    OUTPUT_END,
    OUTPUTS_AT,
    WordOrder,
    pack,
    unpack,
    unpack_coils,
)
from zsad_agent.system import RestartingService

COILS, WORDS = "modbus coils", "modbus registers"  # the two doors
OF_BITS = {1, 2, 5, 15}  # function codes of coils and discrete inputs; the others are of registers


class ModbusServer(RestartingService):
    """Owns a thread with an event loop. All cameras share one server."""

    name = "modbus"
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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        loop, ended = self._loop, self._ended
        if loop is not None and ended is not None and not loop.is_closed():
            loop.call_soon_threadsafe(ended.set)
        self._wait(deadline_s)

    def _work(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        self._find_port()
        server = ModbusTcpServer(self._device(), address=(self._host, self.port))
        await server.serve_forever(background=True)
        self._works()
        if not self._stop.is_set():
            await self._ended.wait()
        await server.shutdown()

    def _find_port(self) -> None:
        """Sets the port if any will do.

        Raises:
            OSError: the address cannot be used; the library would not say why.
        """
        family, kind, _, _, address = socket.getaddrinfo(self._host, self.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(address)
            self.port = int(trial.getsockname()[1])
        self._place = f"{self._host}:{self.port}"

    def _device(self) -> SimDevice:
        size = BLOCK * len(self._machines)

        def registers() -> list[SimData]:
            return [SimData(address=0, count=size, values=0, datatype=DataType.REGISTERS)]

        def bits() -> list[SimData]:
            count = -(-size // 16) * 16 + 16  # the library marks the last register as invalid
            return [SimData(address=0, count=count, values=False, datatype=DataType.BITS)]

        return SimDevice(id=0, simdata=(bits(), bits(), registers(), registers()), action=self._answer)

    async def _answer(
        self,
        function_code: int,
        start_address: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[Any] | None,
    ) -> ExcCodes | None:
        """Called by the server for each request, before it reads or writes `registers`."""
        for machine in self._machines:
            machine.touch()
        of_bits = function_code in OF_BITS
        if values is None:
            self._refresh(registers, of_bits=of_bits)
            return None
        which, offset = divmod(address, BLOCK)
        if offset + len(values) > (INPUT_COILS if of_bits else INPUT_WORDS):
            return ExcCodes.ILLEGAL_ADDRESS
        coils, words = self._coils[which], self._words[which]
        if of_bits:
            coils[offset : offset + len(values)] = [bool(value) for value in values]
        else:
            words[offset : offset + len(values)] = values
        self._machines[which].write(WORDS, unpack(words, self._order))
        self._machines[which].write(COILS, unpack_coils(coils, words, self._order))
        return None

    def _refresh(self, registers: list[int], *, of_bits: bool) -> None:
        for which, machine in enumerate(self._machines):
            words, coils = pack(machine.outputs, self._order)
            start = which * BLOCK
            if not of_bits:
                registers[start + OUTPUTS_AT : start + OUTPUT_END] = words
                continue
            for at, value in enumerate(coils, start + OUTPUTS_AT):
                register, bit = divmod(at, 16)
                registers[register] = registers[register] & ~(1 << bit) | value << bit
