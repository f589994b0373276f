"""Publishes results, heatmaps, statuses and availability over MQTT without losing a result."""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

from zsad_agent.config import EMBEDDED_BROKER, MqttConfig
from zsad_agent.messages import OFFLINE, ONLINE, BrokerStats, Published, Result, SpoolStats, Topics, encode
from zsad_agent.mqtt.broker_health import BrokerHealth, BrokerState
from zsad_agent.mqtt.connection import (
    BrokerConnection,
    LinkCutError,
    LinkDownError,
    LinkSilentError,
    LinkTakenOverError,
    LinkVersionError,
    LinkWillError,
    ProtocolChoice,
    Will,
    broker_address,
)
from zsad_agent.mqtt.credentials import make_context, read_password, warn_of_open_file
from zsad_agent.mqtt.live_messages import LivePicture, RetainedStatuses
from zsad_agent.mqtt.session import GOODBYE_S, AckPatience, SendState, Session
from zsad_agent.mqtt.subscriptions import Handler, OwnTopics
from zsad_agent.spool import CHECK_PLACE_S, Accepted, Cause, Outbox, Spool
from zsad_agent.system import Backoff, Service
from zsad_core.errors import ConfigError
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

ACK_TIMEOUT_S = 30.0  # after so long without an acknowledgement the agent reconnects, and then waits longer
ANSWER_S = 10.0  # wait for CONNACK, half of it with MQTT 5 if 3.1.1 is tried next: amqtt never answers MQTT 5
FIRST_ATTEMPT_S = 2.0  # longest wait for the first connection, so that the first results find one
WAIT_S = 0.1  # between two checks for a stop
KEPT_VERDICTS: dict[str, frozenset[Verdict]] = {  # spool.pictures -> verdicts whose pictures are kept as evidence
    "off": frozenset(),
    "rejects": frozenset({Verdict.ANOMALOUS, Verdict.UNKNOWN}),
    "all": frozenset(Verdict),
}


class Publisher(Service):
    """Its own thread sends; `accept_all` only stores. Stop it before the spool is closed.

    Results are sent with QoS 1, at most `config.in_flight` unacknowledged at a time, and stay in the spool until the
    broker has acknowledged them. A result that was accepted before the present connection was made (broker away,
    earlier run, or lost acknowledgement) has `"replayed": true`. Replayed results are sent in order, between the live
    ones, which are in order too (see `Outbox`). A result's id and capture time never change, so a subscriber can drop
    duplicates, which only failures cause.

    With `spool.pictures` the heatmap of a result is also evidence: it is stored in the spool with its result and sent
    after it with QoS 1, on a topic that ends in the result's id, until the broker has it.

    If the broker is absent, untrusted, refuses the connection or results, or acknowledges nothing, that is a `fault`
    with one log line per change. The agent retries for ever, with back-off. Password and certificates are read again
    for each connection.

    The client id depends only on the config: a broker that still has the connection of a killed agent then publishes
    its will before it accepts the new connection, so `offline` does not come after `online`.
    """

    name = "publisher"
    vital = True
    stop_s = GOODBYE_S + 0.1  # a stop does not wait for a dial in progress or a disk that hangs

    def __init__(
        self,
        config: MqttConfig,
        device_id: str,
        spool: Spool,
        *,
        pictures: Literal["off", "rejects", "all"] = "off",
        may_delete: Callable[[], bool] = lambda: True,
        reconnect_min_s: float = 1.0,
        reconnect_max_s: float = 30.0,
        ack_timeout_s: float = ACK_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_S,
    ) -> None:
        """Reads the password and the certificates once, to report errors early.

        `may_delete` as for `Outbox`.

        Raises:
            ConfigError: a file cannot be used, or there is a password without a username.
            ValueError: `config.broker` is still `embedded`; start the broker and pass its URL.
        """
        if config.broker == EMBEDDED_BROKER:
            raise ValueError("start an EmbeddedBroker and pass the config that reaches it (`reached_by`)")
        self._config = config
        read_password(config)
        warn_of_open_file(config)
        if config.broker.startswith("mqtts:"):
            make_context(config.tls)
        self._protocols = ProtocolChoice(config.protocol)
        self._topics = Topics(config.topic_prefix, device_id)
        self._client_id = config.client_id or f"zsad-agent-{device_id}"
        self._backoff = Backoff(reconnect_min_s, reconnect_max_s)
        self._answer_patience = AckPatience(answer_timeout_s)
        self._spool = spool
        self._outbox = Outbox(spool, may_delete=may_delete)
        self._keeps_pictures_of = KEPT_VERDICTS[pictures]
        self._health = BrokerHealth("{}:{}".format(*broker_address(config)))
        self._elsewhere: set[str] = set()  # topics of `set_retained_at`
        self._settled = threading.Condition()
        self._first_attempt_over = threading.Event()
        wake_read, self._wake_write = socket.socketpair()
        wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        statuses = RetainedStatuses()
        self._own = OwnTopics(self._topics, self._client_id, statuses, self._health)
        self._state = SendState(
            outbox=self._outbox,
            health=self._health,
            wake=wake_read,
            on_settled=self._note_settled,
            statuses=statuses,
            own=self._own,
            patience=AckPatience(ack_timeout_s),
        )
        statuses.set(self._topics.available, ONLINE.encode())  # the first message of each connection
        self._thread = threading.Thread(target=self._run, name="zsad-publisher", daemon=True)

    def stop(self, deadline_s: float) -> None:
        """Waits for outstanding acknowledgements, publishes `offline`, disconnects: until then, 0.6 s at most.

        Unsent results stay in the spool. Call `flush` first to send them.
        """
        self._state.stopping.set()
        self._wake()
        end_s = min(deadline_s, time.monotonic() + self.stop_s)
        while not self._wait(min(end_s, time.monotonic() + WAIT_S)):
            if time.monotonic() >= end_s or self._spool.hangs:
                return
        self._state.wake.close()
        self._wake_write.close()

    @property
    def state(self) -> BrokerState:
        return self._health.state

    @property
    def connected(self) -> bool:
        return self.state is BrokerState.CONNECTED

    @property
    def config(self) -> MqttConfig:
        """How the broker is reached."""
        return self._config

    @property
    def published(self) -> Published:
        """Where this agent publishes. Its instance is random and tells agents with the same device id apart."""
        elsewhere = tuple(sorted(self._elsewhere))
        return Published(base=self._topics.base, instance=self._own.instance, elsewhere=elsewhere)

    @property
    def fault(self) -> str | None:
        """Why results are not published or not durable, or what happened to the spool; None: no fault."""
        return "; ".join(filter(None, (self.broker_fault, self.spool_fault, self.spool_incident))) or None

    @property
    def broker_fault(self) -> str | None:
        """Why results are not published."""
        return self._health.fault

    @property
    def spool_fault(self) -> str | None:
        """Why results are not durable."""
        return self._outbox.fault

    @property
    def spool_incident(self) -> str | None:
        """What happened to the spool's file a moment ago."""
        return self._outbox.incident

    @property
    def stats(self) -> BrokerStats:
        tally, losses = self._state.tally, self._outbox.losses
        return BrokerStats(
            connections=tally.connections,
            acknowledged=tally.acknowledged,
            replayed=tally.replayed,
            given_up=losses.results,
            attached_images_given_up=losses.pictures,
        )

    @property
    def spool_stats(self) -> SpoolStats:
        unsent = self._outbox.unsent
        age_s = self._spool.oldest_age_s if unsent else None
        return SpoolStats(entries=unsent, bytes=self._spool.bytes, oldest_age_s=age_s)

    @property
    def live_images_dropped(self) -> dict[str, int]:
        """Number of heatmaps and other pictures that were not sent over a present connection."""
        return {"heatmap": self._state.pictures.dropped, "image": self._state.snapshots.dropped}

    def await_first_attempt(self, stop: threading.Event) -> None:
        """Waits for the end of the first attempt to connect, `stop`, or 2 s. A missing broker is not an error."""
        end_s = time.monotonic() + FIRST_ATTEMPT_S
        while not stop.is_set() and time.monotonic() < end_s and not self._first_attempt_over.wait(WAIT_S):
            pass

    def accept_all(
        self,
        results: Sequence[tuple[Result, bytes | None]],
        on_durable: Sequence[Callable[[], None] | None],
    ) -> None:
        """Takes results with their heatmaps; all are in the spool when this returns. Never waits for the network.

        If the spool cannot be used, that is a `fault`, not an error, and the results wait in memory. A heatmap is sent
        right after its result, on its own topic, QoS 0, and only over the present connection.

        Args:
            results: with their heatmaps.
            on_durable: one per result, called in this thread or the sending thread when the result is in the spool or
                acknowledged. It is not called for a result that is given up before.
        """
        entry_ids = self._outbox.add_all(
            [self._accepted(result, heatmap, say) for (result, heatmap), say in zip(results, on_durable, strict=True)]
        )
        for entry_id, (result, heatmap) in zip(entry_ids, results, strict=True):
            if heatmap is not None:
                self._state.pictures.offer(
                    LivePicture(self._topics.heatmap(result.camera), heatmap, result.id, entry_id)
                )
        self._wake()

    def set_camera_status(self, camera: str, status: dict[str, Any]) -> None:
        """Publishes the camera's status as `set_retained` does."""
        self.set_retained(f"{camera}/status", encode(status))

    def set_retained(self, topic_suffix: str, payload: bytes) -> None:
        """Publishes on `<prefix>/<device_id>/<topic_suffix>`, retained, and again on every connection, because a broker
        may lose it. Without a connection only the latest payload of a topic is kept, in memory.
        """
        self._state.statuses.set(self._topics.below(topic_suffix), payload)
        self._wake()

    def set_retained_at(self, topic: str, payload: bytes) -> None:
        """As `set_retained`, on a topic that is not below the device's own. Call it before `clear_all_but`."""
        self._elsewhere.add(topic)
        self._state.statuses.set(topic, payload)
        self._wake()

    def clear_all_but(self, topic_suffixes: Collection[str], former: Published | None = None) -> None:
        """Removes the retained statuses and states of this device at the broker that are not in `topic_suffixes`.

        They are of cameras and commands of an earlier config. Other devices' topics are left alone, also at `former`,
        where this agent published under another id or prefix.
        """
        self._own.clear_all_but(topic_suffixes, former)
        for topic in set(former.elsewhere if former is not None else ()) - self._elsewhere:
            self._state.statuses.set(topic, b"")
        self._wake()

    def send_picture(self, topic_suffix: str, jpeg: bytes) -> bool:
        """Publishes a picture without a result, QoS 0, over the present connection; False without a connection."""
        taken = self._state.snapshots.offer(LivePicture(self._topics.below(topic_suffix), jpeg))
        self._wake()
        return taken

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Calls `handler` with the payloads of `topic` (full name, no wildcards), over this and later connections.

        QoS 1; the broker stores nothing while the agent is away. `Subscriptions` says which messages are ignored. The
        handler runs in the sending thread and must be fast.
        """
        self._state.incoming.subscribe(topic, handler)
        self._wake()

    def flush(self, timeout_s: float) -> int:
        """Waits until all results are sent, at most `timeout_s`. Returns the number of unsent results."""
        with self._settled:
            self._settled.wait_for(self._all_sent, timeout_s)
        return self._outbox.unsent

    def store_or_count_lost(self) -> int:
        """Counts results as given up that cannot be sent or stored before the process ends. Returns their number."""
        lost = self._outbox.store_or_count_lost()
        self._outbox.losses.note(Cause.DISK, "the agent ends, and the disk cannot be written", results=lost)
        return lost

    def _accepted(self, result: Result, heatmap: bytes | None, on_durable: Callable[[], None] | None) -> Accepted:
        picture = (result.id, heatmap) if heatmap and result.verdict in self._keeps_pictures_of else None
        return Accepted(result.camera, result.encode(), picture, on_durable)

    def _all_sent(self) -> bool:
        return self._outbox.unsent == self._outbox.unsent_pictures == self._state.pictures.waiting == 0

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: a wake-up is pending already; closed: the thread has ended
            self._wake_write.send(b"\0")

    def _note_settled(self) -> None:
        with self._settled:
            self._settled.notify_all()

    def _run(self) -> None:
        """The sending thread: one connection after the other until the stop."""
        while not self._state.stopping.is_set():
            useful, rival = self._state.tally.useful, False
            try:
                self._serve_one_connection()
            except LinkDownError as error:
                if isinstance(error, LinkTakenOverError):
                    self._own.taken_over()
                rival = self._own.rival and isinstance(error, LinkTakenOverError | LinkCutError)
                self._health.note(error.state, str(error))
            except ConfigError as error:  # password or certificates were changed
                self._health.note(BrokerState.UNREACHABLE, str(error))
            except Exception as error:  # a defect here must not end publishing for ever
                logger.exception("publishing failed")
                self._health.note(BrokerState.UNREACHABLE, f"internal error: {error}")
            self._state.pictures.set_connected(False)
            self._state.snapshots.set_connected(False)
            self._outbox.rewind()
            self._outbox.delete_acknowledged(everything=True)
            self._first_attempt_over.set()
            if self._state.tally.useful > useful:
                self._backoff.reset()
            self._pause(self._own.pause_s() if rival else self._backoff.next_s())
        self._health.note(BrokerState.STOPPED)

    def _serve_one_connection(self) -> None:
        """Connects and sends until the end.

        Connects once more with MQTT 3.1.1 if the broker does not know 5, or with a smaller will if it refuses the will.
        """
        protocols, will = list(self._protocols.to_try()), Will(topic=self._topics.available, payload=OFFLINE)
        while True:
            link = BrokerConnection(self._config, client_id=self._client_id, will=will, protocol=protocols[0])
            session = Session(link, self._state, self._topics, window=self._config.in_flight)
            started_s, limit_s = time.monotonic(), self._answer_patience.limit_s
            with contextlib.closing(link):
                try:
                    session.open(limit_s if len(protocols) == 1 else limit_s / 2)
                except LinkWillError as error:
                    will = error.smaller
                except (LinkVersionError, LinkCutError, LinkSilentError) as error:  # as brokers without MQTT 5 react
                    if isinstance(error, LinkSilentError):
                        self._answer_patience.was_exceeded()
                    if len(protocols) == 1:
                        self._protocols.failed()
                        raise
                    del protocols[0]
                else:
                    self._answer_patience.answered_after(time.monotonic() - started_s)
                    self._protocols.worked(protocols[0])
                    self._health.note(BrokerState.CONNECTED)
                    self._first_attempt_over.set()
                    session.serve()
                    return

    def _pause(self, delay_s: float) -> None:
        end_s = time.monotonic() + delay_s
        while (left_s := end_s - time.monotonic()) > 0 and not self._state.stopping.wait(min(left_s, CHECK_PLACE_S)):
            self._outbox.delete_acknowledged()
