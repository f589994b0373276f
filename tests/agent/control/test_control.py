import json
import logging
import threading
import time
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from controller_plant import NOW_S, Plant
from fake_controls import FakeControls
from mqtt_listener import wait_until

from zsad_agent.config import AgentConfig, HeatmapConfig
from zsad_agent.control import CameraSettings, CommandError, ReloadRequest, StoredSettings
from zsad_agent.control.controller import MAX_A_SECOND, MAX_WAITING
from zsad_agent.model import Outcome

SETTINGS = [
    f"{camera}/{key}" for camera in ("cam0", "cam1") for key in ("threshold", "product", "paused", "snapshot", "teach")
]
SETTINGS += ["bundle", "reload", "update"]


def _seconds(utc: str) -> float:
    return datetime.fromisoformat(utc).timestamp()


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_every_setting_is_published_and_subscribed_at_start(plant: Plant) -> None:
    with plant.start():
        assert [topic for topic, _ in plant.publisher.answers] == [f"{setting}/state" for setting in SETTINGS]
        assert list(plant.publisher.handlers) == [f"zsad/line3/{name}/set" for name in SETTINGS]
        state = plant.publisher.state("cam1/threshold")
        age_s = time.time() - _seconds(state.pop("at"))
        assert state == {"value": 0.5, "source": "config", "error": None, "id": None} and 0 <= age_s < 60
        assert plant.publisher.state("cam0/product")["value"] == "object"
        assert plant.publisher.state("cam0/paused")["value"] is False
        assert plant.publisher.state("cam0/snapshot")["value"] is None
        assert plant.publisher.state("bundle")["value"] == "v1"
        assert plant.publisher.state("reload")["value"] <= plant.publisher.state("reload")["at"]


@pytest.mark.parametrize(("setting", "value"), [("threshold", 0.25), ("product", "bottle"), ("paused", True)])
def test_command_survives_a_restart_until_null_resets_it(plant: Plant, setting: str, value: object) -> None:
    with plant.start():
        answer = plant.ask(f"cam1/{setting}", value, id="mine")
        assert (answer["value"], answer["source"], answer["error"], answer["id"]) == (value, "command", None, "mine")
        assert plant.controls.settings[setting]["cam1"] == value
        assert plant.controls.settings[setting]["cam0"] == FakeControls().settings[setting]["cam0"]
    with plant.start():
        assert plant.controls.settings[setting]["cam1"] == value
        assert plant.publisher.state(f"cam1/{setting}")["source"] == "command"
        answer = plant.ask(f"cam1/{setting}", None)
        assert (answer["value"], answer["source"]) == (FakeControls().settings[setting]["cam1"], "config")
    with plant.start():
        assert plant.controls.settings == FakeControls().settings


def test_commands_for_one_camera_do_not_undo_each_other(plant: Plant) -> None:
    with plant.start():
        plant.ask("cam0/threshold", 0.1)
        plant.ask("cam0/product", "bottle")
        plant.ask("cam0/paused", False)
    stored = StoredSettings(plant.folder / "settings.json").camera("cam0")
    assert stored == CameraSettings(threshold=0.1, threshold_scale="not taught", product="bottle", paused=False)


@pytest.mark.parametrize(
    ("setting", "value", "fields", "reason"),
    [
        ("cam0/threshold", 1.5, {}, "number from 0 to 1"),
        ("cam0/threshold", "0.4", {}, "number from 0 to 1"),
        ("cam0/threshold", 0.4, {"sent_at": NOW_S - 60}, "61 s ago by this device's clock"),
        ("cam0/threshold", 0.4, {"sent_at": NOW_S + 60}, "59 s in the future"),
        ("cam0/threshold", 0.4, {"sent_at": NOW_S - 5}, "may be a replay"),  # before the start, without a file of ids
        ("cam0/threshold", 0.4, {"colour": "red"}, "unknown key"),
        ("cam0/product", "screw", {}, "product 'screw' is not in the bundle"),
        ("cam0/paused", "yes", {}, "true, false or null"),
        ("bundle", "bad", {}, "sha256 of model.bin differs"),
        ("bundle", "nix", {}, "no such bundle"),
        ("bundle", "../bundles/v2", {}, "not a path out of it"),
        ("bundle", "/etc", {}, "not a path out of it"),
        ("bundle", "..", {}, "not a path out of it"),
        ("bundle", "out", {}, "a link out of"),
        ("bundle", "circle", {}, "no such bundle"),
    ],
)
def test_refused_command_changes_nothing_and_is_answered(
    plant: Plant,
    setting: str,
    value: object,
    fields: dict[str, object],
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (plant.bundles / "out").symlink_to("/")
    (plant.bundles / "circle").symlink_to("circle")
    with plant.start():
        before = plant.publisher.state(setting)
        answer = plant.ask(setting, value, id="mine", **fields)
        assert reason in answer["error"]
        assert answer["id"] == "mine"
        assert (answer["value"], answer["source"]) == (before["value"], "config")
        assert plant.controls.settings == FakeControls().settings
    (line,) = [record for record in caplog.records if "refused" in record.message]
    assert line.levelno == logging.WARNING and reason in line.message and "\n" not in line.message
    with plant.start():
        assert plant.controls.settings == FakeControls().settings


def test_accepted_command_is_logged_with_old_and_new_value(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), plant.start():
        plant.ask("cam0/threshold", 0.25)
        wait_until(lambda: "cam0/threshold: a command changed 0.5 to 0.25" in caplog.messages)


def test_replayed_command_is_refused_also_after_a_restart(plant: Plant) -> None:
    with plant.start():
        old = plant.payload(0.9)
        plant.publisher.ask("cam0/threshold", old)
        assert plant.ask("cam0/threshold", 0.1)["value"] == 0.1
        answer = plant.publisher.ask("cam0/threshold", old)
        assert (answer["value"], "replay" in answer["error"]) == (0.1, True)
        assert "replay" in plant.publisher.ask("cam1/threshold", old)["error"]
    with plant.start():
        answer = plant.publisher.ask("cam0/threshold", old)
        assert (answer["value"], "replay" in answer["error"]) == (0.1, True)


def test_command_with_a_nonce_is_carried_out_once_with_any_clock(plant: Plant) -> None:
    with plant.start():
        nonce = plant.nonces.current()
        plant.clocks.now_s -= 1e8
        sent = json.dumps({"value": 0.9, "id": "mine", "nonce": nonce}).encode()
        assert plant.publisher.ask("cam0/threshold", sent)["value"] == 0.9
        assert plant.ask("cam0/threshold", 0.1, id="other", sent_at=0.0, nonce=nonce)["value"] == 0.1
        assert "replay" in plant.publisher.ask("cam0/threshold", sent)["error"]
        assert (
            "replay" in plant.ask("cam0/threshold", 0.2, nonce="0" * 16)["error"]
        )  # the time in the command is not used
    with plant.start():
        plant.nonces.current()
        assert "replay" in plant.publisher.ask("cam0/threshold", sent)["error"]
        assert plant.controls.thresholds["cam0"] == 0.1


def test_nonce_corrects_a_stored_time_that_blocks_commands(plant: Plant) -> None:
    plant.clocks.now_s += 1e8
    with plant.start():
        assert plant.ask("cam0/threshold", 0.1)["error"] is None
    plant.clocks.now_s -= 1e8
    with plant.start():
        assert "command_nonce" in plant.ask("cam0/threshold", 0.2)["error"]
        assert plant.ask("cam0/threshold", 0.3, nonce=plant.nonces.current())["error"] is None
        plant.clocks.now_s += 1
        assert plant.ask("cam0/threshold", 0.4)["error"] is None
    with plant.start():
        assert plant.ask("cam0/threshold", 0.5)["error"] is None


def test_refused_command_is_not_carried_out_later_as_a_replay(plant: Plant) -> None:
    with plant.start():
        old = plant.payload("screw")
        assert "not in the bundle" in plant.publisher.ask("cam0/product", old)["error"]
        plant.ask("bundle", "v2")
        wait_until(lambda: plant.publisher.state("cam1/product")["error"] is None)
        assert "replay" in plant.publisher.ask("cam0/product", old)["error"]
        assert plant.controls.products["cam0"] == "object"


def test_replay_is_refused_after_a_kill_in_the_middle_of_the_command(plant: Plant) -> None:
    with plant.start():
        plant.publisher.arrive("bundle", plant.payload("slow"))
        assert plant.controls.switching.wait(60)
        stored = StoredSettings(plant.folder / "settings.json")  # what a new process would read
        plant.controls.let_go.set()
    assert "c1" in stored.guard.seen


def test_after_a_damaged_file_commands_sent_before_the_start_are_refused(plant: Plant) -> None:
    with plant.start():
        old = plant.payload(0.9)
        plant.publisher.ask("cam0/threshold", old)
    plant.stored.path.write_bytes(b"{")
    with plant.start():
        assert "replay" in plant.publisher.ask("cam0/threshold", old)["error"]
        assert plant.controls.thresholds["cam0"] == 0.5
        assert plant.ask("cam0/threshold", 0.2)["error"] is None


def test_damaged_file_is_reported_on_every_state(plant: Plant) -> None:
    (plant.folder / "settings.json").write_bytes(b"\x00")
    with plant.start():
        for setting in SETTINGS:
            assert "settings.json cannot be used" in plant.publisher.state(setting)["error"]
        assert plant.stored.fault is not None


def test_on_a_full_disk_the_command_is_active_and_its_state_says_that_it_is_not_stored(plant: Plant) -> None:
    controller = plant.start()
    plant.stored.path = plant.bundles / "v2" / "file" / "settings.json"
    (plant.bundles / "v2" / "file").touch()
    with controller:
        answer = plant.ask("cam0/threshold", 0.2)
        assert answer["value"] == 0.2 and answer["source"] == "command"
        assert "active until the next restart only: settings cannot be stored" in answer["error"]
        assert plant.stored.fault is not None
        (plant.bundles / "v2" / "file").unlink()
        assert plant.ask("cam0/threshold", 0.3)["error"] is None
        assert plant.stored.fault is None


def test_stored_product_that_the_bundle_lacks_is_reported_and_the_config_s_is_used(plant: Plant) -> None:
    earlier = StoredSettings(plant.folder / "settings.json")
    earlier.set_camera("cam0", CameraSettings(product="screw", threshold=0.2))
    earlier.set_camera("gone", CameraSettings(threshold=0.9))
    earlier.save()
    content = json.loads(earlier.path.read_text())
    earlier.path.write_text(json.dumps(content | {"forgotten_up_to_s": 0.0}))  # the clock of the plant differs
    with plant.start():
        state = plant.publisher.state("cam0/product")
        assert (state["value"], state["source"]) == ("object", "config")
        assert (
            "stored value 'screw' is refused, the config's value is used: product 'screw' is not in" in state["error"]
        )
        assert plant.controls.thresholds == {"cam0": 0.2, "cam1": 0.5}
        said = len(plant.publisher.answers)
        plant.ask("bundle", "v2")  # bundle v2 has this product
        state = plant.publisher.wait_for("cam0/product", after=said)
        assert (state["value"], state["source"], state["error"]) == ("screw", "command", None)
    assert StoredSettings(earlier.path).camera("gone") == CameraSettings(threshold=0.9)


def test_failed_probation_is_reported_with_the_command_s_id(plant: Plant) -> None:
    with plant.start():
        answer = plant.ask("bundle", "v2", id="mine")
        assert (answer["value"], answer["source"], answer["error"]) == ("v2", "command", None)
        said = len(plant.publisher.answers)
        text = "v2 gave no answer to 3 of its first 3 pictures: v1 inspects again"
        plant.controls.outcome = Outcome(passed=False, text=text)
        state = plant.publisher.wait_for("bundle", after=said)
        assert (state["value"], state["source"], state["error"], state["id"]) == ("v1", "config", text, "mine")


def test_bundle_switch_without_a_folder_for_it_is_refused(plant: Plant) -> None:
    plant.bundle_dir = None
    with plant.start():
        assert "control.bundle_dir is not set" in plant.ask("bundle", "v2")["error"]
        assert plant.ask("bundle", None)["error"] is None


def test_snapshot_is_sent_within_the_size_limit(plant: Plant) -> None:
    plant.heatmap = HeatmapConfig(max_bytes=20_000)
    with plant.start():
        plant.controls.frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        answer = plant.ask("cam1/snapshot", None)
        assert answer["error"] is None and 0 <= _seconds(answer["at"]) - _seconds(answer["value"]) < 60
        ((topic, jpeg),) = plant.publisher.pictures
        assert topic == "cam1/image" and len(jpeg) <= 20_000
        shown = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert shown.shape[1] >= 64


@pytest.mark.parametrize(
    ("frame", "connected", "reason"),
    [
        (None, True, "no picture"),
        (np.zeros((48, 64, 3), np.uint8), False, "no connection"),
        (np.random.default_rng(0).integers(0, 256, (4000, 64, 3), dtype=np.uint8), True, "heatmap.max_bytes = 1024"),
        (np.zeros((0, 64, 3), np.uint8), True, "internal error"),
    ],
)
def test_snapshot_that_cannot_be_sent_is_reported(
    plant: Plant, frame: np.ndarray | None, connected: bool, reason: str
) -> None:
    plant.heatmap = HeatmapConfig(max_bytes=1024)
    with plant.start():
        plant.controls.frame, plant.publisher.connected = frame, connected
        answer = plant.ask("cam0/snapshot", None)
        assert reason in answer["error"] and answer["value"] is None


def test_reload_is_requested_or_refused_with_every_fault(plant: Plant) -> None:
    with plant.start():
        plant.controls.config_fault = "agent.yaml:2: source.fps: got -1\nagent.yaml:9: mqtt: unknown key"
        answer = plant.ask("reload", None)
        assert answer["error"] == "agent.yaml:2: source.fps: got -1; agent.yaml:9: mqtt: unknown key"
        plant.controls.config_fault = None
        answer = plant.ask("reload", None, id="mine")
        assert (answer["error"], answer["id"], plant.controls.reloads) == (None, "mine", 1)


def test_reload_by_a_signal_is_answered_as_a_command(plant: Plant) -> None:
    with plant.start() as controller:
        for fault in ("agent.yaml:2: source.fps: got -1", None):
            plant.controls.config_fault = fault
            said = len(plant.publisher.answers)
            controller.reload()
            answer = plant.publisher.wait_for("reload", after=said)
            assert (answer["error"], answer["id"]) == (fault, None)
        assert plant.controls.reloads == 1


def test_internal_error_is_reported_and_the_controller_continues(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    with plant.start():
        plant.controls.defect = KeyError("oh")
        answer = plant.ask("cam0/threshold", 0.2)
        assert answer["error"] == "internal error KeyError: 'oh'" and answer["value"] == 0.5
        plant.controls.defect = None
        assert plant.ask("cam0/threshold", 0.2)["error"] is None
    with plant.start(broken := FakeControls()):
        assert plant.publisher.state("cam0/threshold")["value"] == 0.2
    broken.defect = RuntimeError("no")
    with plant.start(broken):
        assert "the config's value is used: no" in plant.publisher.state("cam0/threshold")["error"]
        assert plant.ask("cam1/paused", True)["value"] is True


def test_publisher_that_fails_does_not_end_the_controller(plant: Plant) -> None:
    failed = threading.Event()

    def fail(*_: object) -> None:
        failed.set()
        raise RuntimeError("no")

    with plant.start():
        publish, plant.publisher.set_retained = plant.publisher.set_retained, fail  # type: ignore[method-assign]
        plant.publisher.arrive("cam0/threshold", plant.payload(0.2))
        assert failed.wait(60) and plant.controls.thresholds["cam0"] == 0.2
        plant.publisher.set_retained = publish  # type: ignore[method-assign]
        assert plant.ask("cam0/threshold", 0.3)["value"] == 0.3


def test_flood_of_commands_is_refused_without_reading_and_answered_once_a_second(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    flooded_s: float | None = time.monotonic()
    with plant.start(monotonic=lambda: flooded_s or time.monotonic()):
        said = len(plant.publisher.answers)
        for _ in range(1000):
            plant.publisher.arrive("cam1/product", b"garbage")
        flooded_s = None
        plant.publisher.wait_for("cam1/product", after=said)
        wait_until(lambda: sum("without reading" in message for message in caplog.messages) >= 2)
        answers = [state["error"] for _, state in plant.publisher.answers[said:]]
        reason = "commands refused without reading them: more than 20 commands a second"
        unread = [error for error in answers if reason in error]
        assert len(answers) <= MAX_A_SECOND + 5
        assert sum(int(error.split()[0]) for error in unread) == 1000 - MAX_A_SECOND
        time.sleep(1.0)
        assert plant.ask("cam1/product", "bottle")["error"] is None


def test_commands_wait_during_a_long_switch_and_are_refused_above_the_limit(plant: Plant) -> None:
    with plant.start():
        plant.publisher.arrive("bundle", plant.payload("slow"))
        assert plant.controls.switching.wait(60)
        for _ in range(MAX_WAITING):
            plant.publisher.arrive("cam0/threshold", plant.payload(0.2))
        assert "64 commands are waiting already" in plant.ask("cam0/product", "bottle")["error"]
        assert plant.publisher.state("cam0/threshold")["value"] == 0.5
        plant.controls.let_go.set()
        wait_until(lambda: plant.publisher.state("cam0/threshold")["value"] == 0.2)
        assert plant.controls.products["cam0"] == "object"


def test_stop_does_not_wait_for_a_switch_and_its_outcome_is_not_reported(plant: Plant) -> None:
    controller = plant.start()
    with controller:
        plant.publisher.arrive("bundle", plant.payload("slow"))
        assert plant.controls.switching.wait(60)
        left_s = time.monotonic()
    assert time.monotonic() - left_s < 20
    said, stored = len(plant.publisher.answers), plant.stored.path.read_bytes()
    plant.controls.let_go.set()
    wait_until(lambda: not any(thread.name == "zsad-control" for thread in threading.enumerate()))
    assert len(plant.publisher.answers) == said and plant.stored.path.read_bytes() == stored
    plant.publisher.arrive("cam0/threshold", plant.payload(0.2))
    assert plant.controls.thresholds["cam0"] == 0.5


def test_sighup_after_the_file_was_read_is_carried_out_by_the_next_run() -> None:
    asked: list[str] = []
    first = ReloadRequest(lambda: AgentConfig(), again=False, fault=None)
    first.on_hangup(False, lambda: asked.append("first"))
    assert asked == []
    first.on_hangup(True, lambda: first.tell(first.ask))
    assert first.config is not None and not first.unread
    first.on_hangup(True, lambda: first.tell(lambda: asked.append("too late")))  # the controller has stopped
    assert first.unread
    second = ReloadRequest(lambda: AgentConfig(), again=True, fault=None, late=first.unread)
    for _ in range(2):
        second.on_hangup(False, lambda: asked.append("second"))
    assert asked == ["too late", "second"]


def test_a_change_while_the_file_is_read_is_not_lost() -> None:
    def reread() -> AgentConfig:
        request.tell(lambda: None)  # a second change, while the disk hangs
        return AgentConfig()

    request = ReloadRequest(reread, again=False, fault=None)
    request.tell(request.ask)
    assert request.event.is_set() and request.unread


def test_stop_is_quick_and_leaves_no_thread(plant: Plant) -> None:
    with plant.start():
        left_s = time.monotonic()
    assert time.monotonic() - left_s < 20
    wait_until(lambda: not any(thread.name == "zsad-control" for thread in threading.enumerate()))


def test_bare_value_is_carried_out_and_stored_with_plain(plant: Plant) -> None:
    plant.plain = True
    with plant.start():
        assert plant.publisher.ask("cam0/threshold", b"0.4")["value"] == 0.4
        assert plant.publisher.ask("cam0/paused", b"ON")["value"] is True
        assert plant.publisher.ask("cam0/threshold", b"")["error"].startswith("the message is empty")
    with plant.start():
        assert plant.controls.thresholds["cam0"] == 0.4 and plant.controls.pauses["cam0"]


def test_update_is_refused_while_updates_are_off_and_without_an_id(plant: Plant) -> None:
    value = {"action": "rollback", "kind": "bundle", "sha256": "a" * 64}
    with plant.start() as controller:
        assert plant.ask("update", value)["error"] == "updates are off: set update.enabled"
        assert plant.publisher.state("update")["value"] == {"phase": "off"}
        with pytest.raises(CommandError, match="a command over MQTT, with an id"):
            controller.perform(None, "update", value, by="admin")
