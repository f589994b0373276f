"""Cameras, settings, health, products, devices and probes, over real sockets."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from page_server import PASSWORD, Client, make_server, with_passwords
from profile_maker import make_profile
from stats_maker import AGENT

from zsad_agent.capture import CameraStatus
from zsad_agent.config import AgentConfig
from zsad_agent.probing import list_devices
from zsad_agent.probing import source as probing_source
from zsad_agent.teaching import ProfileStore
from zsad_core.errors import ZsadError

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
SECRET = "pass%40word"


@dataclass
class Settings:
    """Commands with what they set."""

    values: dict[tuple[str, str], Any] = field(default_factory=dict)

    def state(self, camera: str, key: str) -> dict[str, Any]:
        default = {"threshold": 0.5, "product": "nut", "paused": False}[key]
        source = "command" if (camera, key) in self.values else "config"
        return {"value": self.values.get((camera, key), default), "source": source}

    def perform(self, camera: str | None, key: str, value: Any, *, by: str) -> dict[str, Any]:
        assert camera is not None
        if value == "spoon":
            raise ZsadError("product 'spoon' is not in the bundle")
        self.values[camera, key] = value
        return self.state(camera, key) | {"error": None}


@dataclass
class Page:
    admin: Client
    operator: Client
    settings: Settings
    profiles: ProfileStore
    stations: list[Any]
    folder: Path


CONFIG = {
    "device_id": "line3",
    "cameras": [
        {"name": "cam0", "source": f"rtsp://user:{SECRET}@10.0.0.9/s?token=x", "region_xywh": [1, 2, 30, 40]},
        {"name": "cam1", "camera": 3, "trigger": "mqtt"},
    ],
    "mqtt": {"broker": "mqtt://127.0.0.1:1", "username": "agent"},
}


def page_with(folder: Path, config: dict[str, Any], **further: Any) -> Iterator[Page]:
    checked = AgentConfig.model_validate(config, strict=False)
    profiles = ProfileStore(folder / "profiles")
    stations = [
        SimpleNamespace(
            name=camera.name,
            status=CameraStatus(camera.name, lambda *_: None),
            inspector=SimpleNamespace(product="nut", threshold=None),
            capture=SimpleNamespace(paused=False, newest_images=lambda count, number=number: [PICTURE][number:]),
        )
        for number, camera in enumerate(checked.every_camera)
    ]
    model = SimpleNamespace(
        predictor=SimpleNamespace(is_taught=lambda product: profiles.has(product)),
        bundle=SimpleNamespace(manifest=SimpleNamespace(products=("object", "nut"))),
    )
    settings = Settings()
    changes = {
        "commands": settings,
        "profiles": profiles,
        "stations": stations,
        "models": SimpleNamespace(current=model),
        "snapshot": lambda: AGENT,
        **further,
    }
    with make_server(folder, settings=config, **changes) as server:
        assert server.port is not None
        admin = with_passwords(server.port)
        operator = Client(server.port)
        operator.log_in("operator")
        yield Page(admin, operator, settings, profiles, stations, folder)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setattr("zsad_agent.web.access._scrypt", lambda password, salt: password.encode() + salt)  # is slow
    yield from page_with(tmp_path, CONFIG)


def test_cameras_are_listed_without_passwords(page: Page) -> None:
    answer = page.operator.ask("GET", "/cameras")
    first, second = answer.json
    assert SECRET.encode() not in answer.body and b"token" not in answer.body
    assert first == {
        "name": "cam0",
        "source": "rtsp://***@10.0.0.9/s?…",
        "product": "nut",
        "threshold": 0.5,
        "taught": False,
        "paused": False,
        "up": False,
        "reason": None,
        "trigger": "free",
        "region_xywh": [1, 2, 30, 40],
        "ignore_mask": False,
        "frame_wh": [64, 48],
        "results": {"ok": 0, "anomalous": 0, "unknown": 0},
    }
    assert (second["source"], second["frame_wh"], second["trigger"]) == ("3", None, "mqtt")


def test_settings_are_changed_as_by_mqtt_and_are_in_the_audit_list(page: Page) -> None:
    changed = page.admin.ask("PUT", "/cameras/cam0/threshold", {"value": 0.7})
    assert (changed.status, changed.json) == (200, {"value": 0.7, "source": "command", "error": None})
    assert page.operator.ask("PUT", "/cameras/cam1/paused", {"value": True}).json["value"] is True
    assert page.operator.ask("PUT", "/cameras/cam1/product", {"value": "object"}).json["value"] == "object"
    assert page.settings.values == {("cam0", "threshold"): 0.7, ("cam1", "paused"): True, ("cam1", "product"): "object"}
    lines = page.admin.ask("GET", "/audit?limit=3").json
    assert [(line["who"], line["what"], line["before"], line["after"]) for line in lines] == [
        ("operator", "cam1 product", "nut", "object"),
        ("operator", "cam1 paused", False, True),
        ("admin", "cam0 threshold", 0.5, 0.7),
    ]


@pytest.mark.parametrize(
    ("path", "value", "status", "words"),
    [
        ("cam0/threshold", 1.1, 422, "1.1"),
        ("cam0/threshold", "0.5", 422, "valid number"),
        ("cam0/threshold", -0.0, 422, "write 0"),
        ("cam0/threshold", True, 422, "valid number"),
        ("cam0/paused", None, 422, "boolean"),
        ("cam0/paused", 1, 422, "boolean"),
        ("cam0/product", "", 422, "1 character"),
        ("cam0/product", "spoon", 422, "product 'spoon' is not in the bundle"),
        ("cam9/paused", True, 404, "no camera 'cam9'"),
    ],
)
def test_refused_settings_change_nothing(page: Page, path: str, value: Any, status: int, words: str) -> None:
    answer = page.admin.ask("PUT", f"/cameras/{path}", {"value": value})
    assert answer.status == status and words in answer.error
    assert not page.settings.values


def test_operator_changes_neither_threshold_nor_products_and_probes_nothing(page: Page) -> None:
    for method, path, body in (
        ("PUT", "/cameras/cam0/threshold", {"value": 0.7}),
        ("DELETE", "/products/nut", None),
        ("GET", "/devices", None),
        ("POST", "/probe/source", {"camera": "0"}),
        ("POST", "/probe/broker", {"broker": "mqtt://127.0.0.1"}),
    ):
        assert page.operator.ask(method, path, body).status == 403


def test_threshold_says_what_it_promises(page: Page) -> None:
    untaught = page.operator.ask("GET", "/cameras/cam0/threshold").json
    assert untaught["value"] == 0.5 and untaught["goods_scores"] == [] and untaught["promise"] is None
    page.profiles.add(make_profile(goods_scores=(0.5, 1.0, 1.5, 2.0, 2.499)))
    found = page.operator.ask("GET", "/cameras/cam0/threshold").json
    assert found["taught"] and len(found["goods_scores"]) == 5 and max(found["goods_scores"]) < 0.5
    assert found["promise"]["rejected"] == 0 and found["promise"]["goods"] == 5
    assert found["promise"]["rate"] == pytest.approx(1 / 6)  # as the profile's level says
    assert found["promise"]["rate_90"] == pytest.approx(1 - 0.1 ** (1 / 5))
    assert (found["recall"]["found"], found["recall"]["total"]) == (3, 4)
    assert found["recall"]["low"] < 0.75 < found["recall"]["high"]
    lower = page.operator.ask("GET", f"/cameras/cam0/threshold?value={found['goods_scores'][3]}").json
    assert (lower["promise"]["rejected"], lower["recall"]) == (2, None)
    assert page.operator.ask("GET", "/cameras/cam0/threshold?value=0").json["promise"]["rate"] == 1
    page.profiles.add(make_profile(seed=1, goods_scores=(0.1,)))  # a newer profile
    assert len(page.operator.ask("GET", "/cameras/cam0/threshold").json["goods_scores"]) == 1
    assert "value" in page.operator.ask("GET", "/cameras/cam0/threshold?value=1.5").error


def test_threshold_of_an_offer_is_told_before_it_is_taken_into_use(tmp_path: Path) -> None:
    offer = {"goods_scores": [0.1, 0.2, 0.3, 0.4], "bad_scores": [0.35, 0.8, 0.9]}
    learner = SimpleNamespace(lesson=lambda camera: {"phase": "offered", "offer": offer})
    for page in page_with(tmp_path, CONFIG, learner=learner):
        found = page.operator.ask("GET", "/cameras/cam0/threshold").json
        assert not found["taught"] and found["value"] == 0.5 and found["goods_scores"] == offer["goods_scores"]
        assert (found["promise"]["rejected"], found["recall"]["found"], found["recall"]["total"]) == (0, 2, 3)
        lower = page.operator.ask("GET", "/cameras/cam0/threshold?value=0.3").json
        assert (lower["promise"]["rejected"], lower["recall"]["found"]) == (2, 3)


def test_products_of_bundle_and_teach_in_and_their_removal(page: Page) -> None:
    page.profiles.add(make_profile("nut"))
    page.profiles.add(make_profile("bolt"))
    page.profiles.add(make_profile("washer"))
    page.profiles.path_of("washer").write_bytes(b"PK damaged")
    found = {product["name"]: product for product in page.operator.ask("GET", "/products").json}
    assert list(found) == ["bolt", "nut", "object", "washer"]
    assert found["nut"]["in_bundle"] and not found["bolt"]["in_bundle"] and found["object"]["taught"] is None
    assert found["nut"]["taught"]["goods"] == 5 and found["nut"]["taught"]["versions"] == [1]
    assert (found["washer"]["taught"] is None and "damaged" in found["washer"]["fault"]) or found["washer"]["fault"]
    refused = page.admin.ask("DELETE", "/products/nut")
    assert refused.status == 409 and "cam0, cam1 inspects 'nut'" in refused.error and page.profiles.has("nut")
    assert page.admin.ask("DELETE", "/products/bolt").status == 204 and not page.profiles.has("bolt")
    assert page.admin.ask("GET", "/audit?limit=1").json[0]["what"] == "product bolt removed"
    for name in ("bolt", "..", "%2e%2e%2fprofiles", ".lock"):
        assert page.admin.ask("DELETE", f"/products/{name}").status == 404
    assert page.profiles.has("nut")


def test_health_has_a_light_for_each_part_and_the_statistics(page: Page) -> None:
    found = page.operator.ask("GET", "/health").json
    assert found["ready"] is True and found["stats"]["schema"] == "zsad.stats/1"
    assert [light["name"] for light in found["lights"]] == [
        "camera cam0",
        "camera cam1",
        "broker",
        "disk",
        "model",
        "page",
    ]


def test_devices_of_the_kernel_are_found_with_name_and_link(tmp_path: Path) -> None:
    sysfs, dev = tmp_path / "sys", tmp_path / "dev"
    (dev / "v4l/by-id").mkdir(parents=True)
    for number, name in ((10, "Microscope\n"), (2, "Webcam\n")):
        (sysfs / f"video{number}").mkdir(parents=True)
        (sysfs / f"video{number}" / "name").write_text(name)
        (dev / f"video{number}").touch()
    (sysfs / "v4l-subdev0").mkdir()
    (dev / "v4l/by-id/usb-Webcam-index0").symlink_to("../../video2")
    found = list_devices(sysfs, dev)
    assert [(one.id, one.name, one.by_id and Path(one.by_id).name) for one in found] == [
        ("2", "Webcam", "usb-Webcam-index0"),
        ("10", "Microscope", None),
    ]
    assert list_devices(tmp_path / "none", dev) == []


@pytest.mark.parametrize(("capabilities", "listed"), [(0x04000001, True), (0x04A00000, False)])
def test_node_for_metadata_is_no_camera(
    capabilities: int, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "video0").mkdir()
    device = tmp_path / "dev"
    device.mkdir()
    (device / "video0").touch()
    monkeypatch.setattr(
        "zsad_agent.probing.devices.fcntl.ioctl",
        lambda node, request, answer: struct.pack_into("I", answer, 88, capabilities),
    )
    assert bool(list_devices(tmp_path, device)) is listed


def test_devices_say_which_camera_uses_them(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = [SimpleNamespace(key="camera", id=str(n), path=f"/dev/video{n}", by_id=None, name="x") for n in (0, 3)]
    genicam = [SimpleNamespace(key="aravis", id="Basler-1", path="Basler-1", by_id=None, name="GenICam")]
    monkeypatch.setattr("zsad_agent.web.cameras.list_devices", lambda: devices)
    monkeypatch.setattr("zsad_agent.web.cameras.list_genicam", lambda: genicam)
    told = page.admin.ask("GET", "/devices").json
    assert [(device["key"], device["used_by"]) for device in told] == [
        ("camera", None),
        ("camera", "cam1"),
        ("aravis", None),
    ]


def test_source_is_tried_in_a_process_of_its_own(page: Page, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), PICTURE)
    answer = page.admin.ask("POST", "/probe/source", {"source": str(tmp_path)})
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert answer.status == 200 and picture is not None and picture.shape == (48, 64, 3)
    with MjpegServer() as camera:
        camera.password = "word"
        url = camera.url.replace("://", "://user:wrong@")
        refused = page.admin.ask("POST", "/probe/source", {"source": url})
        assert refused.status == 422 and "401: wrong user name or password" in refused.error
        assert "wrong@" not in refused.error
        allowed = page.admin.ask("POST", "/probe/source", {"source": camera.url.replace("://", "://user:word@")})
        assert allowed.status == 200 and allowed.headers["Content-Type"] == "image/jpeg"
    told = str(page.admin.ask("GET", "/audit?limit=5").json)
    assert "source tried" in told and "word@" not in told


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name either camera, source or aravis"),
        ({"camera": "0", "source": "x"}, "name either camera, source or aravis"),
        ({"source": "/etc/passwd"}, ""),
        ({"source": "/no/such/folder"}, "no such video, picture or folder"),
        ({"source": "file:///etc/passwd"}, "source: scheme 'file' is not known"),
        ({"camera": "7777"}, "does not exist"),
        ({"camera": "a\0b"}, "camera"),
        ({"source": "a\0b"}, "source"),
        ({"camera": "../etc/passwd"}, "expected an index"),
        ({"camera": "/etc/passwd"}, "expected an index"),
    ],
)
def test_what_is_no_source_is_refused_with_the_reason(page: Page, body: dict[str, str], words: str) -> None:
    answer = page.admin.ask("POST", "/probe/source", body)
    assert answer.status == 422 and words in answer.error, answer.error
    assert "root:" not in answer.error


def test_source_that_hangs_is_given_up_and_only_one_is_tried_at_a_time(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.probing.source.LIMIT_S", 2)
    answers: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        body = {"source": f"rtsp://127.0.0.1:{silent.getsockname()[1]}/never"}
        thread = threading.Thread(target=lambda: answers.append(page.admin.ask("POST", "/probe/source", body)))
        thread.start()
        wait_until(probing_source._busy.locked)
        second = page.admin.ask("POST", "/probe/source", body)
        thread.join(60)
    assert second.status == 422 and "another source is being tried" in second.error
    assert answers[0].status == 422


def test_source_in_use_is_shown_without_opening_it_again(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.web.cameras.probe_source", lambda config: pytest.fail("opened"))
    for source in (f"rtsp://user:{SECRET}@10.0.0.9/s?token=x", "rtsp://***@10.0.0.9/s?…"):
        assert page.admin.ask("POST", "/probe/source", {"source": source}).status == 200


def test_broker_is_tried_and_told_in_words(
    page: Page, mosquitto: Callable[..., MosquittoBroker], tmp_path: Path
) -> None:
    broker = mosquitto()
    assert page.admin.ask("POST", "/probe/broker", {"broker": broker.url}).json == {
        "ok": True,
        "text": "connected with MQTT 5",
    }
    for body, words in (
        ({"broker": "mqtt://127.0.0.1:1"}, "Connection refused"),
        ({"broker": "mqtt://no-such-host.invalid"}, "no-such-host.invalid"),
        ({"broker": broker.url.replace("mqtt:", "mqtts:")}, "does not speak TLS"),
    ):
        answer = page.admin.ask("POST", "/probe/broker", body).json
        assert answer["ok"] is False and words in answer["text"], answer
    for body, words in (
        ({"broker": "http://x"}, "mqtt"),
        ({"broker": "mqtt://user:word@x"}, "credentials do not belong in the URL"),
        ({"broker": broker.url, "password": "x"}, "needs a username"),
        ({"broker": broker.url, "client_id": "a b"}, "client_id"),
    ):
        refused = page.admin.ask("POST", "/probe/broker", body)
        assert refused.status == 422 and words in refused.error and "word@" not in refused.error


def test_password_of_the_config_goes_to_its_own_broker_only(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Any] = []

    def note(config: Any, *, password: str | None) -> tuple[bool, str]:
        tried.append((config.username, config.client_id, password))
        return True, ""

    monkeypatch.setattr("zsad_agent.web.cameras.probe_broker", note)
    for body in (
        {},
        {"broker": "mqtt://127.0.0.1:1"},
        {"broker": "mqtt://127.0.0.1:2"},
        {"broker": "mqtt://127.0.0.1:1", "username": "other", "password": PASSWORD, "client_id": "zsad-agent-line3"},
    ):
        assert page.admin.ask("POST", "/probe/broker", body).status == 200
    assert tried == [("agent", None, None)] * 2 + [(None, None, None), ("other", None, PASSWORD)]
    assert PASSWORD not in str(page.admin.ask("GET", "/audit").json)


def test_broker_that_does_not_answer_is_given_up_in_five_seconds(page: Page) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began_s = time.monotonic()
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        answer = page.admin.ask("POST", "/probe/broker", {"broker": url}).json
        assert not answer["ok"] and "answer" in answer["text"]
        assert time.monotonic() - began_s < 25  # a client waits for 30 s
