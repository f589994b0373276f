"""A Sparkplug host for tests. It decodes with protobuf's own library, from the message types of the specification."""

import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import paho.mqtt.client as mqtt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from paho.mqtt.enums import CallbackAPIVersion

PREFIX = "spBv1.0/zsad"
_OPTIONAL, _REPEATED = 1, 3
_DOUBLE, _FLOAT, _UINT64, _BOOL, _STRING, _MESSAGE, _BYTES, _UINT32 = 1, 2, 4, 8, 9, 11, 12, 13


@functools.cache
def payload_type() -> Any:
    """The message class `Payload` of `sparkplug_b.proto`."""
    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="test", syntax="proto2")
    payload = file.message_type.add(name="Payload")
    metric = payload.nested_type.add(name="Metric")
    values = [("int_value", 10, _UINT32), ("long_value", 11, _UINT64), ("float_value", 12, _FLOAT)]
    values += [("double_value", 13, _DOUBLE), ("boolean_value", 14, _BOOL), ("string_value", 15, _STRING)]
    metric.oneof_decl.add(name="value")
    for name, number, kind in values:
        metric.field.add(name=name, number=number, type=kind, label=_OPTIONAL, oneof_index=0)
    heads = [("name", 1, _STRING), ("alias", 2, _UINT64), ("timestamp", 3, _UINT64), ("datatype", 4, _UINT32)]
    for name, number, kind in [*heads, ("is_historical", 5, _BOOL), ("is_transient", 6, _BOOL), ("is_null", 7, _BOOL)]:
        metric.field.add(name=name, number=number, type=kind, label=_OPTIONAL)
    for name, number, kind in (("timestamp", 1, _UINT64), ("seq", 3, _UINT64), ("uuid", 4, _STRING)):
        payload.field.add(name=name, number=number, type=kind, label=_OPTIONAL)
    payload.field.add(name="metrics", number=2, type=_MESSAGE, label=_REPEATED, type_name=".test.Payload.Metric")
    payload.field.add(name="body", number=5, type=_BYTES, label=_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("test.Payload"))


def decode(encoded: bytes) -> Any:
    """The payload; it has no field that the specification does not know."""
    payload = payload_type().FromString(encoded)
    assert not any(len(UnknownFieldSet(part)) for part in (payload, *payload.metrics))
    return payload


def value_of(metric: Any) -> Any:
    """The value of a metric; None: null."""
    which = metric.WhichOneof("value")
    assert (which is None) == metric.is_null
    return None if which is None else getattr(metric, which)


class Message(NamedTuple):
    kind: str  # NBIRTH, DDATA, …
    device: str  # the camera; empty for the node
    payload: Any
    retained: bool

    @property
    def values(self) -> dict[str, Any]:
        return {metric.name: value_of(metric) for metric in self.payload.metrics}


class SparkplugHost:
    """Keeps the messages of all nodes in the group `zsad`, in the order of arrival."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.messages: list[Message] = []
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{PREFIX}/#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        assert self._subscribed.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def command(self, node: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(f"{PREFIX}/NCMD/{node}", payload, qos=1, retain=retain).wait_for_publish(60)

    def ask_for_rebirth(self, node: str) -> None:
        payload = payload_type()()
        payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=True, timestamp=1)
        self.command(node, payload.SerializeToString())

    def mark(self) -> None:
        """Publishes a message that comes after those that the broker sends at this moment."""
        self._client.publish(f"{PREFIX}/DDATA/test/mark", b"", qos=1).wait_for_publish(60)

    def of(self, kind: str) -> list[Message]:
        return [message for message in self.messages if message.kind == kind]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
        with self._changed:
            met = self._changed.wait_for(condition, timeout_s)
        assert met, [(message.kind, message.device) for message in self.messages]

    def _on_message(self, client: object, userdata: object, message: mqtt.MQTTMessage) -> None:
        kind, _node, *device = message.topic.removeprefix(f"{PREFIX}/").split("/")
        if kind == "NCMD":
            return
        with self._changed:
            self.messages.append(Message(kind, "".join(device), decode(message.payload), message.retain))
            self._changed.notify_all()
