"""Sends and receives over one connection to the broker, from the first message to the goodbye."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from zsad_agent.messages import OFFLINE, ONLINE, Topics, mark_replayed
from zsad_agent.mqtt.broker_health import BrokerHealth
from zsad_agent.mqtt.connection import (
    OVERHEAD_BYTES,
    Answer,
    BrokerConnection,
    Events,
    LinkCutError,
    LinkDownError,
    LinkSilentError,
)
from zsad_agent.mqtt.live_messages import LivePictures, RetainedStatuses
from zsad_agent.mqtt.size_limits import SizeLimits
from zsad_agent.mqtt.subscriptions import Subscriptions
from zsad_agent.spool import Outbox
from zsad_agent.system import Backoff

logger = logging.getLogger(__name__)

GOODBYE_S = 0.5  # longest wait for outstanding acknowledgements: a stop has 2 s in all
IDLE_S = 1.0  # longest sleep without an event
UNTIDY_S = 0.1  # longest sleep while acknowledged results are still in the spool
HOLD_MIN_S, HOLD_MAX_S = 1.0, 30.0  # back-off before results that the broker refused are tried again
ASK_AGAIN_S = 60.0  # before a refused subscription is tried again
STATUS_HOLD_MAX_S = 60.0  # longest back-off, from HOLD_MIN_S, before a refused retained status is sent again
RESULTS, EVIDENCE = "results", "evidence"  # keys of refusals that are not about one topic


@dataclass(kw_only=True, slots=True)
class SendCounts:
    """Counts over all connections. Only the sending thread writes them."""

    acknowledged: int = 0  # results that the broker has
    replayed: int = 0  # results sent as `replayed`
    evidence: int = 0  # evidence pictures that the broker has
    connections: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class SendState:
    """State that the accepting threads and the sending thread share."""

    outbox: Outbox
    pictures: LivePictures  # each belongs to a result
    snapshots: LivePictures  # pictures without a result
    incoming: Subscriptions
    sizes: SizeLimits
    health: BrokerHealth
    statuses: RetainedStatuses
    tally: SendCounts
    wake: socket.socket  # a byte arrives when there is something to send, or at a stop
    stopping: threading.Event
    on_settled: Callable[[], None]  # called when a result is acknowledged or given up


@dataclass(frozen=True, slots=True)
class _Sent:
    """A QoS 1 message in flight."""

    entry_id: int | None  # id of the result; None: not a result
    at_s: float
    number: int  # see `SizeLimits`
    topic: str
    payload: str | bytes

    @property
    def size(self) -> int:
        return packet_bytes(self.topic, self.payload)


@dataclass(slots=True)
class _Refused:
    """A retained status that the broker refused."""

    payload: bytes
    backoff: Backoff
    due_s: float


class Session:
    """Sends results through a window of unacknowledged ones. Made for one connection, used by one thread.

    A result that the broker refuses (MQTT 5: not authorised, over quota) stays in the spool. When all results in flight
    are answered, one is tried again after a while, and the rest once that one is accepted. The order is kept, except
    for results that were in flight together with the first refused one.

    One evidence picture at a time is in flight in addition to the window: pictures and results do not delay each other.

    A retained status that the broker refuses is sent again after a while and delays nothing.

    The number of QoS 1 messages in flight, of all kinds together, never exceeds the broker's Receive Maximum.
    """

    def __init__(
        self, link: BrokerConnection, exchange: SendState, topics: Topics, *, window: int, ack_timeout_s: float
    ) -> None:
        self._link = link
        self._exchange = exchange
        self._topics = topics
        self._window = window
        self._ack_timeout_s = ack_timeout_s
        self._in_flight: dict[int, _Sent] = {}  # by message id
        self._asked: dict[int, str] = {}  # message id of a subscription -> its topic
        self._ask_again: dict[str, float] = {}  # topics whose subscription was refused -> when to try again
        self._refused: dict[str, _Refused] = {}  # retained statuses, by topic
        self._answered = False  # the broker has accepted a message over this connection
        self._held_until_s: float | None = None  # no results before this time, because the broker refuses them
        self._backoff = Backoff(HOLD_MIN_S, HOLD_MAX_S)
        self._probing = False  # one result at a time, to check whether the broker accepts results again
        self._evidence: dict[int, int] = {}  # message id -> picture id of the picture in flight
        self._evidence_held_until_s = 0.0  # no picture before this time, because the broker refuses them
        self._evidence_backoff = Backoff(HOLD_MIN_S, HOLD_MAX_S)
        self._sent_up_to = 0  # id of the latest live result that was sent

    def open(self, answer_timeout_s: float) -> None:
        """Connects, waits for the broker's answer, and announces the device.

        Raises:
            LinkDownError: no broker there, or a stop was requested meanwhile.
            LinkSilentError: the broker does not answer.
            LinkRefusedError: the broker refused the connection.
            LinkUntrustedError: TLS failed.
        """
        self._link.dial()
        end_s = time.monotonic() + answer_timeout_s
        while not self._link.accepted:
            if self._exchange.stopping.is_set():
                raise LinkDownError("stopped")
            if time.monotonic() > end_s:
                raise LinkSilentError(f"no answer within {answer_timeout_s:.0f} s. Is an MQTT broker there?")
            self._poll(0.2)
        self._exchange.sizes.connected(self._link.max_packet_bytes)
        self._publish(self._topics.available, ONLINE, retain=True)
        self._exchange.statuses.all_due()
        self._exchange.incoming.all_due()
        self._exchange.pictures.connected()
        self._exchange.snapshots.connected()
        self._exchange.outbox.rewind()
        self._exchange.tally.connections += 1

    def serve(self) -> None:
        """Sends until a stop is requested, then disconnects.

        Raises:
            LinkDownError: the connection has ended, or the broker acknowledges nothing.
        """
        outbox = self._exchange.outbox
        try:
            while not self._exchange.stopping.is_set():
                self._subscribe()
                self._end_hold()
                self._send()
                self._poll(UNTIDY_S if outbox.untidy else IDLE_S)
                self._leave_if_silent()
                outbox.delete_acknowledged()
        except LinkCutError as error:
            self._learn_from(error)
            raise
        self._say_goodbye()

    def _free(self) -> int:
        """How many more QoS 1 messages may be in flight; one place is reserved for the goodbye."""
        return max(1, self._link.receive_maximum - 1) - len(self._in_flight)

    def _send(self) -> None:
        for topic, refused in self._refused.items():
            if time.monotonic() >= refused.due_s:
                refused.due_s = float("inf")  # until the broker has answered
                self._exchange.statuses.again(topic, refused.payload)
        for topic, payload in self._exchange.statuses.take_due(self._free()).items():
            self._publish(topic, payload, retain=True)
        self._send_pictures()
        outbox = self._exchange.outbox
        for entry in outbox.take(self._room()):
            body = entry.body
            if entry.id <= outbox.live_after:
                body = mark_replayed(body)
                self._exchange.tally.replayed += 1
            self._publish(self._topics.result(entry.camera), body, entry_id=entry.id)
            self._sent_up_to = max(self._sent_up_to, entry.id)
            self._send_pictures()
        self._send_evidence()

    def _send_evidence(self) -> None:
        """Sends one picture in addition to the window; none while a message may be too large for the broker."""
        held = self._held_until_s is not None or self._probing or self._exchange.sizes.careful
        held = held or time.monotonic() < self._evidence_held_until_s
        if held or self._free() <= 0:
            return
        picture = self._exchange.outbox.take_picture()
        if picture is None:
            return
        topic = self._topics.evidence(picture.camera, picture.result_id)
        if self._exchange.sizes.too_large(packet_bytes(topic, picture.jpeg)):  # counted as given up, not a fault
            self._exchange.outbox.refuse_picture(picture.id)
        elif (mid := self._publish(topic, picture.jpeg)) is not None:
            self._evidence[mid] = picture.id

    def _room(self) -> int:
        """How many more results may be in flight."""
        if self._held_until_s is not None:
            return 0
        if self._probing or self._exchange.sizes.careful:
            return max(0, 1 - len(self._in_flight))
        return max(0, min(self._free(), self._window - len(self._in_flight) + len(self._evidence)))

    def _send_pictures(self) -> None:
        """Sends each picture after its result, only as fast as the network, so that paho queues none."""
        for pictures, up_to_id in ((self._exchange.pictures, self._sent_up_to), (self._exchange.snapshots, None)):
            while not self._link.backed_up and (picture := pictures.take(up_to_id)) is not None:
                topic, jpeg = picture
                size = packet_bytes(topic, jpeg)
                if self._exchange.sizes.picture_fits(size):
                    self._exchange.sizes.sent(size, picture=True)
                    self._link.publish(topic, jpeg, qos=0)
                else:
                    pictures.left_out()
                self._exchange.on_settled()

    def _publish(
        self, topic: str, payload: str | bytes, *, retain: bool = False, entry_id: int | None = None
    ) -> int | None:
        """Returns the message id; None if the message exceeds the broker's stated limit."""
        size = packet_bytes(topic, payload)
        if self._exchange.sizes.too_large(size):
            if entry_id is not None:
                self._give_up(entry_id, topic, payload)
            else:
                self._exchange.health.complain(topic, f"refuses {topic}: {size} bytes are too many")
            return None
        mid = self._link.publish(topic, payload, qos=1, retain=retain)
        number = self._exchange.sizes.sent(size)
        self._in_flight[mid] = _Sent(entry_id, time.monotonic(), number, topic, payload)
        return mid

    def _subscribe(self) -> None:
        now_s = time.monotonic()
        again = [topic for topic, due_s in self._ask_again.items() if now_s >= due_s]
        for topic in dict.fromkeys([*self._exchange.incoming.take_due(), *again]):
            self._ask_again.pop(topic, None)
            self._asked[self._link.subscribe(topic)] = topic

    def _poll(self, timeout_s: float) -> None:
        events = self._link.poll(self._exchange.wake, timeout_s)
        self._settle(events)
        if events.end is not None:
            raise events.end

    def _settle(self, events: Events) -> None:
        for answer in events.published:
            sent = self._in_flight.pop(answer.mid, None)
            if sent is not None:  # None for a picture
                self._note_answer(sent, answer)
        for answer in events.subscribed:
            topic = self._asked.pop(answer.mid, None)
            if topic is not None:
                refusal = answer.refusal and f"refuses the subscription to {topic}: {answer.refusal}"
                self._exchange.health.complain(f"subscription {topic}", refusal)
                if refusal is not None:
                    self._ask_again[topic] = time.monotonic() + ASK_AGAIN_S
        for arrival in events.arrived:
            self._exchange.incoming.hand_over(arrival)
        if events.published:
            self._exchange.on_settled()

    def _note_answer(self, sent: _Sent, answer: Answer) -> None:
        exchange = self._exchange
        self._answered = True
        exchange.sizes.passed(sent.number, sent.size, is_result=sent.entry_id is not None)
        picture_id = self._evidence.pop(answer.mid, None)
        if picture_id is not None:
            self._note_evidence_answer(picture_id, answer)
        elif sent.entry_id is None:
            self._note_status_answer(sent, answer)
        elif answer.refusal is None:
            exchange.outbox.acknowledge(sent.entry_id)
            exchange.tally.acknowledged += 1
            if self._held_until_s is None:
                self._probing = False
                self._backoff.reset()
                exchange.health.complain(RESULTS, None)
        elif self._held_until_s is None:  # else it was in flight together with the first refused one
            exchange.health.complain(RESULTS, f"refuses results: {answer.refusal}")
            self._held_until_s = time.monotonic() + self._backoff.next_s()

    def _note_status_answer(self, sent: _Sent, answer: Answer) -> None:
        self._exchange.health.complain(sent.topic, answer.refusal and f"refuses {sent.topic}: {answer.refusal}")
        before = self._refused.pop(sent.topic, None)
        if answer.refusal is not None:
            backoff = before.backoff if before is not None else Backoff(HOLD_MIN_S, STATUS_HOLD_MAX_S)
            payload = sent.payload.encode() if isinstance(sent.payload, str) else sent.payload
            self._refused[sent.topic] = _Refused(payload, backoff, time.monotonic() + backoff.next_s())

    def _note_evidence_answer(self, picture_id: int, answer: Answer) -> None:
        """A refused picture is tried again after a while and delays the pictures after it."""
        exchange = self._exchange
        exchange.health.complain(EVIDENCE, answer.refusal and f"refuses evidence pictures: {answer.refusal}")
        if answer.refusal is None:
            exchange.outbox.acknowledge_picture(picture_id)
            exchange.tally.evidence += 1
            self._evidence_backoff.reset()
        else:
            exchange.outbox.return_picture(picture_id)
            self._evidence_held_until_s = time.monotonic() + self._evidence_backoff.next_s()

    def _end_hold(self) -> None:
        """Allows one result when it is time and none is in flight, because that one would be sent twice."""
        if self._held_until_s is None or time.monotonic() < self._held_until_s:
            return
        if all(sent.entry_id is None for sent in self._in_flight.values()) and not self._evidence:
            self._held_until_s, self._probing = None, True
            self._exchange.outbox.rewind()

    def _learn_from(self, error: LinkCutError) -> None:
        """Gives up the result at which the broker repeatedly ends the connection."""
        results = {sent.entry_id: sent for sent in self._in_flight.values() if sent.entry_id is not None}
        sizes = {entry_id: sent.size for entry_id, sent in results.items()}
        hopeless = self._exchange.sizes.cut(sizes, answered=self._answered, said_too_large=error.too_large)
        if hopeless is not None:
            self._give_up(hopeless, results[hopeless].topic, results[hopeless].payload)

    def _give_up(self, entry_id: int, topic: str, payload: str | bytes) -> None:
        """Drops a message that the broker will never accept, so that it does not block the others."""
        self._exchange.outbox.refuse(entry_id)
        self._exchange.on_settled()
        logger.error(
            "%s is given up: the message is too large for the broker (%d bytes)",
            _message_name(topic, payload),
            packet_bytes(topic, payload),
        )

    def _leave_if_silent(self) -> None:
        oldest_s = next((sent.at_s for sent in self._in_flight.values()), None)
        if oldest_s is not None and time.monotonic() - oldest_s > self._ack_timeout_s:
            raise LinkDownError(f"connected, but nothing was acknowledged for {self._ack_timeout_s:g} s")

    def _say_goodbye(self) -> None:
        """Waits for the acknowledgements, then publishes `offline`; if the broker is too slow, the will does it."""
        end_s = time.monotonic() + GOODBYE_S
        if not self._await_answers(end_s, on_their_way=self._link.receive_maximum - 1):
            return
        self._publish(self._topics.available, OFFLINE, retain=True)
        if self._await_answers(end_s, on_their_way=0):
            self._link.say_goodbye()

    def _await_answers(self, end_s: float, *, on_their_way: int) -> bool:
        """Waits until at most `on_their_way` messages are unanswered; False when `end_s` comes first."""
        while len(self._in_flight) > on_their_way:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._poll(left_s)
        return True


def packet_bytes(topic: str, payload: str | bytes) -> int:
    """Size of the MQTT packet, at most."""
    return len(topic.encode()) + len(payload) + OVERHEAD_BYTES


def _message_name(topic: str, payload: str | bytes) -> str:
    """`result <id>` for a result, else the topic, which for evidence ends in the result's id."""
    try:
        return f"result {json.loads(payload)['id']}"
    except (ValueError, TypeError, KeyError):
        return topic
