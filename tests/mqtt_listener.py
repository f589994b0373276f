"""A subscriber to all topics, for tests."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion


class MqttListener:
    """Keeps all messages in the order of arrival. With `session` the broker keeps messages while it is disconnected.

    Args:
        will: topic and payload, retained.
        credentials: (user, password).
        tls: for a broker with TLS under the name `localhost`.
    """

    def __init__(
        self,
        port: int,
        *,
        session: str | None = None,
        will: tuple[str, bytes] | None = None,
        credentials: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._port = port
        self.messages: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=session or "", clean_session=session is None)
        self._client.reconnect_delay_set(1, 1)
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        if credentials is not None:
            self._client.username_pw_set(*credentials)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._host = "127.0.0.1" if tls is None else "localhost"
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect(self._host, self._port, keepalive=10)
        self._client.loop_start()
        assert self._subscribed.wait(60), "the broker took no subscription"
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(60)

    def break_off(self) -> None:
        """Ends the connection without DISCONNECT."""
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 120.0) -> None:
        """Waits until `condition` of this listener is true."""
        with self._changed:
            met = self._changed.wait_for(condition, timeout_s)
        assert met, f"not met within {timeout_s} s; {len(self.messages)} messages, the last: {self.messages[-3:]}"

    @property
    def topics(self) -> list[str]:
        return [topic for topic, _ in self.messages]

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for arrived, payload in self.messages if arrived == topic]

    def results(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload in self.messages if topic.endswith("/result")]

    def _on_message(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        with self._changed:
            self.messages.append((message.topic, message.payload))
            self._changed.notify_all()


def wait_until(condition: Callable[[], Any], timeout_s: float = 120.0) -> None:
    """Waits until `condition` is true; checks it every 10 ms."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, f"not met within {timeout_s} s"
        time.sleep(0.01)
