"""What is done over one connection to the broker, from the first message to the goodbye."""

import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from zsad_agent.live import LivePictures, RetainedStatuses
from zsad_agent.message import OFFLINE, ONLINE, Topics, mark_replayed
from zsad_agent.mqtt_link import LinkDownError, MqttLink
from zsad_agent.outbox import Outbox

CONNACK_TIMEOUT_S = 10.0
GOODBYE_S = 0.5  # longest time for the acknowledgements still due: a stop has 2 s in all
IDLE_S = 1.0  # longest sleep without an event
UNTIDY_S = 0.1  # while acknowledged results still lie in the spool


@dataclass(kw_only=True, slots=True)
class Tally:
    """Counts over all connections. Written by the sending thread alone."""

    acknowledged: int = 0  # results that the broker has
    replayed: int = 0  # results sent as `replayed`
    evidence: int = 0  # evidence pictures that the broker has
    connections: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What the accepting threads and the sending thread share."""

    outbox: Outbox
    pictures: LivePictures
    statuses: RetainedStatuses
    tally: Tally
    wake: socket.socket  # a byte arrives when there is something to send or it is time to stop
    stopping: threading.Event
    on_settled: Callable[[], None]  # something was sent for good


class Session:
    """Sends results through a window of unacknowledged ones. Made for one connection, used by one thread.

    An evidence picture is in flight beside the window, one at a time: pictures hold up no result, and results none.
    """

    def __init__(
        self, link: MqttLink, exchange: Exchange, topics: Topics, *, window: int, ack_timeout_s: float
    ) -> None:
        self._link = link
        self._exchange = exchange
        self._topics = topics
        self._window = window
        self._ack_timeout_s = ack_timeout_s
        self._in_flight: dict[int, tuple[int | None, float]] = {}  # message id -> (result's id if it is one, sent at)
        self._evidence: dict[int, int] = {}  # message id -> picture's id, of the one among these that is a picture
        self._sent_up_to = 0  # of the live results

    def open(self) -> None:
        """Dials, waits for the broker's answer, and announces the device.

        Raises:
            LinkDownError: no broker there, or it gives no answer, or a stop was asked for meanwhile.
            LinkRefusedError: the broker turned the connection down.
        """
        self._link.dial()
        end_s = time.monotonic() + CONNACK_TIMEOUT_S
        while not self._link.accepted:
            if self._exchange.stopping.is_set():
                raise LinkDownError("stopped")
            if time.monotonic() > end_s:
                raise LinkDownError(f"no answer within {CONNACK_TIMEOUT_S:.0f} s. Is an MQTT broker there?")
            self._link.poll(self._exchange.wake, 0.2)
        self._publish(self._topics.available, ONLINE, retain=True)
        self._exchange.statuses.all_due()
        self._exchange.outbox.rewind()
        self._exchange.pictures.connected()
        self._exchange.tally.connections += 1

    def serve(self) -> None:
        """Sends until a stop is asked for, then says goodbye.

        Raises:
            LinkDownError: the connection has ended, or the broker acknowledges nothing.
        """
        outbox = self._exchange.outbox
        while not self._exchange.stopping.is_set():
            self._send()
            self._settle(self._link.poll(self._exchange.wake, UNTIDY_S if outbox.untidy else IDLE_S))
            self._leave_if_silent()
            outbox.tidy()
        self._say_goodbye()

    def _send(self) -> None:
        for topic, payload in self._exchange.statuses.take_due().items():
            self._publish(topic, payload, retain=True)
        self._send_pictures()
        outbox = self._exchange.outbox
        for entry in outbox.take(max(0, self._window - len(self._in_flight) + len(self._evidence))):
            body = entry.body
            if entry.id <= outbox.live_after:
                body = mark_replayed(body)
                self._exchange.tally.replayed += 1
            self._publish(self._topics.result(entry.camera), body, entry_id=entry.id)
            self._sent_up_to = max(self._sent_up_to, entry.id)
            self._send_pictures()
        if (picture := outbox.take_picture()) is not None:
            mid = self._publish(self._topics.evidence(picture.camera, picture.result_id), picture.jpeg)
            self._evidence[mid] = picture.id

    def _send_pictures(self) -> None:
        """Each after its result, as fast as the network takes them, so that none pile up behind it unseen."""
        while not self._link.backed_up and (picture := self._exchange.pictures.take(self._sent_up_to)) is not None:
            topic, jpeg = picture
            self._link.publish(topic, jpeg, qos=0)
            self._exchange.on_settled()

    def _publish(self, topic: str, payload: str | bytes, *, retain: bool = False, entry_id: int | None = None) -> int:
        mid = self._link.publish(topic, payload, qos=1, retain=retain)
        self._in_flight[mid] = (entry_id, time.monotonic())
        return mid

    def _settle(self, acknowledged: list[int]) -> None:
        for mid in acknowledged:
            entry_id, _ = self._in_flight.pop(mid, (None, 0.0))  # a heatmap's is not in flight
            if (picture_id := self._evidence.pop(mid, None)) is not None:
                self._exchange.outbox.acknowledge_picture(picture_id)
                self._exchange.tally.evidence += 1
            if entry_id is not None:
                self._exchange.outbox.acknowledge(entry_id)
                self._exchange.tally.acknowledged += 1
        if acknowledged:
            self._exchange.on_settled()

    def _leave_if_silent(self) -> None:
        oldest_s = next((sent_s for _, sent_s in self._in_flight.values()), None)
        if oldest_s is not None and time.monotonic() - oldest_s > self._ack_timeout_s:
            raise LinkDownError(f"connected, but nothing was acknowledged for {self._ack_timeout_s:g} s")

    def _say_goodbye(self) -> None:
        """Sends no more results, waits for the acknowledgements; for a broker too slow now the will says `offline`."""
        self._publish(self._topics.available, OFFLINE, retain=True)
        end_s = time.monotonic() + GOODBYE_S
        while self._in_flight:
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return
            self._settle(self._link.poll(self._exchange.wake, left_s))
        self._link.say_goodbye()
