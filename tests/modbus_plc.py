"""A PLC program that follows `zsad-agent plant map` over Modbus TCP."""

import time
from typing import Self

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

TRIGGER, ACK, RESET = 0, 1, 2
STATUS = 16  # the first status coil: TriggerReady, Busy, ResultsReady, Ok, Ng, Unknown, Error
READY, BUSY, RESULTS, OK, NG, UNKNOWN, ERROR = range(7)
PART_ID, PART_ID_OUT, PART_COUNTER, MISSED, SESSION, ERROR_CODE = 2, 26, 22, 28, 20, 17
PATIENCE_S = 60.0


class LostError(Exception):
    """The agent does not answer."""


class ModbusPlc:
    """One camera's cycles. Every part gets one verdict: ok, ng, unknown; or lost, which the PLC treats as a reject."""

    def __init__(self, port: int, base: int = 0, host: str = "127.0.0.1", answer_s: float = 30.0) -> None:
        """`answer_s`: longest wait for an answer of the agent."""
        self.port, self._base = port, base
        self._client = ModbusTcpClient(host, port=port, timeout=answer_s, retries=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def connect(self, patience_s: float = PATIENCE_S) -> None:
        """Waits for the agent, and sets all signals to 0."""
        until_s = time.monotonic() + patience_s
        while True:
            try:
                if self.open():
                    for coil in (TRIGGER, ACK, RESET):
                        self.set(coil, False)
                    return
            except LostError:
                pass
            assert time.monotonic() < until_s, "the agent does not listen"
            time.sleep(0.05)

    def give_up(self) -> bool:
        """Ends a cycle from before, whose part is rejected. Returns whether there was one."""
        status = self.status()
        if is_open := status[BUSY] or status[RESULTS]:
            self.set(RESET, True)
            self.set(RESET, False)
        return is_open

    def open(self) -> bool:
        """Connects. Whether the agent accepts it."""
        try:
            self._client.close()
            return bool(self._client.connect())
        except (ModbusException, OSError):
            return False

    def set(self, coil: int, value: bool) -> None:
        self._ask(lambda: self._client.write_coil(self._base + coil, value))

    def status(self) -> list[bool]:
        answer = self._ask(lambda: self._client.read_coils(self._base + STATUS, count=7))
        return list(answer.bits[:7])

    def number(self, register: int, words: int = 2) -> int:
        registers = self.words(register, words)
        return registers[0] if words == 1 else registers[0] << 16 | registers[1]

    def words(self, register: int, count: int) -> list[int]:
        answer = self._ask(lambda: self._client.read_holding_registers(self._base + register, count=count))
        return list(answer.registers)

    def set_number(self, register: int, value: int, words: int = 2) -> None:
        values = [value] if words == 1 else [value >> 16, value & 0xFFFF]
        self._ask(lambda: self._client.write_registers(self._base + register, values))

    def wait(self, bit: int, value: bool = True, patience_s: float = PATIENCE_S) -> list[bool]:
        until_s = time.monotonic() + patience_s
        while (status := self.status())[bit] != value:
            if time.monotonic() > until_s:
                raise LostError(f"bit {bit} of the status is not {value}: {status}")
        return status

    def inspect(self, part_id: int = 0) -> str:
        """One whole cycle.

        Raises:
            LostError: the agent was lost; the part has no verdict.
        """
        self.wait(READY)
        if part_id:
            self.set_number(PART_ID, part_id)
        self.set(TRIGGER, True)
        status = self.wait(RESULTS)
        if part_id and self.number(PART_ID_OUT) != part_id:
            raise LostError("the result is of another part")
        verdicts = [name for name, bit in (("ok", OK), ("ng", NG), ("unknown", UNKNOWN)) if status[bit]]
        assert len(verdicts) == 1, status
        self.set(ACK, True)
        self.wait(RESULTS, False)
        self.set(ACK, False)
        self.set(TRIGGER, False)
        return verdicts[0]

    def _ask(self, request):  # type: ignore[no-untyped-def]
        try:
            answer = request()
        except (ModbusException, OSError) as error:
            raise LostError(str(error)) from error
        if answer.isError():
            raise LostError(str(answer))
        return answer
