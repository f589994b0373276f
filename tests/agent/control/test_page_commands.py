import threading
from pathlib import Path

import pytest
from controller_plant import Plant
from fake_controls import CONFIG_THRESHOLD, FakeControls
from mqtt_listener import wait_until

from zsad_core.errors import ZsadError


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    return Plant(tmp_path)


def test_a_command_of_the_page_is_carried_out_stored_and_published_like_one_over_mqtt(plant: Plant) -> None:
    with plant.start() as controller:
        assert controller.perform("cam0", "threshold", 0.7, by="admin") == {
            "value": 0.7,
            "source": "command",
            "error": None,
        }
        topic, answer = plant.publisher.answers[-1]
        assert (topic, answer["value"], answer["id"]) == ("cam0/threshold/state", 0.7, None)
    with plant.start() as controller:
        assert plant.controls.thresholds["cam0"] == 0.7


def test_a_refused_command_of_the_page_says_why_and_changes_nothing(plant: Plant) -> None:
    with plant.start() as controller:
        for camera, key, value, reason in [
            ("cam0", "threshold", 1.5, "a number from 0 to 1, or null, got '1.5'"),
            ("cam0", "threshold", True, "a number from 0 to 1"),
            ("cam9", "threshold", 0.5, "no camera 'cam9'"),
            ("cam0", "colour", 0.5, "'colour'"),
            ("cam0", "product", "spoon", "not in the bundle"),
        ]:
            before = plant.controls.settings
            with pytest.raises(ZsadError, match=reason):
                controller.perform(camera, key, value, by="admin")
            assert plant.controls.settings == before


def begin_slow_command(plant: Plant) -> None:
    plant.publisher.arrive("bundle", plant.payload("slow"))
    assert plant.controls.switching.wait(60)


def test_the_page_does_not_wait_for_a_slow_command_for_ever(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.control.controller.ANSWER_S", 2)
    with plant.start() as controller:
        with pytest.raises(ZsadError, match="no answer within"):
            controller.perform(None, "bundle", "slow", by="admin")
        monkeypatch.setattr("zsad_agent.control.controller.ANSWER_S", 60)
        plant.controls.let_go.set()
        assert controller.perform("cam0", "paused", True, by="operator")["value"] is True


def test_a_command_that_waited_too_long_is_not_carried_out_later(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.control.controller.ANSWER_S", 0.2)
    with plant.start() as controller:
        begin_slow_command(plant)
        with pytest.raises(ZsadError, match="not carried out: the agent was busy"):
            controller.perform("cam0", "product", "bottle", by="plc", to_the_end=True)
        with pytest.raises(ZsadError, match="no answer within"):  # the history has it already
            controller.perform("cam0", "teach", {"action": "bad", "id": "line3-b1-7"}, by="operator")
        monkeypatch.setattr("zsad_agent.control.controller.ANSWER_S", 60)
        plant.controls.let_go.set()
        controller.perform("cam1", "paused", True, by="operator")
        assert controller.state("cam0", "product")["value"] == "object"
        assert plant.controls.taught[-1][1].id == "line3-b1-7"


def test_a_command_that_hangs_is_a_fault(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    with plant.start() as controller:
        begin_slow_command(plant)
        assert controller.fault is None
        monkeypatch.setattr("zsad_agent.control.controller.HUNG_S", 0.1)
        wait_until(lambda: "no command has been carried out" in (controller.fault or ""))
        monkeypatch.setattr("zsad_agent.control.controller.HUNG_S", 600)
        plant.controls.let_go.set()
        assert controller.wait_idle(60) and controller.fault is None


def test_a_command_that_has_begun_can_be_waited_for(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.control.controller.ANSWER_S", 2)
    with plant.start() as controller:
        threading.Timer(3, plant.controls.let_go.set).start()
        assert controller.perform(None, "bundle", "slow", by="plc", to_the_end=True)["value"] == "slow"


def test_a_mark_over_mqtt_goes_to_the_history_and_one_of_the_page_does_not_go_twice(plant: Plant) -> None:
    marks: list[tuple[str, bool]] = []
    with plant.start(on_mark=lambda part_id, good: marks.append((part_id, good))) as controller:
        plant.ask("cam0/teach", {"action": "bad", "id": "line3-b1-7"})
        plant.ask("cam0/teach", {"action": "cancel"})
        controller.perform("cam0", "teach", {"action": "good", "id": "line3-b1-8"}, by="operator")
    assert marks == [("line3-b1-7", False)]


def test_a_threshold_from_before_a_teach_in_is_dropped(plant: Plant) -> None:
    with plant.start() as controller:
        controller.perform("cam0", "threshold", 0.7, by="admin")
        controller.perform("cam1", "threshold", 0.8, by="admin")
        plant.controls.taught_products.add("bottle")
        controller.perform("cam0", "product", "bottle", by="operator")
        assert plant.controls.thresholds == {"cam0": CONFIG_THRESHOLD, "cam1": 0.8}
        answers = [answer for topic, answer in plant.publisher.answers if topic == "cam0/threshold/state"]
        assert (answers[-1]["value"], answers[-1]["source"]) == (CONFIG_THRESHOLD, "config")
        plant.controls.taught_products.add("object")  # learned by itself
        wait_until(lambda: plant.controls.thresholds["cam1"] == CONFIG_THRESHOLD)
    with plant.start() as controller:
        controller.perform("cam1", "threshold", 0.6, by="admin")
    controls = FakeControls()
    controls.taught_products.add("object")  # taught while the agent was stopped
    with plant.start(controls):
        wait_until(lambda: controls.thresholds["cam1"] == CONFIG_THRESHOLD)


def test_threshold_that_changes_by_itself_is_published(plant: Plant) -> None:
    with plant.start() as controller:
        controller.perform("cam1", "threshold", 0.8, by="admin")
        before = len(plant.publisher.answers)
        plant.controls.thresholds["cam0"] = 0.31  # the product is not taught, and parts have passed
        wait_until(lambda: len(plant.publisher.answers) > before)
        topic, answer = plant.publisher.answers[before]
        assert (topic, answer["value"], answer["source"]) == ("cam0/threshold/state", 0.31, "config")
        assert controller.state("cam0", "threshold")["value"] == 0.31
