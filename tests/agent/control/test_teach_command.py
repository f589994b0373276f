"""The command teach: what it accepts, what it refuses, and its retained state."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from fake_controls import FakeControls, FakePublisher
from mqtt_listener import wait_until

from zsad_agent.config import AgentConfig, ControlConfig
from zsad_agent.control import CommandError, Controller, Key, Nonces, StoredSettings
from zsad_agent.control.command import TeachRequest, parse_command


def payload(value: object, command_id: str = "a", **fields: object) -> bytes:
    return json.dumps({"value": value, "id": command_id, "sent_at": time.time()} | fields).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"action": "start"}, {"action": "start"}),
        ({"action": "start", "product": "nut", "count": 30, "rate": 0.01}, None),
        ({"action": "finish"}, None),
        ({"action": "cancel"}, None),
        ({"action": "commit"}, None),
        ({"action": "commit", "threshold": 0.4}, None),
        ({"action": "commit", "offer": "ab" * 32}, None),
        ({"action": "roll_back"}, None),
        ({"action": "good", "id": "line3-b1-7"}, None),
        ({"action": "bad", "id": "line3-b1-7"}, None),
    ],
)
def test_each_action_is_read_with_what_belongs_to_it(value: dict[str, Any], expected: dict[str, Any] | None) -> None:
    found = parse_command(payload(value), Key.TEACH, plain=False).value
    assert isinstance(found, TeachRequest)
    assert found.model_dump(exclude_unset=True) == (expected or value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, 'expected an object with "action"'),
        ("commit", 'expected an object with "action"'),
        ([], 'expected an object with "action"'),
        ({}, "value.action: Field required"),
        ({"action": "explode"}, "value.action: Input should be 'start', 'finish', 'cancel'"),
        ({"action": "commit", "id": "x"}, "id does not belong to commit"),
        ({"action": "commit", "threshold": 1.5}, "value.threshold"),
        ({"action": "start", "threshold": 0.4}, "threshold does not belong to start"),
        ({"action": "good"}, "value: good needs the id of a result"),
        ({"action": "good", "id": ""}, "value.id"),
        ({"action": "good", "id": "a\nb"}, "value.id"),
        ({"action": "start", "count": 2}, "value.count"),
        ({"action": "start", "count": 1001}, "value.count"),
        ({"action": "start", "count": True}, "value.count"),
        ({"action": "start", "rate": 0}, "value.rate"),
        ({"action": "start", "rate": 1}, "value.rate"),
        ({"action": "start", "prodct": "nut"}, "value.prodct"),
        ({"action": "start", "product": {"a": 1}}, "value.product"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_what_does_not_fit_is_refused_with_the_reason(value: object, reason: str, plain: bool) -> None:
    with pytest.raises(CommandError) as refusal:
        parse_command(payload(value), Key.TEACH, plain=plain)
    assert reason in str(refusal.value) and refusal.value.command_id == "a"


class Plant:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.controls, self.publisher = FakeControls(), FakePublisher()
        control = ControlConfig(enabled=True, max_age_s=30.0)
        self.controller = Controller(
            self.controls,  # type: ignore[arg-type]
            self.publisher,  # type: ignore[arg-type]
            AgentConfig(device_id="line3", control=control),
            StoredSettings(folder / "settings.json"),
            nonces=Nonces(),
        )


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_command_is_carried_out_once_and_answered_with_the_state(plant: Plant) -> None:
    with plant.controller:
        assert plant.publisher.state("cam0/teach")["value"] == {"phase": "idle", "next": ["start"]}
        sent = payload({"action": "start", "product": "nut", "count": 5})
        answer = plant.publisher.ask("cam0/teach", sent)
        assert (answer["value"]["phase"], answer["error"], answer["id"]) == ("gathering", None, "a")
        assert "replay" in plant.publisher.ask("cam0/teach", sent)["error"]
        old = plant.publisher.ask("cam0/teach", payload({"action": "commit"}, "b", sent_at=time.time() - 60))
        assert "ago by this device's clock" in old["error"]
    assert [(camera, request.action, request.count) for camera, request in plant.controls.taught] == [
        ("cam0", "start", 5)
    ]


def test_a_refusal_keeps_the_state_and_says_why(plant: Plant) -> None:
    with plant.controller:
        answer = plant.publisher.ask("cam1/teach", payload({"action": "commit"}))
        assert answer["error"] == "there is no offer at this camera"
        assert answer["value"]["phase"] == "idle" and plant.controls.taught == []


def test_progress_is_published_without_a_command_and_keeps_the_last_id(plant: Plant) -> None:
    with plant.controller:
        plant.publisher.ask("cam0/teach", payload({"action": "start"}))
        plant.controls.lessons["cam0"] = {"phase": "offered", "next": ["commit", "cancel"]}
        wait_until(lambda: plant.publisher.state("cam0/teach")["value"]["phase"] == "offered")
        assert plant.publisher.state("cam0/teach")["id"] == "a"
        count = len(plant.publisher.answers)
        time.sleep(2.2)
        assert len(plant.publisher.answers) == count  # nothing changed, so nothing is said


def test_a_commit_makes_the_camera_inspect_what_was_taught_with_its_own_threshold(plant: Plant) -> None:
    with plant.controller:
        plant.publisher.ask("cam0/threshold", payload(0.9, "t"))
        plant.controls.lessons["cam0"] = {"phase": "offered", "next": ["commit"], "offer": {"product": "bottle"}}
        plant.publisher.ask("cam0/teach", payload({"action": "commit"}, "c"))
        wait_until(lambda: plant.publisher.state("cam0/threshold")["source"] == "config")
        product = plant.publisher.state("cam0/product")
        assert (product["value"], product["source"]) == ("bottle", "command")
        assert plant.publisher.state("cam0/threshold")["value"] != 0.9
    again = Plant(plant.folder)
    with again.controller:
        again.controls.lessons["cam0"] = {"phase": "offered", "next": ["commit"], "offer": {"product": "bottle"}}
        assert again.publisher.state("cam0/product")["value"] == "bottle"
        assert again.publisher.state("cam0/threshold")["source"] == "config"
        again.publisher.ask("cam0/teach", payload({"action": "commit", "threshold": 0.43}, "d"))
        wait_until(lambda: again.publisher.state("cam0/threshold")["value"] == 0.43)
    third = Plant(plant.folder)
    with third.controller:
        assert third.publisher.state("cam0/threshold")["value"] == 0.43
