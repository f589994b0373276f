"""What messages say about themselves with MQTT 5."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from mqtt_listener import wait_until
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from publisher_tools import BrokerFactory, publishing
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.config import MqttConfig
from zsad_agent.mqtt import BrokerConnection

PICTURE = b"\xff\xd8 overlay"
BASE = "zsad/line3"


@contextmanager
def everything(port: int) -> Iterator[list[mqtt.MQTTMessage]]:
    """All messages, with their properties."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    messages: list[mqtt.MQTTMessage] = []
    subscribed = threading.Event()
    client.on_connect = lambda *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _c, _u, message: messages.append(message)
    client.connect("127.0.0.1", port)
    client.loop_start()
    assert subscribed.wait(60)
    yield messages
    client.disconnect()
    client.loop_stop()


def properties_of(message: mqtt.MQTTMessage) -> tuple[str | None, dict[str, str]]:
    """Content type and user properties."""
    properties = message.properties
    return getattr(properties, "ContentType", None), dict(getattr(properties, "UserProperty", ()))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_messages_name_their_type_and_pictures_their_result(
    mosquitto: BrokerFactory, tmp_path: Path, protocol: str
) -> None:
    broker = mosquitto()
    suffixes = {
        "cam0/result", "cam0/heatmap", "cam0/image", "cam0/evidence/line3-b1-7", "cam0/status", "stats", "available",
    }  # fmt: skip
    with everything(broker.port) as messages:
        with publishing(broker.url, tmp_path, pictures="all", protocol=protocol) as publisher:
            publisher.set_camera_status("cam0", {"state": "ok"})
            publisher.set_retained("stats", b'{"at":1}')
            accept(publisher, result(7), PICTURE)
            assert publisher.send_picture("cam0/image", PICTURE)
            wait_until(lambda: {message.topic for message in messages} >= {f"{BASE}/{one}" for one in suffixes})
        found = {message.topic.removeprefix(f"{BASE}/"): properties_of(message) for message in messages}
    picture, json = "image/jpeg", "application/json"
    assert {suffix: found[suffix] for suffix in suffixes} == (
        dict.fromkeys(suffixes, (None, {}))
        if protocol == "3.1.1"
        else {
            "cam0/result": (json, {}),
            "cam0/heatmap": (picture, {"result_id": "line3-b1-7"}),
            "cam0/image": (picture, {}),
            "cam0/evidence/line3-b1-7": (picture, {"result_id": "line3-b1-7"}),
            "cam0/status": (json, {}),
            "stats": (json, {}),
            "available": (None, {}),
        }
    )


def test_a_picture_fits_into_the_largest_packet_with_its_properties(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    """A packet above the broker's limit would end the connection."""
    broker = mosquitto(extra="max_packet_size 20000")
    with everything(broker.port) as messages:
        with publishing(broker.url, tmp_path, protocol="5") as publisher:
            for size in range(19_850, 20_000):
                accept(publisher, result(size), bytes(size))
            accept(publisher, result(1), PICTURE)
            assert publisher.flush(60) == 0
            wait_until(lambda: any(message.payload == PICTURE for message in messages))
            assert publisher.stats.connections == 1
        sizes = [len(message.payload) for message in messages if message.topic.endswith("/heatmap")]
    assert 19_850 in sizes and 0 < publisher.live_images_dropped["heatmap"] < 150


def test_a_result_does_not_wait_for_the_acknowledgement_of_an_earlier_packet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = MqttConfig(broker=f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        link = BrokerConnection(config, client_id="line3", will=None, protocol=MQTTProtocolVersion.MQTTv5)
        with closing(link):
            link.dial()
            sock = link._client.socket()
            assert sock is not None and sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
