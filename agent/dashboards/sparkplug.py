"""Publishes results and the agent's state as Sparkplug B, over a connection of its own.

Source: Eclipse Sparkplug specification 3.0. The agent is an edge node, each camera a device of it.
"""

import contextlib
import logging
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from zsad_agent.config import MqttConfig
from zsad_agent.dashboards.sparkplug_payload import REBIRTH, DataType, Metric, asks_for_rebirth, encode_payload
from zsad_agent.messages import AgentSnapshot, Result
from zsad_agent.mqtt import (
    BrokerConnection,
    LinkCutError,
    LinkDownError,
    LinkSilentError,
    LinkVersionError,
    ProtocolChoice,
    Will,
    broker_address,
)
from zsad_agent.system import Backoff, Service, lower_priority, read_json, write_whole
from zsad_core.config import RecordModel
from zsad_core.errors import ConfigError
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

MOST_WAITING = 1000  # results
FACTS_S = 5.0  # between two checks of what is not a result
DROP_SHOWN_S = 60.0  # a drop is a fault for this long
ANSWER_S = 10.0  # longest wait for the broker's answer to the connection
GOODBYE_S = 0.4  # longest wait for the acknowledgement of the last message
POLL_S = 1.0
STEADY_AFTER_S = 10.0  # a connection that lasts so long is not one of a row that fail
MOST_BYTES = 1000  # of the file
RECONNECT_S = (1.0, 30.0)  # shortest and longest pause


class BirthDeath(RecordModel):
    """The file `sparkplug.json` of the state folder."""

    bd_seq: int  # of the newest connection, 0 to 255: tells to which birth a death belongs


class SparkplugPublisher(Service):
    """Its own thread sends. A sink of the pipeline, which never waits for it.

    Results are sent live only. Those of a time without a connection, and the oldest ones when too many wait, are
    dropped and counted; each birth has the newest values.
    """

    name = "sparkplug"
    stop_s = GOODBYE_S + 0.1

    def __init__(
        self,
        config: MqttConfig,
        snapshot: Callable[[], AgentSnapshot],
        *,
        group: str,
        device_id: str,
        cameras: Sequence[str],
        state_file: Path,
        reconnect_s: tuple[float, float] = RECONNECT_S,
    ) -> None:
        """Starts nothing. `config` names a broker with a URL; `snapshot` is called by the thread."""
        self._config, self._snapshot = config, snapshot
        self._group, self._node = group, device_id
        self._cameras = tuple(cameras)
        self._client_id = f"{config.client_id or f'zsad-agent-{device_id}'}-sparkplug"
        self._state_file = state_file
        self._protocols = ProtocolChoice(config.protocol)
        self._backoff = Backoff(*reconnect_s)
        self._lock = threading.Lock()
        self._live = True  # results are taken: connected, or before the end of the first attempt
        self._queue: deque[tuple[str, list[Metric]]] = deque()  # camera, values
        self._counts: dict[str, Counter[Verdict]] = {camera: Counter() for camera in cameras}
        self._newest = {camera: _values(None, self._counts[camera]) for camera in cameras}
        self._dropped, self._dropped_at_s = 0, 0.0
        self._reason: str | None = None  # why there is no connection
        self._bd_seq: int | None = None
        self._was_accepted = True  # whether a broker has accepted a connection with this number
        self._seq = 0
        self._sent = dict(self._newest)  # values that the last births and data have shown, by camera
        self._facts: dict[str, list[Metric]] = {}  # likewise for what is not a result
        self._stop = threading.Event()
        self._wake, self._wake_write = socket.socketpair()
        self._wake.setblocking(False)
        self._wake_write.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="zsad-sparkplug", daemon=True)

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Queues a result."""
        with self._lock:
            counts = self._counts[result.camera]
            counts[result.verdict] += 1
            values = self._newest[result.camera] = _values(result, counts)
            if not self._live:
                self._note_dropped(1)
                return
            was_empty = not self._queue
            if len(self._queue) >= MOST_WAITING:
                self._queue.popleft()
                self._note_dropped(1)
            self._queue.append((result.camera, values))
        if was_empty:
            self._wake_up()

    @property
    def fault(self) -> str | None:
        """Why nothing is sent, and how many results were not sent since the start."""
        with self._lock:
            reason, dropped = self._reason, self._dropped
            recent = dropped > 0 and time.monotonic() - self._dropped_at_s < DROP_SHOWN_S
        if reason is None and not recent:
            return None
        return "sparkplug: " + "; ".join(filter(None, (reason, f"{dropped} results were not sent" if dropped else "")))

    def stop(self, deadline_s: float) -> None:
        """Publishes NDEATH and disconnects. If the broker does not answer in time, it publishes the will."""
        self._stop.set()
        self._wake_up()
        if self._wait(deadline_s):
            self._wake.close()
            self._wake_write.close()

    def _wake_up(self) -> None:
        with contextlib.suppress(OSError):  # full: a wake-up is pending already; closed: the thread has ended
            self._wake_write.send(b"\0")

    def _note_dropped(self, count: int) -> None:
        """Call it with the lock."""
        if count:
            self._dropped, self._dropped_at_s = self._dropped + count, time.monotonic()

    def _run(self) -> None:
        lower_priority()
        while not self._stop.is_set():
            try:
                self._serve_one_connection()
            except (LinkDownError, ConfigError) as error:
                self._lost(str(error))
            except Exception as error:  # a defect here must not end it for ever
                logger.exception("sparkplug failed")
                self._lost(f"internal error: {error}")
            self._stop.wait(self._backoff.next_s())

    def _lost(self, reason: str) -> None:
        """Notes the end of a connection or attempt, and drops what waits. Logs the first of a row."""
        host, port = broker_address(self._config)
        with self._lock:
            was_known, self._live = self._reason is not None, False
            self._reason = f"broker {host}:{port}: {reason}"
            self._note_dropped(len(self._queue))
            self._queue.clear()
        if not was_known and not self._stop.is_set():
            logger.warning("%s", self.fault)

    def _serve_one_connection(self) -> None:
        """Connects and sends until the end; tries MQTT 3.1.1 if the broker does not know 5."""
        protocols = self._protocols.to_try()
        for protocol in protocols:
            bd_seq = self._next_bd_seq()
            will = Will(topic=self._topic("NDEATH"), payload=_death(bd_seq), retain=False)
            link = BrokerConnection(self._config, client_id=self._client_id, will=will, protocol=protocol)
            with contextlib.closing(link):
                try:
                    self._open(link, ANSWER_S / len(protocols))
                except (LinkVersionError, LinkCutError, LinkSilentError):
                    if protocol is protocols[-1]:
                        self._protocols.failed()
                        raise
                    continue
                self._was_accepted = True
                self._protocols.worked(protocol)
                self._serve(link, bd_seq)
                return

    def _open(self, link: BrokerConnection, limit_s: float) -> None:
        link.dial()
        end_s = time.monotonic() + limit_s
        while not link.accepted:
            if self._stop.is_set():
                raise LinkDownError("stopped")
            if time.monotonic() > end_s:
                raise LinkSilentError(f"no answer within {limit_s:.0f} s")
            self._poll(link, POLL_S)

    def _serve(self, link: BrokerConnection, bd_seq: int) -> None:
        """Sends until the stop.

        Raises:
            LinkDownError: the connection has ended.
        """
        link.subscribe(self._topic("NCMD"))
        with self._lock:
            was_lost, self._reason = self._reason, None
            if not self._live:
                self._live, self._sent = True, dict(self._newest)
        if was_lost is not None:
            logger.info("sparkplug: the broker is back")
        births_due, next_facts_s, steady_at_s = True, 0.0, time.monotonic() + STEADY_AFTER_S
        while not self._stop.is_set():
            if births_due and not link.backed_up:
                self._publish_births(link, bd_seq)
                births_due, next_facts_s = False, time.monotonic() + FACTS_S
            self._publish_results(link)
            if time.monotonic() >= next_facts_s and not link.backed_up:
                self._publish_changed_facts(link)
                next_facts_s = time.monotonic() + FACTS_S
            births_due |= self._poll(link, POLL_S)
            if time.monotonic() > steady_at_s:
                self._backoff.reset()
        self._publish_results(link)
        self._say_goodbye(link, bd_seq)

    def _poll(self, link: BrokerConnection, timeout_s: float) -> bool:
        """Sends and receives. Whether a host asks for the births.

        Raises:
            LinkDownError: the connection has ended.
        """
        events = link.poll(self._wake, timeout_s)
        if events.end is not None:
            raise events.end
        for refusal in filter(None, events.answers.values()):
            logger.warning("sparkplug: the broker refuses %s: %s", self._topic("NCMD"), refusal)
        return any(asks_for_rebirth(one.payload) for one in events.arrived if not one.retained)

    def _publish_births(self, link: BrokerConnection, bd_seq: int) -> None:
        self._seq, self._facts = 0, self._read_facts()
        now_ms = _now_ms()
        control = [
            Metric("bdSeq", DataType.INT64, bd_seq, now_ms),
            Metric(REBIRTH, DataType.BOOLEAN, False, now_ms),
        ]
        self._publish(link, "NBIRTH", [*control, *self._facts[""]])
        for camera in self._cameras:
            self._publish(link, "DBIRTH", [*self._sent[camera], *self._facts[camera]], camera)

    def _publish_results(self, link: BrokerConnection) -> None:
        """Only as fast as the network, so that paho queues nothing."""
        while not link.backed_up:
            with self._lock:
                if not self._queue:
                    return
                camera, values = self._queue.popleft()
            self._sent[camera] = values
            self._publish(link, "DDATA", values, camera)

    def _publish_changed_facts(self, link: BrokerConnection) -> None:
        facts = self._read_facts()
        for place, metrics in facts.items():
            before = {metric.name: metric.value for metric in self._facts[place]}
            if changed := [metric for metric in metrics if metric.value != before[metric.name]]:
                self._publish(link, "DDATA" if place else "NDATA", changed, place)
        self._facts = facts

    def _read_facts(self) -> dict[str, list[Metric]]:
        """By camera, and that of the node as ""."""
        stats, now_ms = self._snapshot().stats, _now_ms()
        node = [
            Metric("Agent/Version", DataType.STRING, stats.version, now_ms),
            Metric("Agent/Bundle", DataType.STRING, f"{stats.bundle.name} {stats.bundle.version}", now_ms),
            Metric("Agent/Results Waiting", DataType.UINT64, stats.spool.entries, now_ms),
            Metric("Agent/Faults", DataType.STRING, "; ".join(stats.faults), now_ms),
        ]
        cameras = {
            camera: [
                Metric("Up", DataType.BOOLEAN, stats.cameras[camera].up, now_ms),
                Metric("Fault", DataType.STRING, stats.cameras[camera].reason or "", now_ms),
            ]
            for camera in self._cameras
        }
        return {"": node, **cameras}

    def _publish(self, link: BrokerConnection, kind: str, metrics: Sequence[Metric], camera: str = "") -> None:
        payload = encode_payload(metrics, at_ms=_now_ms(), seq=self._seq)
        self._seq = (self._seq + 1) % 256
        link.publish(self._topic(kind, camera), payload, qos=0)

    def _say_goodbye(self, link: BrokerConnection, bd_seq: int) -> None:
        mid = link.publish(self._topic("NDEATH"), _death(bd_seq), qos=1)
        end_s = time.monotonic() + GOODBYE_S
        while (left_s := end_s - time.monotonic()) > 0:
            events = link.poll(self._wake, left_s)
            if events.end is not None:
                return
            if mid in events.answers:
                link.say_goodbye()
                return

    def _topic(self, kind: str, camera: str = "") -> str:
        topic = f"spBv1.0/{self._group}/{kind}/{self._node}"
        return f"{topic}/{camera}" if camera else topic

    def _next_bd_seq(self) -> int:
        """The number of the next connection, kept over restarts. A connection that failed has not used its number."""
        if self._bd_seq is not None and not self._was_accepted:
            return self._bd_seq
        if self._bd_seq is None:
            try:
                before = read_json(self._state_file, BirthDeath, MOST_BYTES)
            except ValueError as error:
                logger.warning("%s: %s. Sparkplug's bdSeq starts at 0", self._state_file, error)
                before = None
            self._bd_seq = before.bd_seq if before is not None else -1
        self._bd_seq, self._was_accepted = (self._bd_seq + 1) % 256, False
        try:
            write_whole(self._state_file, BirthDeath(bd_seq=self._bd_seq).model_dump_json().encode())
        except OSError as error:
            logger.warning("%s: cannot be written: %s", self._state_file, error.strerror)
        return self._bd_seq


def _values(result: Result | None, counts: Mapping[Verdict, int]) -> list[Metric]:
    """What a camera shows after `result`; None: before the first."""
    at_ms = _now_ms() if result is None else int(result.captured_at.timestamp() * 1000)
    return [
        Metric("Score", DataType.DOUBLE, None if result is None else result.anomaly_score, at_ms),
        Metric("Verdict", DataType.STRING, None if result is None else result.verdict.value, at_ms),
        Metric("Threshold", DataType.DOUBLE, None if result is None else result.threshold, at_ms),
        Metric("Product", DataType.STRING, None if result is None else result.product, at_ms),
        Metric("Result Id", DataType.STRING, None if result is None else result.id, at_ms),
        Metric("Reason", DataType.STRING, None if result is None else result.reason, at_ms),
        *(
            Metric(f"Counters/{verdict.value.capitalize()}", DataType.UINT64, counts[verdict], at_ms)
            for verdict in Verdict
        ),
    ]


def _death(bd_seq: int) -> bytes:
    now_ms = _now_ms()
    return encode_payload([Metric("bdSeq", DataType.INT64, bd_seq, now_ms)], at_ms=now_ms, seq=None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
