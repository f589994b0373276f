"""A PLC program over OPC UA, without certificates."""

import asyncio
import contextlib
from typing import Any

from asyncua import ua
from asyncua.sync import Client
from modbus_plc import ERROR_CODE, MISSED, PART_COUNTER, PART_ID, PART_ID_OUT, SESSION, LostError, ModbusPlc

INPUTS = ("Trigger", "ResultsAck", "Reset")
BITS = ("TriggerReady", "Busy", "ResultsReady", "Ok", "Ng", "Unknown", "Error")
NUMBERS = {
    PART_ID: "PartId",
    PART_ID_OUT: "PartIdOut",
    PART_COUNTER: "PartCounter",
    MISSED: "Missed",
    SESSION: "Session",
    ERROR_CODE: "ErrorCode",
}
ERRORS = (ua.UaError, OSError, TimeoutError, asyncio.TimeoutError, RuntimeError)


class OpcUaPlc(ModbusPlc):
    """As `ModbusPlc`; registers are named by their address there."""

    def __init__(self, port: int, host: str = "127.0.0.1", answer_s: float = 30.0) -> None:
        self.port, self._answer_s = port, answer_s
        self._url = f"opc.tcp://{host}:{port}/zsad"
        self._session: Client | None = None
        self._space = 0

    def __exit__(self, *_: object) -> None:
        if self._session is not None:
            with contextlib.suppress(*ERRORS):
                self._session.disconnect()

    def open(self) -> bool:
        self.__exit__()
        self._session = Client(self._url, timeout=self._answer_s)
        try:
            self._session.connect()
            self._space = self._session.get_namespace_index("urn:zsad:machine-vision")
        except ERRORS:
            return False
        return True

    def set(self, coil: int, value: bool) -> None:
        self._ask(lambda: self._node(INPUTS[coil]).write_value(value, ua.VariantType.Boolean))

    def status(self) -> list[bool]:
        nodes = [self._node(name) for name in BITS]
        return self._ask(lambda: self._client_values(nodes))  # type: ignore[no-any-return]

    def number(self, register: int, words: int = 2) -> int:
        return self._ask(lambda: self._node(NUMBERS[register]).read_value())  # type: ignore[no-any-return]

    def set_number(self, register: int, value: int, words: int = 2) -> None:
        self._ask(lambda: self._node(NUMBERS[register]).write_value(value, ua.VariantType.UInt32))

    def _node(self, name: str) -> Any:
        assert self._session is not None
        return self._session.get_node(ua.NodeId(ua.String(f"cam0.Signals.{name}"), ua.Int16(self._space)))

    def _client_values(self, nodes: list[Any]) -> list[bool]:
        assert self._session is not None
        return [bool(value) for value in self._session.read_values(nodes)]

    def _ask(self, request: Any) -> Any:
        try:
            return request()
        except ERRORS as error:
            raise LostError(str(error)) from error
