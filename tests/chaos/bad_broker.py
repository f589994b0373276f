"""A faulty broker: it refuses connections, does not answer, or reads messages without acknowledging them."""

import contextlib
import socket
import threading
from typing import Literal, Self

import mqtt_wire

Fault = Literal["refuses", "mute", "acknowledges nothing"]
NOT_AUTHORISED = {4: 5, 5: 0x87}  # MQTT level -> reason code


class BadBroker:
    """Listens on the port of a broker that is stopped."""

    def __init__(self, port: int, fault: Fault) -> None:
        self._fault = fault
        self._server = socket.create_server(("127.0.0.1", port))
        self._clients: list[socket.socket] = []
        self.connects = 0  # CONNECT packets of agents
        self.publishes = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for client in self._clients:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._clients.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        buffer = bytearray()
        with contextlib.suppress(OSError):
            while chunk := client.recv(65_536):
                buffer += chunk
                for kind, _, body in mqtt_wire.split(buffer):
                    if not self._answer(client, kind, body):
                        client.shutdown(socket.SHUT_RDWR)
                        return

    def _answer(self, client: socket.socket, kind: int, body: bytes) -> bool:
        """Gives False to end the connection."""
        if kind == mqtt_wire.CONNECT:
            level = body[6]
            self.connects += b"zsad-agent" in body
            refused = self._fault == "refuses"
            if self._fault != "mute":
                answer = bytes([0, NOT_AUTHORISED[level] if refused else 0]) + (b"\0" if level == 5 else b"")
                client.sendall(mqtt_wire.packet(mqtt_wire.CONNACK, 0, answer))
            return not refused
        self.publishes += kind == mqtt_wire.PUBLISH
        if kind == mqtt_wire.PINGREQ:
            client.sendall(mqtt_wire.packet(mqtt_wire.PINGRESP, 0, b""))
        return True
