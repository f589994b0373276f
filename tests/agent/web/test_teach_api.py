"""Teach-in over real sockets: a real learner with a fake teacher, and the rules of the MQTT command."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from learning_tools import LearnerLine
from page_server import Client, make_server, with_passwords

from zsad_agent.control import RunningAgent
from zsad_agent.control.command import Key, TeachRequest, check_value
from zsad_agent.learning import LineLearner
from zsad_core.picture import decode_image, with_comment

PICTURES = "/cameras/cam0/teach/pictures"


class TeachCommands:
    """Carries out `teach` as the controller does, in the thread of the request."""

    def __init__(self, learner: LineLearner | None, stations: list[Any]) -> None:
        unused: Any = None
        self._agent = RunningAgent(stations, unused, unused, unused, unused, learner)

    def state(self, camera: str, key: str) -> dict[str, Any]:
        if key != Key.TEACH:
            return {"value": 0.5 if key == Key.THRESHOLD else self._agent.product(camera), "source": "command"}
        return {"value": self._agent.teaching(camera), "source": "command"}

    def perform(self, camera: str | None, key: str, value: Any, *, by: str) -> dict[str, Any]:
        request = check_value(Key(key), value)
        assert isinstance(request, TeachRequest) and camera is not None and by in ("operator", "admin")
        self._agent.teach(camera, request)
        return self.state(camera, key)


@dataclass
class Page:
    line: LearnerLine
    client: Client

    def post(self, **value: Any) -> Any:
        answer = self.client.ask("POST", "/cameras/cam0/teach", value)
        assert answer.status == 200, answer.body
        assert self.line.learner.wait_idle(60)
        return answer.json

    def give(self, seed: int, kind: str = "good") -> str:
        answer = self.client.ask("POST", f"{PICTURES}?kind={kind}&name=p{seed}.png", png(seed))
        assert answer.status == 201, answer.body
        assert self.line.learner.wait_idle(60)
        return str(answer.json["id"])

    @property
    def pictures(self) -> dict[str, dict[str, Any]]:
        return {picture["id"]: picture for picture in self.client.ask("GET", PICTURES).json}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)


def png(seed: int) -> bytes:
    return encoded(".png", pixels(seed))


def encoded(suffix: str, image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(suffix, image)[1].tobytes())


def station(name: str) -> Any:
    inspector = SimpleNamespace(threshold=None, product="nut")
    return SimpleNamespace(name=name, inspector=inspector)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    stations = [station("cam0")]
    with (
        LearnerLine(tmp_path) as line,
        make_server(
            tmp_path, learner=line.learner, commands=TeachCommands(line.learner, stations), stations=stations
        ) as server,
    ):
        assert server.port is not None
        yield Page(line, Client(server.port).open())


def test_a_product_is_taught_from_the_start_to_the_roll_back(page: Page) -> None:
    idle = page.client.ask("GET", "/cameras/cam0/teach").json
    assert (idle["phase"], idle["next"]) == ("idle", ["start"])
    refused = page.client.ask("POST", "/cameras/cam0/teach", {"action": "roll_back"})
    assert refused.status == 422 and "'nut' is not taught" in refused.error
    started = page.post(action="start", product="nut", count=10)
    assert (started["phase"], started["needed"], started["asked"]) == ("gathering", 10, True)
    page.line.pass_by(6)
    page.post(action="finish")
    offered = page.client.ask("GET", "/cameras/cam0/teach").json
    assert offered["phase"] == "offered" and len(offered["offer"]["goods_scores"]) == 5
    assert offered["offer"]["recall"] is None and offered["offer"]["bad_scores"] == []
    listed = page.client.ask("GET", offered["pictures_url"], raw=True).json
    assert [picture["state"] for picture in listed] == ["left_out", *["learned"] * 5]
    assert listed[0]["reason"] == "may be defective" and listed[1]["score"] == 0.1

    assert page.client.ask("DELETE", f"{PICTURES}/{listed[0]['id']}").status == 204
    assert page.line.learner.wait_idle(60) and len(page.pictures) == 5
    committed = page.post(action="commit")
    assert (committed["phase"], committed["next"]) == ("idle", ["start"])
    refused = page.client.ask("POST", "/cameras/cam0/teach", {"action": "roll_back"})
    assert refused.status == 422 and "there is no earlier one" in refused.error
    first = page.line.store.current("nut").sha256
    page.post(action="start", count=3)
    page.line.pass_by(3)
    assert page.post(action="commit")["next"] == ["start", "roll_back"]
    assert page.line.store.current("nut").sha256 != first
    back = page.post(action="roll_back")
    assert first[:12] in back["text"] and back["next"] == ["start"]
    audit = page.client.ask("GET", "/audit").json
    assert [line["after"]["action"] for line in audit if line["what"] == "cam0 teach"][-1] == "start"
    commit = next(line for line in audit if "threshold" in str(line["before"]))
    assert commit["after"]["action"] == "commit" and commit["after"]["product"] == "nut"
    assert any(line["what"] == "cam0 teach: picture removed" for line in audit)


def test_a_second_start_is_refused_until_the_first_teach_in_is_cancelled(page: Page) -> None:
    page.post(action="start", product="nut", count=10)
    page.line.pass_by(4)
    refused = page.client.ask("POST", "/cameras/cam0/teach", {"action": "start", "product": "screw"})
    assert refused.status == 409 and "'nut' is being taught at this camera, from 4 pictures" in refused.error
    assert len(page.pictures) == 4
    page.post(action="cancel")
    assert page.post(action="start", product="screw")["product"] == "screw"


def test_files_are_taken_with_the_camera_s_region_and_shown(page: Page) -> None:
    page.post(action="start", count=3)
    page.line.cut_height = 30
    given = page.give(1)
    jpeg = page.client.ask("GET", f"{PICTURES}/{given}.jpg?width=32")
    assert jpeg.headers["Content-Type"] == "image/jpeg"
    assert decode_image(np.frombuffer(jpeg.body, np.uint8), "thumbnail").shape == (15, 32, 3)
    bad = page.give(2, "bad")
    assert {(one["id"], one["kind"], one["state"]) for one in page.pictures.values()} == {
        (given, "good", "gathered"),
        (bad, "bad", "gathered"),
    }
    page.give(3)
    page.give(4)
    found = page.client.ask("GET", "/cameras/cam0/teach").json
    assert found["phase"] == "offered" and found["offer"]["bad_scores"] == [0.8]
    assert found["offer"]["recall"]["found"] == 1 and page.pictures[bad]["score"] == 0.8
    left_out = next(one["id"] for one in page.pictures.values() if one["state"] == "left_out")
    assert page.post(action="good", id=left_out)["phase"] in ("learning", "offered")
    assert page.pictures[left_out]["state"] == "learned" and page.line.teach.calls[-1]["kept"] == [left_out]


OVERLAY = with_comment(encoded(".jpg", pixels(1)), "overlay")


@pytest.mark.parametrize(
    ("query", "body", "reason"),
    [
        ("name=a.png", b"", "a.png: not an image"),
        ("name=a.png", png(1)[:-20], "a.png: the PNG is truncated"),
        ("name=a.png", b"\x89PNG" + bytes(10_000), "a.png"),
        ("name=a.jpg", b"GIF89a" + bytes(30), "a.jpg"),
        ("name=a.jpg", OVERLAY, "a.jpg: an overlay of the agent"),
        ("name=x/a.overlay.jpg", png(1), "a.overlay.jpg: an overlay of the agent"),
        ("name=a.jpg", with_comment(encoded(".jpg", pixels(1)), "anomalous"), "was anomalous"),
        ("name=a.png&kind=odd", png(1), "kind"),
        ("", png(9), "picture: the same part as given.first"),
    ],
)
def test_a_file_that_is_no_picture_of_a_part_is_refused_with_the_reason(
    page: Page, query: str, body: bytes, reason: str
) -> None:
    page.post(action="start", count=3)
    assert page.client.ask("POST", f"{PICTURES}?name=first.png", png(9)).status == 201
    refused = page.client.ask("POST", f"{PICTURES}?{query}", body)
    assert refused.status == 422 and reason in refused.error and "Traceback" not in refused.error
    assert len(page.pictures) == 1
    page.line.pass_by(1)  # the line goes on
    assert page.line.state["pictures"] == 2 and page.line.learner.fault is None


def test_content_decides_how_a_file_is_read_and_exif_turns_it(page: Page) -> None:
    page.post(action="start", count=30)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    jpeg = encoded(".jpg", pixels(1))
    turned = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    deep = encoded(".tiff", pixels(2).astype(np.uint16) * 257)
    for name, body, shape in (("a.png", turned, (64, 48, 3)), ("b.jpg", deep, (48, 64, 3))):
        given = page.client.ask("POST", f"{PICTURES}?name={name}", body).json["id"]
        shown = page.client.ask("GET", f"{PICTURES}/{given}.jpg").body
        assert decode_image(np.frombuffer(shown, np.uint8), name).shape == shape
    assert page.client.ask("POST", f"{PICTURES}?name=big.png", bytes(20_000_001)).status == 413


def test_what_is_not_possible_is_refused_by_the_rules_of_the_command(page: Page) -> None:
    ask = page.client.ask
    for value, status, reason in (
        ({"action": "explode"}, 422, "action"),
        ({"action": "start", "count": 2}, 422, "count"),
        ({"action": "start", "count": "30"}, 422, "count"),
        ({"action": "commit", "id": "x"}, 422, "id does not belong to commit"),
        ({"action": "good"}, 422, "good needs the id of a result"),
        ({"action": "finish"}, 422, "nothing is being taught"),
        ({"action": "bad", "id": "line3-b1-9"}, 422, "no longer there"),
    ):
        answer = ask("POST", "/cameras/cam0/teach", value)
        assert answer.status == status and reason in answer.error
    for method, path in (
        ("GET", "/cameras/cam9/teach"),
        ("GET", "/cameras/cam9/teach/pictures"),
        ("GET", f"{PICTURES}/x.jpg"),
        ("GET", f"{PICTURES}/..%2f..%2fasked.jpg"),
        ("POST", "/cameras/cam9/teach/pictures"),
    ):
        assert ask(method, path, png(1) if method == "POST" else None).status == 404, path
    assert "nothing is being taught" in ask("POST", PICTURES, png(1)).error
    assert "nothing is being taught" in ask("DELETE", f"{PICTURES}/x").error
    page.post(action="start", count=3)
    assert ask("DELETE", f"{PICTURES}/x").status == 404
    assert ask("DELETE", f"{PICTURES}/..%2fasked").status == 404


def test_an_operator_marks_and_sees_but_only_an_admin_teaches(page: Page) -> None:
    admin = with_passwords(page.client.port)
    operator = Client(page.client.port)
    operator.log_in("operator")
    assert admin.ask("POST", "/cameras/cam0/teach", {"action": "start", "count": 3}).status == 200
    page.line.pass_by(3)
    listed = operator.ask("GET", PICTURES).json
    for method, path, body in (
        ("POST", "/cameras/cam0/teach", {"action": "commit"}),
        ("POST", PICTURES, png(1)),
        ("DELETE", f"{PICTURES}/{listed[0]['id']}", None),
    ):
        assert operator.ask(method, path, body).status == 403
    assert operator.ask("POST", "/cameras/cam0/teach", {"action": "good", "id": listed[0]["id"]}).status == 200
    assert Client(page.client.port).ask("GET", PICTURES).status == 401


def test_without_feature_networks_the_state_says_what_is_missing(tmp_path: Path) -> None:
    stations = [station("cam0")]
    with make_server(tmp_path, commands=TeachCommands(None, stations), stations=stations) as server:
        assert server.port is not None
        client = Client(server.port).open()
        state = client.ask("GET", "/cameras/cam0/teach").json
        assert state["phase"] == "off" and "feature networks" in state["text"]
        assert client.ask("GET", PICTURES).json == [] and client.ask("GET", f"{PICTURES}/a.jpg").status == 404
        assert "feature networks" in client.ask("POST", PICTURES, png(1)).error
        assert "feature networks" in client.ask("POST", "/cameras/cam0/teach", {"action": "start"}).error


def test_answers_are_quick_while_a_teach_in_computes(page: Page) -> None:
    page.post(action="start", count=3)
    page.line.teach.let_go.clear()
    page.line.pass_by(2)
    page.line.learner.take(*page.line.part(), np.zeros((4, 6), np.float32))
    given = json.loads(page.client.ask("POST", f"{PICTURES}?name=a.png", png(5)).body)["id"]
    while page.client.ask("GET", "/cameras/cam0/teach").json["phase"] != "learning":
        pass
    assert page.client.ask("DELETE", f"{PICTURES}/{given}").status == 204
    assert page.client.ask("GET", "/cameras/cam0/teach").json["next"] == ["cancel"]
    cancelled = page.client.ask("POST", "/cameras/cam0/teach", {"action": "cancel"}).json
    assert cancelled["phase"] == "idle" and page.line.learner.wait_idle(60)
