"""Sends and receives over one connection to the broker, from the first message to the goodbye."""

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from zsad_agent.messages import OFFLINE, Topics, mark_replayed
from zsad_agent.mqtt.broker_health import BrokerHealth
from zsad_agent.mqtt.connection import (
    JSON,
    OVERHEAD_BYTES,
    BrokerConnection,
    Content,
    LinkCutError,
    LinkDownError,
    LinkSilentError,
)
from zsad_agent.mqtt.live_messages import LivePictures, RetainedStatuses
from zsad_agent.mqtt.size_limits import SUSPECT_BYTES, SizeLimits
from zsad_agent.mqtt.subscriptions import OwnTopics, Subscriptions
from zsad_agent.spool import CHECK_PLACE_S, Outbox
from zsad_agent.system import Backoff, printable

logger = logging.getLogger(__name__)

GOODBYE_S = 0.5  # longest wait for outstanding acknowledgements: a stop has 2 s in all
UNTIDY_S = 0.1  # longest sleep while acknowledged results are still in the spool
HOLD_MIN_S, HOLD_MAX_S = 1.0, 30.0  # back-off before something that the broker refused is tried again
RESULTS, EVIDENCE = "results", "evidence pictures"  # can be refused, as statuses and subscriptions
STEADY_AFTER_S = 10.0  # an acknowledgement over a connection that lasted so long shows that the connection is useful
MOST_PATIENCE = 8  # times the first limit
JPEG = "image/jpeg"


@dataclass(kw_only=True, slots=True)
class SendCounts:
    """Counts over all connections. Only the sending thread writes them."""

    acknowledged: int = 0  # results that the broker has
    replayed: int = 0  # results sent as `replayed`
    connections: int = 0
    useful: int = 0  # acknowledgements that show progress


class AckPatience:
    """How long CONNECT, or the oldest message in flight, may wait for its answer.

    The limit doubles after each connection that ended for that reason: a slow network or broker may need longer, and
    without a longer limit no message would ever be acknowledged.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = first_s
        self.limit_s = first_s

    def was_exceeded(self) -> None:
        self.limit_s = min(2 * self.limit_s, MOST_PATIENCE * self._first_s)

    def answered_after(self, delay_s: float) -> None:
        if delay_s < self._first_s / 2:
            self.limit_s = self._first_s


@dataclass(frozen=True, kw_only=True, slots=True)
class SendState:
    """State that the accepting threads and the sending thread share, over all connections."""

    outbox: Outbox
    health: BrokerHealth
    wake: socket.socket  # a byte arrives when there is something to send, or at a stop
    on_settled: Callable[[], None]  # called when a result is acknowledged or given up
    statuses: RetainedStatuses
    own: OwnTopics
    patience: AckPatience
    pictures: LivePictures = field(default_factory=LivePictures)  # each belongs to a result
    snapshots: LivePictures = field(default_factory=LivePictures)  # pictures without a result
    incoming: Subscriptions = field(default_factory=Subscriptions)
    sizes: SizeLimits = field(default_factory=SizeLimits)
    tally: SendCounts = field(default_factory=SendCounts)
    stopping: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A QoS 1 message in flight."""

    entry_id: int | None  # id of the result; None: not a result
    at_s: float
    number: int  # see `SizeLimits`
    topic: str
    payload: str | bytes
    size: int  # bytes of the packet, at most


class _Hold:
    """A pause after a refusal, longer after each further one."""

    def __init__(self) -> None:
        self._backoff = Backoff(HOLD_MIN_S, HOLD_MAX_S)
        self._until_s = 0.0
        self._again: Callable[[], None] | None = None

    def start(self, again: Callable[[], None] | None) -> None:
        self._until_s, self._again = time.monotonic() + self._backoff.next_s(), again

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until_s

    def try_again(self) -> None:
        """Calls `again` once when the pause is over."""
        if self._again is not None and self.over:
            again, self._again = self._again, None
            again()


class Session:
    """Sends results through a window of unacknowledged ones. Made for one connection, used by one thread.

    A result that the broker refuses (MQTT 5: not authorised, over quota) stays in the spool. When all results in flight
    are answered, one is tried again after a while, and the rest once that one is accepted. The order is kept, except
    for results that were in flight together with the first refused one.

    One evidence picture at a time is in flight in addition to the window: pictures and results do not delay each other.

    A retained status or subscription that the broker refuses is sent again after a while and delays nothing.

    The number of QoS 1 messages in flight, of all kinds together, never exceeds the broker's Receive Maximum.
    """

    def __init__(self, link: BrokerConnection, state: SendState, topics: Topics, *, window: int) -> None:
        self._link = link
        self._state = state
        self._topics = topics
        self._window = window
        self._opened_s = time.monotonic()
        self._in_flight: dict[int, _Sent] = {}  # by message id, the oldest first
        self._oldest: _Sent | None = None  # in flight
        self._oldest_since_s = 0.0
        self._asked: dict[int, str] = {}  # message id of a subscription -> its topic
        self._answered = False  # the broker has accepted a message over this connection
        self._holds: dict[str, _Hold] = {}  # by what the broker refuses, until it accepts it
        self._results_held = False  # no results, because the broker refuses them
        self._probing = False  # one result at a time, to check whether the broker accepts results again
        self._evidence: dict[int, int] = {}  # message id -> picture id of the picture in flight
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
            if self._state.stopping.is_set():
                raise LinkDownError("stopped")
            if time.monotonic() > end_s:
                raise LinkSilentError(f"no answer within {answer_timeout_s:.0f} s. Is an MQTT broker there?")
            self._poll(CHECK_PLACE_S)
            self._state.outbox.delete_acknowledged()
        self._state.sizes.connected(self._link.max_packet_bytes)
        self._say_what_is_missing()
        self._state.own.connected(has_wildcards=self._link.has_wildcards)
        self._subscribe_to_own()  # before our own statuses replace what is there
        self._state.statuses.all_due()
        self._send_statuses()
        self._state.incoming.all_due()
        self._state.pictures.set_connected(True)
        self._state.snapshots.set_connected(True)
        self._state.outbox.rewind()
        self._state.tally.connections += 1

    def serve(self) -> None:
        """Sends until a stop is requested, then disconnects.

        Raises:
            LinkDownError: the connection has ended, or the broker acknowledges nothing.
        """
        outbox = self._state.outbox
        try:
            while not self._state.stopping.is_set():
                self._try_again()
                self._state.own.tend()
                self._subscribe()
                self._send()
                self._poll(UNTIDY_S if outbox.untidy else CHECK_PLACE_S)
                self._leave_if_silent()
                outbox.delete_acknowledged()
        except LinkCutError as error:
            if not self._state.own.rival:  # else the other agent may be the reason
                self._learn_from(error)
            raise
        self._say_goodbye()

    def _say_what_is_missing(self) -> None:
        health, link = self._state.health, self._link
        lost = "refuses QoS 1: a result that is on its way when the connection ends is lost. Allow QoS 1 at the broker"
        health.complain("QoS 1", None if link.max_qos else f"{lost} (mosquitto: max_qos)")
        if not link.retains:
            health.remark(
                "retains no messages: a later subscriber sees statuses, and whether the agent is online, only after "
                "they change. Allow retained messages at the broker (mosquitto: retain_available)"
            )
        if link.assigned_id is not None:
            health.remark(f"knows this agent by the client id {printable(link.assigned_id)}, which it has chosen")

    def _free(self) -> int:
        """How many more QoS 1 messages may be in flight; one place is reserved for the goodbye."""
        return max(1, self._link.receive_maximum - 1) - len(self._in_flight)

    def _send_statuses(self) -> None:
        for topic, payload in self._state.statuses.take_due(self._free()):
            self._publish(topic, payload, retain=True, content=JSON if payload.startswith(b"{") else None)
            self._state.own.sent(topic)

    def _send(self) -> None:
        self._send_statuses()
        self._send_pictures()
        outbox = self._state.outbox
        for entry in outbox.take(self._room()):
            body = entry.body
            if entry.id <= outbox.live_after:
                body = mark_replayed(body)
                self._state.tally.replayed += 1
            self._publish(self._topics.result(entry.camera), body, entry_id=entry.id)
            self._sent_up_to = max(self._sent_up_to, entry.id)
            self._send_pictures()
        self._send_evidence()

    def _send_evidence(self) -> None:
        """Sends one picture in addition to the window; none while a message may be too large for the broker."""
        held = EVIDENCE in self._holds and not self._holds[EVIDENCE].over
        if held or self._results_held or self._probing or self._state.sizes.careful or self._free() <= 0:
            return
        picture = self._state.outbox.take_picture()
        if picture is None:
            return
        topic, content = self._topics.evidence(picture.camera, picture.result_id), Content(JPEG, picture.result_id)
        if self._state.sizes.too_large(packet_bytes(topic, picture.jpeg, content)):  # counted as given up, not a fault
            self._state.outbox.refuse_picture(picture.id)
        elif (mid := self._publish(topic, picture.jpeg, content=content)) is not None:
            self._evidence[mid] = picture.id

    def _room(self) -> int:
        """How many more results may be in flight."""
        if self._results_held:
            return 0
        if self._probing or self._state.sizes.careful:
            return max(0, 1 - len(self._in_flight))
        return max(0, min(self._free(), self._window - len(self._in_flight) + len(self._evidence)))

    def _send_pictures(self) -> None:
        """Sends each picture after its result, only as fast as the network, so that paho queues nothing."""
        for pictures in (self._state.pictures, self._state.snapshots):
            while not self._link.backed_up and (picture := pictures.take(self._sent_up_to)) is not None:
                content = Content(JPEG, picture.result_id)
                size = packet_bytes(picture.topic, picture.jpeg, content)
                if self._state.sizes.picture_fits(size):
                    self._state.sizes.sent(size, picture=True)
                    self._link.publish(picture.topic, picture.jpeg, qos=0, content=content)
                else:
                    pictures.left_out()
                self._state.on_settled()

    def _publish(
        self,
        topic: str,
        payload: str | bytes,
        *,
        retain: bool = False,
        entry_id: int | None = None,
        content: Content | None = JSON,
    ) -> int | None:
        """Returns the message id; None if the message exceeds the broker's stated limit."""
        size = packet_bytes(topic, payload, content)
        if self._state.sizes.too_large(size):
            if entry_id is not None and size < SUSPECT_BYTES:  # else all results would be given up
                limit = self._link.max_packet_bytes
                self._hold_results(f"it accepts {limit} bytes in a packet, too few. Raise its limit (max_packet_size)")
            elif entry_id is not None:
                self._give_up(entry_id, payload, size)
            else:
                self._state.health.complain(topic, f"refuses {topic}: {size} bytes exceed its limit")
            return None
        mid = self._link.publish(topic, payload, qos=1, retain=retain, content=content)
        number = self._state.sizes.sent(size)
        self._in_flight[mid] = _Sent(entry_id, time.monotonic(), number, topic, payload, size)
        return mid

    def _subscribe_to_own(self) -> None:
        for topic in self._state.own.take_due():
            self._asked[self._link.subscribe(topic, retained=True)] = topic

    def _subscribe(self) -> None:
        self._subscribe_to_own()
        if ended := self._state.own.take_ended():
            self._link.unsubscribe(ended)
        for topic in self._state.incoming.take_due():
            self._asked[self._link.subscribe(topic)] = topic

    def _poll(self, timeout_s: float) -> None:
        events = self._link.poll(self._state.wake, timeout_s)
        for mid, refusal in events.answers.items():
            if (sent := self._in_flight.pop(mid, None)) is not None:
                self._note_answer(mid, sent, refusal)
            elif (topic := self._asked.pop(mid, None)) is not None and not self._state.own.answered(topic, refusal):
                again = partial(self._state.incoming.again, topic)
                self._note_refusal(f"the subscription to {topic}", refusal, again)
        for arrival in events.arrived:
            self._state.own.note(arrival)
            self._state.incoming.hand_over(arrival)
        if events.answers:
            self._state.on_settled()
        if events.end is not None:
            raise events.end

    def _note_answer(self, mid: int, sent: _Sent, refusal: str | None) -> None:
        outbox, now_s = self._state.outbox, time.monotonic()
        self._answered = True
        if sent.entry_id is not None:
            self._state.patience.answered_after(now_s - sent.at_s)
        picture_id = self._evidence.pop(mid, None)
        is_status = picture_id is None and sent.entry_id is None
        self._state.tally.useful += refusal is None and (not is_status or now_s - self._opened_s > STEADY_AFTER_S)
        self._state.sizes.passed(sent.number, sent.size, is_result=sent.entry_id is not None)
        if picture_id is not None:
            self._note_refusal(EVIDENCE, refusal)
            settle = outbox.acknowledge_picture if refusal is None else outbox.return_picture
            settle(picture_id)
        elif sent.entry_id is None:
            if refusal is None:
                self._state.own.stored(sent.topic)
            self._note_refusal(sent.topic, refusal, partial(self._state.statuses.again, sent.topic))
        elif refusal is None:
            outbox.acknowledge(sent.entry_id)
            self._state.tally.acknowledged += 1
            if not self._results_held:
                self._probing = False
                self._note_refusal(RESULTS, None)
        else:
            self._hold_results(refusal)

    def _hold_results(self, refusal: str) -> None:
        if not self._results_held:  # else it was in flight together with the first refused one
            self._results_held = True
            self._note_refusal(RESULTS, refusal)

    def _note_refusal(self, what: str, refusal: str | None, again: Callable[[], None] | None = None) -> None:
        """States what the broker refuses, and holds it back for a while. None: the broker has accepted it.

        `again` is called after the pause.
        """
        self._state.health.complain(what, refusal and f"refuses {what}: {refusal}")
        if refusal is None:
            self._holds.pop(what, None)
        else:
            self._holds.setdefault(what, _Hold()).start(again)

    def _try_again(self) -> None:
        """Sends again what was refused and held back: statuses, subscriptions, and one result."""
        for hold in self._holds.values():
            hold.try_again()
        if not self._results_held or not self._holds[RESULTS].over or self._evidence:
            return
        if all(sent.entry_id is None for sent in self._in_flight.values()):  # one in flight would be sent twice
            self._results_held, self._probing = False, True
            self._state.outbox.rewind()

    def _learn_from(self, error: LinkCutError) -> None:
        """Gives up the result at which the broker repeatedly ends the connection."""
        results = {sent.entry_id: sent for sent in self._in_flight.values() if sent.entry_id is not None}
        sizes = {entry_id: sent.size for entry_id, sent in results.items()}
        hopeless = self._state.sizes.cut(sizes, answered=self._answered, said_too_large=error.too_large)
        if hopeless is not None:
            self._give_up(hopeless, results[hopeless].payload, results[hopeless].size)

    def _give_up(self, entry_id: int, payload: str | bytes, size: int) -> None:
        """Drops a result that the broker will never accept, so that it does not block the others."""
        self._state.outbox.refuse(entry_id)
        self._state.on_settled()
        said = "result %s is given up: the message is too large for the broker (%d bytes)"
        logger.error(said, json.loads(payload)["id"], size)

    def _leave_if_silent(self) -> None:
        """Ends the connection if the oldest message waits too long; brokers acknowledge in the order of the messages.

        Raises:
            LinkDownError: it does.
        """
        oldest, now_s = next(iter(self._in_flight.values()), None), time.monotonic()
        if oldest is not self._oldest:
            self._oldest, self._oldest_since_s = oldest, now_s
        limit_s = self._state.patience.limit_s
        if oldest is not None and now_s - self._oldest_since_s > limit_s:
            self._state.patience.was_exceeded()
            raise LinkDownError(f"connected, but nothing was acknowledged for {limit_s:g} s")

    def _say_goodbye(self) -> None:
        """Waits for the acknowledgements, then publishes `offline`; if the broker is too slow, the will does it."""
        end_s = time.monotonic() + GOODBYE_S
        if not self._await_answers(end_s, on_their_way=self._link.receive_maximum - 1):
            return
        self._publish(self._topics.available, OFFLINE, retain=True, content=None)
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


def packet_bytes(topic: str, payload: str | bytes, content: Content | None = None) -> int:
    """Size of the MQTT packet, at most."""
    return len(topic.encode()) + len(payload) + OVERHEAD_BYTES + (content.bytes if content is not None else 0)
