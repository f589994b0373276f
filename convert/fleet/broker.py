"""The connection to the plant's broker."""

import queue
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from zsad_convert.fleet.devices import Fleet
from zsad_convert.fleet.item import FleetError
from zsad_core.errors import ConfigError
from zsad_core.redaction import redacted

CONNECT_S = 10.0
QUIET_S, COLLECT_S = 1.0, 20.0  # without a retained message, and at most


class Broker:
    """Receives what devices say, and sends commands. It connects again by itself."""

    def __init__(
        self, url: str, prefix: str, *, username: str | None, password_file: Path | None, ca_file: Path | None
    ) -> None:
        """Connects to nothing yet.

        Raises:
            ConfigError: the address or a file cannot be used.
        """
        try:
            parts = urlsplit(url)
            if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or "@" in url or parts.path not in ("", "/"):
                raise ValueError("expected mqtt://host[:port] or mqtts://host[:port], and the user as --username")
            parts.hostname.encode("idna")
            self._address = parts.hostname, parts.port or (8883 if parts.scheme == "mqtts" else 1883)
            if ca_file is not None and parts.scheme == "mqtt":
                raise ValueError("--ca-file needs mqtts://")
            if password_file is not None and username is None:
                raise ValueError("--password-file needs --username")
            self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
            if parts.scheme == "mqtts":
                self._client.tls_set_context(ssl.create_default_context(cafile=ca_file))
            if username is not None:
                secret = None if password_file is None else password_file.read_text().splitlines()[0]
                self._client.username_pw_set(username, secret)
        except (OSError, ValueError, IndexError) as error:
            raise ConfigError(f"--broker {redacted(url)}: {error}") from error
        self.fleet = Fleet(prefix)
        self._prefix = prefix
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answered = threading.Event()
        self._refusal: str | None = None
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = lambda client, userdata, message: self._arrived.put(message)

    def __enter__(self) -> Self:
        """Connects, and collects what the devices have said.

        Raises:
            FleetError: there is no connection.
        """
        host, port = self._address
        try:
            self._client.connect(host, port)
        except OSError as error:
            raise FleetError(f"the broker {host}:{port} cannot be reached: {error}") from error
        self._client.loop_start()
        if not self._answered.wait(CONNECT_S) or self._refusal is not None:
            self.__exit__()
            raise FleetError(f"the broker {host}:{port} {self._refusal or 'does not answer'}")
        began_s = quiet_s = time.monotonic()
        while time.monotonic() < min(began_s + COLLECT_S, quiet_s + QUIET_S):
            if self._take(QUIET_S / 10):
                quiet_s = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, duration_s: float) -> None:
        """Takes what arrives in this time."""
        end_s = time.monotonic() + duration_s
        while (left_s := end_s - time.monotonic()) > 0:
            self._take(left_s)

    def send(self, device_id: str, payload: bytes) -> None:
        """Sends a command, QoS 1. Without a connection it is not sent: it is due again later."""
        if self._client.is_connected():
            self._client.publish(f"{self._prefix}/{device_id}/update/set", payload, qos=1)

    def _take(self, timeout_s: float) -> bool:
        """Whether a retained message of an earlier time has arrived."""
        try:
            message = self._arrived.get(timeout=timeout_s)
        except queue.Empty:
            return False
        self.fleet.take(message.topic, message.payload)
        return bool(message.retain)

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason != 0:
            self._refusal = f"refuses the connection: {reason}"
            self._answered.set()
            return
        client.subscribe([(topic, 1) for topic in self.fleet.topics])

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any) -> None:
        self._refusal = next((f"refuses to be read: {reason}" for reason in reasons if reason.is_failure), None)
        self._answered.set()
