"""One connection to the broker, from connecting to its end. A new object is made for each attempt.

MQTT 5 is used if the broker supports it, because only there the broker can refuse a message: with MQTT 3.1.1 mosquitto
acknowledges a QoS 1 message that its ACL denies (or that exceeds its `message_size_limit`) as if it were delivered.

paho runs without its own thread (its documented external loop). So one thread owns the socket, the in-flight window and
the spool: no lock is shared with a callback, and a wait between attempts can be interrupted.
"""

import contextlib
import logging
import math
import select
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from zsad_agent.config import MqttConfig, parse_address
from zsad_agent.mqtt.broker_health import BrokerState, explained
from zsad_agent.mqtt.credentials import make_context, meaning, read_password

logger = logging.getLogger(__name__)

UNANSWERED = "the broker closed the connection instead of an answer. Its log may say why"
DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
CONNECT_TIMEOUT_S = 5.0
MISC_EVERY_S = 1.0  # interval of the keepalive check
MAX_INCOMING_BYTES = 131_072  # per packet; an MQTT 5 broker sends no larger one
CHUNK_BYTES = 65_536  # read at once
OVERHEAD_BYTES = 16  # of a PUBLISH without topic, properties and payload, at most
RESULT_ID = "result_id"


class LinkDownError(Exception):
    """There is no connection, or it has ended; the text says why."""

    state = BrokerState.UNREACHABLE


class LinkSilentError(LinkDownError):
    """The connection is open, but the broker does not answer."""


class LinkCutError(LinkDownError):
    """The broker or the network has ended the connection."""

    def __init__(self, reason: str, *, too_large: bool = False) -> None:
        """`too_large`: the broker said that a message was too large for it."""
        super().__init__(reason)
        self.too_large = too_large


class LinkRefusedError(LinkDownError):
    """The broker refused the connection."""

    state = BrokerState.REFUSED


class LinkVersionError(LinkRefusedError):
    """The broker does not support this version of MQTT."""


class LinkTakenOverError(LinkDownError):
    """Another client with the same client id has connected, so the broker has ended this connection (MQTT 5)."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says about itself, as properties of MQTT 5."""

    media_type: str
    result_id: str | None = None  # user property `result_id`: the result that a picture belongs to

    @property
    def bytes(self) -> int:
        """Size of the properties."""
        of_result = 0 if self.result_id is None else 5 + len(RESULT_ID) + len(self.result_id.encode())
        return 3 + len(self.media_type) + of_result

    def as_properties(self) -> Properties:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ContentType = self.media_type
        if self.result_id is not None:
            properties.UserProperty = (RESULT_ID, self.result_id)
        return properties


JSON = Content("application/json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Will:
    """What the broker publishes when the connection ends without DISCONNECT."""

    topic: str
    payload: str | bytes
    qos: int = 1
    retain: bool = True


class LinkWillError(LinkRefusedError):
    """The broker refuses the will; it may accept the smaller one."""

    def __init__(self, reason: str, smaller: Will) -> None:
        super().__init__(reason)
        self.smaller = smaller


class LinkUntrustedError(LinkDownError):
    """TLS failed: this side does not trust the broker, or the broker does not trust this side."""

    state = BrokerState.UNTRUSTED


@dataclass(frozen=True, slots=True)
class Arrival:
    topic: str
    payload: bytes
    retained: bool  # stored by the broker earlier, not sent now


@dataclass(slots=True)
class Events:
    """The events of one `poll`."""

    # id of a message or subscription -> why the broker refused it; None: accepted
    answers: dict[int, str | None] = field(default_factory=dict)
    arrived: list[Arrival] = field(default_factory=list)
    end: LinkDownError | None = None


def broker_address(config: MqttConfig) -> tuple[str, int]:
    """Host and port of a broker with a URL."""
    address = parse_address(config.broker, DEFAULT_PORTS)
    return address.host, address.port or DEFAULT_PORTS[address.scheme]


class _Client(mqtt.Client):
    """A client that holds at most `MAX_INCOMING_BYTES` of a packet: paho would read all of it, several times.

    MQTT 3.1.1 has no way to forbid a packet of 256 MB, and ending the connection would not help, because a retained
    message comes again over each connection: the rest of the packet is discarded as it arrives. With MQTT 5 the broker
    knows the limit: a larger packet ends the connection when its header has arrived.
    """

    too_large: int | None = None  # bytes of the packet that ended the connection

    def _sock_recv(self, bufsize: int) -> bytes:
        packet = self._in_packet
        size = packet["remaining_length"] + len(packet["remaining_count"]) + 1
        is_refused = self.is_connected() and self._protocol == MQTTProtocolVersion.MQTTv5
        if is_refused and packet["have_remaining"] and size > MAX_INCOMING_BYTES:
            self.too_large = size
            self.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Packet too large"))
            raise ConnectionAbortedError(f"a packet of {size} bytes")
        del packet["packet"][MAX_INCOMING_BYTES:]
        return super()._sock_recv(min(bufsize, CHUNK_BYTES))

    def _sock_send(self, buf: bytes | bytearray) -> int:
        try:
            return super()._sock_send(buf)
        except (BrokenPipeError, ConnectionResetError) as error:  # reading finds the end, after the last answers
            raise BlockingIOError from error


class BrokerConnection:
    """A connection to the broker. Used by one thread.

    Attributes:
        accepted: whether the broker has accepted the connection (CONNACK).
        max_qos: 0 if the broker accepts no QoS 1; `publish` then uses QoS 0.
        retains: whether the broker retains messages; if not, `publish` does not ask for it.
        has_wildcards: whether the broker accepts subscriptions with wildcards.
        assigned_id: the client id, if the broker has chosen it.
        max_packet_bytes: the largest packet that the broker accepts, if it stated one (MQTT 5).
        receive_maximum: the most QoS 1 messages that may wait for the broker's answer; with one more it disconnects.
    """

    def __init__(
        self,
        config: MqttConfig,
        *,
        client_id: str,
        will: Will | None,
        protocol: MQTTProtocolVersion,
        password: str | None = None,
    ) -> None:
        """Reads the files of the password and the certificates. `config` names a broker with a URL.

        `password`: in place of that of `config`.

        Raises:
            ConfigError: a file cannot be used, or there is a password without a username.
        """
        self._host, self._port = broker_address(config)
        self._keepalive_s = config.keepalive_s
        self._will = will
        self._client_id = client_id
        self._is_mqtt5 = protocol == MQTTProtocolVersion.MQTTv5
        tls = make_context(config.tls) if config.broker.startswith("mqtts:") else None
        self._tls = tls is not None
        self.accepted = False
        self.max_packet_bytes: int | None = None
        self.receive_maximum = 65_535  # default of MQTT 5
        self.max_qos, self.retains, self.has_wildcards = 1, True, True
        self.assigned_id: str | None = None
        self._end: LinkDownError | None = None
        self._events = Events()
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=protocol,
            reconnect_on_failure=False,
            clean_session=None if self._is_mqtt5 else True,
        )
        client.suppress_exceptions = True
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(0)  # the caller limits the window
        if will is not None:
            client.will_set(will.topic, will.payload, qos=will.qos, retain=will.retain)
        if config.username is not None:
            client.username_pw_set(config.username, read_password(config) if password is None else password)
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
        properties = None
        if self._is_mqtt5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 0
            properties.MaximumPacketSize = MAX_INCOMING_BYTES
        clean_start = self._is_mqtt5 or mqtt.MQTT_CLEAN_START_FIRST_ONLY
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
        if isinstance(sock := self._client.socket(), socket.socket):  # else a result waits 40 ms for a PUBACK's TCP ACK
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def publish(
        self, topic: str, payload: str | bytes, *, qos: int, retain: bool = False, content: Content | None = None
    ) -> int:
        """Queues a message and returns its message id; the answer to a QoS 1 message has the same id.

        Without QoS 1 at the broker a message counts as answered when the network has it. MQTT 3.1.1 has no place for
        `content`.
        """
        properties = content.as_properties() if content is not None and self._is_mqtt5 else None
        qos, retain = min(qos, self.max_qos), retain and self.retains
        return self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties).mid

    def subscribe(self, topic: str, *, retained: bool = False) -> int:
        """Subscribes to a topic, QoS 1. Returns the message id of the answer.

        `retained`: also asks for retained messages, which MQTT 3.1.1 always sends.
        """
        if self._is_mqtt5:
            handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
            options = SubscribeOptions(qos=1, retainHandling=handling)
            _, mid = self._client.subscribe(topic, options=options)
        else:
            _, mid = self._client.subscribe(topic, qos=1)
        return mid or 0  # None: the connection has just ended

    def unsubscribe(self, topics: list[str]) -> None:
        self._client.unsubscribe(topics)

    def poll(self, wake: socket.socket, timeout_s: float) -> Events:
        """Sends and receives; returns at the first event, at a byte on `wake`, or after `timeout_s`."""
        sock = self._client.socket()
        if sock is not None:
            decrypted = isinstance(sock, ssl.SSLSocket) and sock.pending() > 0  # bytes that poll() does not see
            poller = select.poll()
            poller.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
            poller.register(wake, select.POLLIN)
            at_once = decrypted or bool(self._events.answers)
            events = dict(poller.poll(0 if at_once else min(timeout_s, MISC_EVERY_S, self._keepalive_s / 4) * 1000))
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

    def close(self) -> None:
        """Closes the connection at once; without a DISCONNECT the broker publishes the will."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()

    def _on_connect(self, _c: object, _u: object, _f: object, code: ReasonCode, properties: Properties | None) -> None:
        reason = explained(code, properties)
        will = self._will
        smaller_wills = (
            {}
            if will is None
            else {
                "QoS not supported": replace(will, qos=0),
                "Retain not supported": replace(will, retain=False),
            }
        )
        smaller_will = smaller_wills.get(str(code), will)
        if code == 0:
            self.accepted = True
            self.max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
            self.receive_maximum = getattr(properties, "ReceiveMaximum", self.receive_maximum)
            self.max_qos = min(1, getattr(properties, "MaximumQoS", 1))
            self.retains = bool(getattr(properties, "RetainAvailable", True))
            self.has_wildcards = bool(getattr(properties, "WildcardSubscriptionAvailable", True))
            assigned = getattr(properties, "AssignedClientIdentifier", "")
            self.assigned_id = assigned if assigned not in ("", self._client_id) else None
            self._keepalive_s = self._client.keepalive or self._keepalive_s  # paho has taken the broker's
        elif code == "Unsupported protocol version":
            self._end = LinkVersionError(reason)
        elif smaller_will is not None and smaller_will != will:
            self._end = LinkWillError(reason, smaller_will)
        else:
            self._end = LinkRefusedError(reason)

    def _on_disconnect(
        self, _c: object, _u: object, flags: mqtt.DisconnectFlags, code: ReasonCode, properties: Properties | None
    ) -> None:
        was_accepted, self.accepted = self.accepted, False
        if self._end is not None:
            return
        if self._client.too_large is not None:
            self._end = LinkDownError(
                f"the broker sent a packet of {self._client.too_large} bytes, although the agent accepts at most "
                f"{MAX_INCOMING_BYTES} (Maximum Packet Size). Update the broker, or set mqtt.protocol to 3.1.1: the "
                "agent then discards such a packet"
            )
        elif flags.is_disconnect_packet_from_server:
            reason = f"the broker ended the connection: {explained(code, properties)}"
            if code == "Session taken over":
                self._end = LinkTakenOverError(reason)
            else:
                self._end = LinkCutError(reason, too_large=code == "Packet too large")
        elif code == "Keep alive timeout":
            self._end = LinkDownError(f"no answer for {self._keepalive_s} s")
        elif code == "Protocol error":
            version = "5" if self._is_mqtt5 else "3.1.1"
            self._end = LinkCutError(
                f"the answer is not MQTT {version}. Check the port in mqtt.broker, and mqtt.protocol"
            )
        else:
            self._end = LinkCutError("the connection was closed" if was_accepted else UNANSWERED)

    def _on_publish(self, _c: object, _u: object, mid: int, code: ReasonCode, _p: object) -> None:
        self._events.answers[mid] = str(code) if code.is_failure else None

    def _on_subscribe(self, _c: object, _u: object, mid: int, codes: list[ReasonCode], _p: object) -> None:
        self._events.answers[mid] = next((str(code) for code in codes if code.is_failure), None)

    def _on_message(self, _c: object, _u: object, message: mqtt.MQTTMessage) -> None:
        self._events.arrived.append(Arrival(message.topic, bytes(message.payload), message.retain))

    def _on_log(self, _c: object, _u: object, level: int, text: str) -> None:
        """Finds in paho's log, and only there: a broker's TLS alert about our certificate, an error in a callback."""
        if level == LogLevel.MQTT_LOG_ERR and text.startswith("Caught exception"):
            logger.error("defect in the connection to the broker: %s", text)
        elif self._tls and not self.accepted and self._end is None and level == LogLevel.MQTT_LOG_ERR:
            distrust = meaning(text, self._host)
            if distrust is not None:
                self._end = LinkUntrustedError(distrust)


MEMORY_S = 3600.0  # then MQTT 5 is tried again: the broker may have been updated, or was starting at that time


class ProtocolChoice:
    """MQTT 5 first; 3.1.1 for `MEMORY_S` with a broker that accepted only that."""

    def __init__(
        self, setting: Literal["auto", "5", "3.1.1"], *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._setting = setting
        self._clock_s = clock_s
        self._old_until_s = -math.inf

    def to_try(self) -> tuple[MQTTProtocolVersion, ...]:
        """Versions for the next attempt, in order; the next one is tried if the broker does not support the first."""
        old, new = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
        if self._setting != "auto":
            return (new,) if self._setting == "5" else (old,)
        return (old,) if self._clock_s() < self._old_until_s else (new, old)

    def worked(self, protocol: MQTTProtocolVersion) -> None:
        """The broker has accepted this version."""
        if protocol == MQTTProtocolVersion.MQTTv5:
            self._old_until_s = -math.inf
        elif self._clock_s() >= self._old_until_s:
            self._old_until_s = self._clock_s() + MEMORY_S

    def failed(self) -> None:
        """The broker has accepted no version: the older one is not remembered."""
        self._old_until_s = -math.inf
