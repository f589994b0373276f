"""One connection to the broker, from dialling to its end. A new one is made for each attempt.

MQTT 3.1.1: every broker in use speaks it, the embedded one only it, and nothing published here needs MQTT 5.

paho runs without its own thread (its documented external loop), so that one thread owns the socket, the in-flight
window and the spool: no lock is shared with a callback, an error in a callback cannot leave a dead thread that calls
itself connected, a wait between attempts can be cut short, and nothing survives from one connection to the next.
"""

import contextlib
import select
import socket

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

CONNECT_TIMEOUT_S = 5.0
MISC_EVERY_S = 1.0  # keepalive is looked at this often


class LinkDownError(Exception):
    """There is no connection, or no more; the text says why."""


class LinkRefusedError(LinkDownError):
    """The broker answered, and said no."""


class MqttLink:
    """A connection to the broker. Used by one thread.

    Args:
        will: topic and payload that the broker publishes, retained, when the connection ends without a goodbye.
        password: not logged, not shown.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        keepalive_s: int,
        will: tuple[str, str],
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._keepalive_s = keepalive_s
        self._accepted = False
        self._refused: str | None = None
        self._ended: str | None = None
        self._acknowledged: list[int] = []
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv311, reconnect_on_failure=False
        )
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the window is the caller's
        client.will_set(*will, qos=1, retain=True)
        if username is not None:
            client.username_pw_set(username, password)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        self._client = client

    @property
    def accepted(self) -> bool:
        """Whether the broker has taken the connection (CONNACK)."""
        return self._accepted

    @property
    def backed_up(self) -> bool:
        """Whether bytes wait here because the network takes no more."""
        return self._client.want_write()

    def dial(self) -> None:
        """Opens the TCP connection and asks the broker in; `poll` until `accepted`. Blocks for at most 5 s and DNS.

        Raises:
            LinkDownError: no such host, nobody listens, no route.
        """
        try:
            self._client.connect(self._host, self._port, self._keepalive_s)
        except (OSError, ValueError) as error:  # ValueError: a host name that cannot be one
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LinkDownError(reason) from error

    def publish(self, topic: str, payload: str | bytes, *, qos: int, retain: bool = False) -> int:
        """Hands a message over and returns its message id, which `poll` gives back when a QoS 1 message has arrived."""
        return self._client.publish(topic, payload, qos=qos, retain=retain).mid

    def poll(self, wake: socket.socket, timeout_s: float) -> list[int]:
        """Sends and receives what there is; returns at the first event, a byte on `wake`, or after `timeout_s`.

        Returns:
            ids of the QoS 1 messages that the broker has acknowledged.

        Raises:
            LinkRefusedError: the broker turned the connection down.
            LinkDownError: the connection has ended.
        """
        sock = self._client.socket()
        if sock is not None:
            poller = select.poll()
            poller.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            poller.register(wake, select.POLLIN)
            events = dict(poller.poll(min(timeout_s, MISC_EVERY_S) * 1000))
            if wake.fileno() in events:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)
            if events.get(sock.fileno(), 0) & ~select.POLLOUT:
                self._client.loop_read()
            if self._client.want_write():
                self._client.loop_write()
            self._client.loop_misc()
        if self._refused is not None:
            raise LinkRefusedError(self._refused)
        if self._client.socket() is None:
            raise LinkDownError(self._ended or "the connection was closed")
        acknowledged, self._acknowledged = self._acknowledged, []
        return acknowledged

    def say_goodbye(self) -> None:
        """Ends the connection in order: the broker then keeps the will to itself."""
        self._client.disconnect()

    def drop(self) -> None:
        """Ends the connection at once; if there was no goodbye, the broker publishes the will."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _on_connect(
        self, client: mqtt.Client, userdata: object, flags: object, reason_code: ReasonCode, properties: object
    ) -> None:
        if reason_code == 0:
            self._accepted = True
        else:
            self._refused = str(reason_code)

    def _on_disconnect(
        self, client: mqtt.Client, userdata: object, flags: object, reason_code: ReasonCode, properties: object
    ) -> None:
        self._accepted = False
        silent = reason_code == "Keep alive timeout"
        self._ended = f"no sign of life for {self._keepalive_s} s" if silent else "the connection was closed"

    def _on_publish(
        self, client: mqtt.Client, userdata: object, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._acknowledged.append(mid)
