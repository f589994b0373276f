"""One connection to the broker, from connecting to its end. A new object is made for each attempt.

MQTT 5 is used if the broker supports it, because only there the broker can refuse a message: with MQTT 3.1.1 mosquitto
acknowledges a QoS 1 message that its ACL denies (or that exceeds its `message_size_limit`) as if it were delivered.

paho runs without its own thread (its documented external loop). So one thread owns the socket, the in-flight window and
the spool: no lock is shared with a callback, an error in a callback cannot end a thread that still counts as connected,
a wait between attempts can be interrupted, and no state goes from one connection to the next.
"""

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from zsad_agent.mqtt.credentials import meaning

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
MISC_EVERY_S = 1.0  # interval of the keepalive check
MAX_INCOMING_BYTES = 131_072  # per packet; an MQTT 5 broker sends no larger one
OVERHEAD_BYTES = 16  # of a PUBLISH without topic and payload, at most
UNKNOWN_VERSION = "Unsupported protocol version"


class LinkDownError(Exception):
    """There is no connection, or it has ended; the text says why."""


class LinkSilentError(LinkDownError):
    """The connection is open, but the broker does not answer."""


class LinkCutError(LinkDownError):
    """The broker or the network has ended the connection.

    Args:
        too_large: the broker said that a message was too large for it.
    """

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        super().__init__(reason)
        self.too_large = too_large


class LinkRefusedError(LinkDownError):
    """The broker refused the connection."""


class LinkVersionError(LinkRefusedError):
    """The broker does not support this version of MQTT."""


class LinkUntrustedError(LinkDownError):
    """TLS failed: this side does not trust the broker, or the broker does not trust this side."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The broker's answer to a message (PUBACK) or a subscription (SUBACK)."""

    mid: int
    refusal: str | None  # why the broker refused it; None: accepted


@dataclass(frozen=True, slots=True)
class Arrival:
    topic: str
    payload: bytes
    retained: bool  # stored by the broker earlier, not sent now


@dataclass(slots=True)
class Events:
    """The events of one `poll`: answers, messages, and the end of the connection."""

    published: list[Answer] = field(default_factory=list)
    subscribed: list[Answer] = field(default_factory=list)
    arrived: list[Arrival] = field(default_factory=list)
    end: LinkDownError | None = None


class BrokerConnection:
    """A connection to the broker. Used by one thread.

    Args:
        will: topic and payload that the broker publishes, retained, when the connection ends without DISCONNECT.
        password: never logged.
        tls: checks the broker; None: no TLS.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        client_id: str,
        keepalive_s: int,
        will: tuple[str, str],
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
        username: str | None = None,
        password: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._keepalive_s = keepalive_s
        self._is_mqtt5 = protocol == MQTTProtocolVersion.MQTTv5
        self._tls = tls is not None
        self._accepted = False
        self._max_packet_bytes: int | None = None
        self._receive_maximum = 65_535  # default of MQTT 5; the broker can state less
        self._end: LinkDownError | None = None
        self._events = Events()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            reconnect_on_failure=False,
            clean_session=None if self._is_mqtt5 else True,
        )
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the caller limits the window
        client.will_set(*will, qos=1, retain=True)
        if username is not None:
            client.username_pw_set(username, password)
        if tls is not None:
            client.tls_set_context(tls)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        self._client = client

    @property
    def accepted(self) -> bool:
        """Whether the broker has accepted the connection (CONNACK)."""
        return self._accepted

    @property
    def max_packet_bytes(self) -> int | None:
        """The largest packet that the broker accepts, if it stated one (MQTT 5)."""
        return self._max_packet_bytes

    @property
    def receive_maximum(self) -> int:
        """The most QoS 1 messages that may wait for the broker's answer; with one more it disconnects."""
        return self._receive_maximum

    @property
    def backed_up(self) -> bool:
        """Whether bytes wait here because the network is slow."""
        return self._client.want_write()

    def dial(self) -> None:
        """Opens the connection and sends CONNECT; then `poll` until `accepted`. Blocks for DNS, and at most 5 s each
        for TCP and the TLS handshake.

        Raises:
            LinkDownError: unknown host, nothing listens there, no route.
            LinkUntrustedError: TLS failed.
        """
        properties, clean_start = None, mqtt.MQTT_CLEAN_START_FIRST_ONLY
        if self._is_mqtt5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0
            properties.MaximumPacketSize = MAX_INCOMING_BYTES
            clean_start = True
        try:
            self._client.connect(
                self._host, self._port, self._keepalive_s, clean_start=clean_start, properties=properties
            )
        except (OSError, ValueError) as error:  # ValueError: an invalid host name
            distrust = meaning(error, self._host) if self._tls and isinstance(error, OSError) else None
            if distrust is not None:
                raise LinkUntrustedError(distrust) from error
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise LinkDownError(reason) from error

    def publish(self, topic: str, payload: str | bytes, *, qos: int, retain: bool = False) -> int:
        """Queues a message and returns its message id; the answer to a QoS 1 message has the same id."""
        return self._client.publish(topic, payload, qos=qos, retain=retain).mid

    def subscribe(self, topic: str) -> int:
        """Subscribes to a topic, QoS 1, without its retained message. Returns the message id of the answer."""
        if self._is_mqtt5:
            options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_DO_NOT_SEND)
            _, mid = self._client.subscribe(topic, options=options)
        else:
            _, mid = self._client.subscribe(topic, qos=1)
        return mid or 0  # None: the connection has just ended

    def poll(self, wake: socket.socket, timeout_s: float) -> Events:
        """Sends and receives; returns at the first event, at a byte on `wake`, or after `timeout_s`."""
        sock = self._client.socket()
        if sock is not None:
            decrypted = (
                isinstance(sock, ssl.SSLSocket) and sock.pending() > 0
            )  # read from the socket, but not by paho yet
            poller = select.poll()
            poller.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            poller.register(wake, select.POLLIN)
            events = dict(poller.poll(0 if decrypted else min(timeout_s, MISC_EVERY_S) * 1000))
            if wake.fileno() in events:
                with contextlib.suppress(BlockingIOError):
                    wake.recv(4096)
            if decrypted or events.get(sock.fileno(), 0) & ~select.POLLOUT:
                self._client.loop_read()
            if self._client.want_write():
                self._client.loop_write()
            self._client.loop_misc()
        if self._client.socket() is None and self._end is None:
            self._end = LinkCutError("the connection was closed")
        so_far, self._events = self._events, Events()
        so_far.end = self._end
        return so_far

    def say_goodbye(self) -> None:
        """Sends DISCONNECT: the broker then does not publish the will."""
        self._client.disconnect()

    def drop(self) -> None:
        """Closes the connection at once; without a DISCONNECT the broker publishes the will."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: object,
        reason_code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason_code == 0:
            self._accepted = True
            self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
            self._receive_maximum = getattr(properties, "ReceiveMaximum", self._receive_maximum)
        elif reason_code == UNKNOWN_VERSION:
            self._end = LinkVersionError(str(reason_code))
        else:
            self._end = LinkRefusedError(str(reason_code))

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._accepted = False
        if self._end is not None:
            return
        if flags.is_disconnect_packet_from_server:
            too_large = reason_code == "Packet too large"
            self._end = LinkCutError(f"the broker ended the connection: {reason_code}", too_large=too_large)
        elif reason_code == "Keep alive timeout":
            self._end = LinkDownError(f"no answer for {self._keepalive_s} s")
        else:
            self._end = LinkCutError("the connection was closed")

    def _on_publish(
        self, client: mqtt.Client, userdata: object, mid: int, reason_code: ReasonCode, properties: Properties
    ) -> None:
        self._events.published.append(Answer(mid, str(reason_code) if reason_code.is_failure else None))

    def _on_subscribe(
        self,
        client: mqtt.Client,
        userdata: object,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties,
    ) -> None:
        refusal = next((str(code) for code in reason_codes if code.is_failure), None)
        self._events.subscribed.append(Answer(mid, refusal))

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        self._events.arrived.append(Arrival(message.topic, bytes(message.payload), message.retain))

    def _on_log(self, client: mqtt.Client, userdata: object, level: int, text: str) -> None:
        """Reads paho's log: only there it reports the TLS alert of a broker that refuses our certificate, and an error
        in a callback above.
        """
        if level == LogLevel.MQTT_LOG_ERR and text.startswith("Caught exception"):
            logger.error("defect in the connection to the broker: %s", text)
        if self._tls and not self._accepted and self._end is None and level == LogLevel.MQTT_LOG_ERR:
            distrust = meaning(text, self._host)
            if distrust is not None:
                self._end = LinkUntrustedError(distrust)


Setting = Literal["auto", "5", "3.1.1"]

MEMORY_S = 3600.0  # then MQTT 5 is tried again: the broker may have been updated, or was starting at that time


class ProtocolChoice:
    """MQTT 5 first; 3.1.1 for `MEMORY_S` with a broker that accepted only that."""

    def __init__(
        self, setting: Literal["auto", "5", "3.1.1"], *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._setting = setting
        self._clock_s = clock_s
        self._old_until_s: float | None = None

    def to_try(self) -> tuple[MQTTProtocolVersion, ...]:
        """Versions for the next attempt, in order; the next one is tried if the broker does not support the first."""
        old, new = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
        if self._setting != "auto":
            return (new,) if self._setting == "5" else (old,)
        if self._old_until_s is not None and self._clock_s() < self._old_until_s:
            return (old,)
        return (new, old)

    def worked(self, protocol: MQTTProtocolVersion) -> None:
        """The broker has accepted this version."""
        if protocol == MQTTProtocolVersion.MQTTv5:
            self._old_until_s = None
        elif self._old_until_s is None or self._clock_s() >= self._old_until_s:
            self._old_until_s = self._clock_s() + MEMORY_S

    def failed(self) -> None:
        """The broker has accepted no version."""
        self._old_until_s = None
