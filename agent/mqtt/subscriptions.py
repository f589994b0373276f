"""Subscriptions, the handlers of incoming messages, and what the broker holds below the device's own topic."""

import json
import logging
import math
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection

from zsad_agent.messages import AVAILABLE, STATS, Published, Topics
from zsad_agent.mqtt.broker_health import BrokerHealth
from zsad_agent.mqtt.connection import Arrival, LinkDownError
from zsad_agent.mqtt.live_messages import RetainedStatuses
from zsad_agent.system import Backoff

logger = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 65_536
SWEPT = ("+/status", "+/state", "+/+/state")  # where an agent keeps retained messages, but for those that it always has
SWEEP_S = 5.0  # a broker sends retained messages right after the subscription
MOST_TRIES = 2  # of subscriptions that the broker does not answer: some brokers end the connection at a forbidden one
TWICE = 2  # one retained message of another agent may be an old one, which a broker restored
CALM_S = 600.0  # without a sign of another agent
DEAF_S = 30.0  # longest time from our statistics at the broker to their arrival here
RIVAL_MIN_S, RIVAL_MAX_S = 15.0, 120.0  # pause of an agent whose client id another one has taken

Handler = Callable[[bytes], None]


class Subscriptions:
    """Any thread may subscribe; the sending thread subscribes at the broker and calls the handlers.

    Retained messages are ignored: an old command must not run again at each connection. Payloads above 64 KiB are
    dropped, with one log line until a payload of the topic fits again. A handler that raises is logged once and
    still called.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, Handler] = {}
        self._due: list[str] = []
        self._too_large: set[str] = set()  # topics with a logged payload that was too large
        self._broken: set[str] = set()  # topics with a logged failure of the handler

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Calls `handler` with the payloads of `topic` (full name, no wildcards) from now on."""
        with self._lock:
            self._handlers[topic] = handler
            self._due.append(topic)

    def all_due(self) -> None:
        """Subscribes to all topics again, because the connection is new."""
        with self._lock:
            self._due = list(self._handlers)

    def again(self, topic: str) -> None:
        """Subscribes to a topic again, because the broker refused it."""
        with self._lock:
            self._due.append(topic)

    def take_due(self) -> list[str]:
        """Topics to subscribe to now."""
        with self._lock:
            due, self._due = self._due, []
            return due

    def hand_over(self, arrival: Arrival) -> None:
        """Calls the handler of a message, unless the message is ignored. Never raises."""
        topic = arrival.topic
        handler = self._handlers.get(topic)
        if handler is None or arrival.retained:
            return
        if len(arrival.payload) > MAX_PAYLOAD_BYTES:
            if topic not in self._too_large:
                logger.warning("a message on %s is dropped: it has more than %d bytes", topic, MAX_PAYLOAD_BYTES)
            self._too_large.add(topic)
            return
        self._too_large.discard(topic)
        try:
            handler(arrival.payload)
        except Exception:  # a defect in a handler must not end the sending thread
            if topic not in self._broken:
                logger.exception("the handler of %s has failed; further failures of it are not logged", topic)
            self._broken.add(topic)


class OwnTopics:
    """Removes retained messages of earlier configs, and notices another agent with the same device id.

    `stats` carries the `instance` of its agent. Another instance in it is another agent. With one client id for both,
    the broker ends the connection of one when the other connects. Each then waits before it connects again, so that
    both deliver in turns.

    Our own statistics come back over the subscription. If they no longer do, commands do not arrive either: mosquitto
    2.0 sends nothing more with QoS 1 after it has dropped 20 messages above our Maximum Packet Size.

    For the sending thread, except `clear_all_but`.
    """

    def __init__(self, topics: Topics, client_id: str, statuses: RetainedStatuses, health: BrokerHealth) -> None:
        self.instance = secrets.token_hex(4)
        self.rival = False  # there is another agent with this device id
        self._topics = topics
        self._statuses = statuses
        self._health = health
        self._sign = (
            f"sees another agent with device_id {topics.device_id} (client id {client_id}): give each agent its own "
            "device_id, and its own mqtt.client_id if it is set. With one client id they connect in turns"
        )
        self._rival_at_s = 0.0
        self._pauses = Backoff(RIVAL_MIN_S, RIVAL_MAX_S)
        self._stored = False  # the broker has our statistics since the last sign
        self._echoes = False  # our statistics have come back over this connection
        self._echo_awaited = False
        self._deaf_since_s: float | None = None  # since then the broker has statistics that have not come back
        self._signs = 0
        self._keep: Collection[str] | None = None  # None: nothing to remove
        self._former: Published | None = None
        self._former_due = False  # its messages are ours
        self._sweep_ends_s: float | None = None  # None: not subscribed
        self._swept: list[str] = []  # subscribed
        self._removed: set[str] = set()
        self._watching = False
        self._has_wildcards = True
        self._tries: defaultdict[str, float] = defaultdict(float)  # of subscriptions, until the broker's first answer

    def clear_all_but(self, suffixes: Collection[str], former: Published | None) -> None:
        """Removes, once, the retained statuses and states below the device's topic that are not in `suffixes`.

        `former`: where this agent published before. Its messages there are removed too, if they are still its own.
        """
        self._former = former if former is not None and former.base != self._topics.base else None
        self._keep = suffixes

    def connected(self, *, has_wildcards: bool) -> None:
        """Notes a new connection, over which nothing is subscribed."""
        self._has_wildcards, self._watching, self._sweep_ends_s = has_wildcards, False, None
        self._former_due = self._echoes = self._echo_awaited = False
        self._deaf_since_s = None

    def take_due(self) -> list[str]:
        """Topics to subscribe to now, with their retained messages."""
        due: list[str] = []
        if not self._watching and self._statuses.has(self._topics.below(STATS)):
            self._watching = True
            due.append(self._topics.below(STATS))
        if self._keep is not None and self._sweep_ends_s is None and self._has_wildcards:
            self._sweep_ends_s = time.monotonic() + SWEEP_S
            self._swept = [self._topics.below(suffix) for suffix in SWEPT]
            if self._former is not None:
                self._swept.append(f"{self._former.base}/{STATS}")
            due += self._swept
        if self._former_due and self._former is not None:
            self._former_due = False
            due += (more := [f"{self._former.base}/{suffix}" for suffix in SWEPT])
            self._swept += more
        due = [topic for topic in due if self._tries[topic] < MOST_TRIES]
        for topic in due:
            self._tries[topic] += 1
        return due

    def take_ended(self) -> list[str]:
        """Topics to unsubscribe from now."""
        if self._sweep_ends_s is None or time.monotonic() < self._sweep_ends_s:
            return []
        self._keep = self._sweep_ends_s = None
        if self._removed:
            logger.info("retained messages of an earlier config are removed: %s", ", ".join(sorted(self._removed)))
        return self._swept

    def answered(self, topic: str, refusal: str | None) -> bool:
        """Notes the answer to a subscription. Returns False if the topic is not one of `take_due`."""
        if topic not in self._tries:
            return False
        self._tries[topic] = -math.inf if refusal is None else math.inf
        if refusal is not None:
            self._health.remark(
                f"refuses the subscription to {topic}: {refusal}. Retained messages of removed cameras stay, and "
                "another agent with this device_id is not noticed. Allow the agent to read it"
            )
        return True

    def note(self, arrival: Arrival) -> None:
        """Takes a message if it is below the own or the former topic."""
        topic, former = arrival.topic, self._former
        if topic == self._topics.below(STATS):
            self._note_stats(arrival)
        elif self._sweep_ends_s is None or not (arrival.retained and arrival.payload):
            return
        elif former is not None and topic == f"{former.base}/{STATS}":
            if _instance(arrival) == former.instance:
                self._former_due = True
                self._remove(topic)
                self._remove(f"{former.base}/{AVAILABLE}")
        elif topic.endswith(("/status", "/state")) and topic.removeprefix(self._topics.below("")) not in (
            self._keep or ()
        ):
            self._remove(topic)

    def sent(self, topic: str) -> None:
        """A message of ours is on its way to the broker."""
        self._echo_awaited |= topic == self._topics.below(STATS)

    def stored(self, topic: str) -> None:
        """The broker has accepted a message of ours."""
        if topic == self._topics.below(STATS):
            self._stored = True
            if self._echo_awaited and self._deaf_since_s is None:
                self._deaf_since_s = time.monotonic()

    def taken_over(self) -> None:
        """Another client with our client id is there."""
        self.rival, self._rival_at_s = True, time.monotonic()
        self._health.complain(STATS, self._sign)

    def pause_s(self) -> float:
        """Time to leave the broker to the other agent."""
        return self._pauses.next_s()

    def tend(self) -> None:
        """Call it regularly over a connection: without a sign for a while, the other agent has gone.

        Raises:
            LinkDownError: messages no longer arrive over this connection.
        """
        if self._echoes and self._deaf_since_s is not None and time.monotonic() - self._deaf_since_s > DEAF_S:
            raise LinkDownError(
                f"connected, but for {DEAF_S:g} s no message arrived, not even the agent's own statistics"
            )
        if self.rival and time.monotonic() - self._rival_at_s > CALM_S:
            self.rival, self._signs = False, 0
            self._pauses.reset()
            self._health.complain(STATS, None)

    def _remove(self, topic: str) -> None:
        self._removed.add(topic)
        self._statuses.set(topic, b"")

    def _note_stats(self, arrival: Arrival) -> None:
        if _instance(arrival) == self.instance:
            self._echoes, self._echo_awaited, self._deaf_since_s = True, False, None
        if _instance(arrival) in (None, self.instance) or not self._stored:
            return
        self._stored = False
        self._signs += 1
        if self._signs >= TWICE or not arrival.retained:
            self.taken_over()


def _instance(stats: Arrival) -> str | None:
    """The instance in statistics; None if they are of an older agent, or not of an agent."""
    try:
        instance = json.loads(stats.payload[:MAX_PAYLOAD_BYTES])["instance"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return instance if isinstance(instance, str) else None
