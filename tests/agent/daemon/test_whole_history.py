"""The agent as a process keeps every result in the history, or none if it is off."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from agent_process import AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener

from zsad_agent.config import HistoryConfig, load_settings
from zsad_core.errors import ConfigError

FRAMES = 6


def bodies(path: Path) -> list[bytes]:
    """The results in the file, in the order of inspection."""
    with closing(sqlite3.connect(path)) as db:
        return [body for (body,) in db.execute("SELECT body FROM bodies ORDER BY n")]


def test_history_has_what_was_published(
    tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=FRAMES)
    broker = mosquitto()
    arguments = ("--source", str(video), "--broker", f"mqtt://127.0.0.1:{broker.port}")
    with MqttListener(broker.port) as listener:
        for run in (1, 2):  # the second run adds to the file of the first
            settings = "history:\n  enabled: true\n"
            with AgentProcess(tmp_path, tiny_bundle, *arguments, settings=settings) as agent:
                assert agent.wait() == 0, agent.output
            listener.wait_for(lambda run=run: len(listener.results()) == run * FRAMES)  # type: ignore[misc]
        published = listener.results()
    stored = [json.loads(body) for body in bodies(tmp_path / "state" / "history.sqlite3")]
    assert sorted(map(str, stored)) == sorted(map(str, published))


def test_history_that_is_off_makes_no_file(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=2)
    with AgentProcess(tmp_path, tiny_bundle, "--source", str(video), "--broker", "mqtt://127.0.0.1:1") as agent:
        assert agent.wait() == 0, agent.output
    assert not list((tmp_path / "state").glob("history*"))


def test_results_that_wait_in_the_spool_are_taken_over(tiny_bundle: Path, tmp_path: Path) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=FRAMES)
    arguments = ("--source", str(video), "--broker", "mqtt://127.0.0.1:1")
    for settings in ("", "history:\n  enabled: true\n"):
        with AgentProcess(tmp_path, tiny_bundle, *arguments, settings=settings) as agent:
            assert agent.wait() == 0, agent.output
    assert len(bodies(tmp_path / "state" / "history.sqlite3")) == 2 * FRAMES


@pytest.mark.parametrize(
    ("text", "shifts"),
    [
        ("{}", ("06:00", "14:00", "22:00")),
        ("\n  shifts: [06:15, 14:00, 22:30]", ("06:15", "14:00", "22:30")),  # YAML reads 14:00 as a number
        ("\n  shifts: ['00:00']", ("00:00",)),
    ],
)
def test_shifts_begin_at_times_of_the_day(tmp_path: Path, text: str, shifts: tuple[str, ...]) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"history: {text}\n")
    assert load_settings(path).config.history == HistoryConfig(shifts=shifts)


@pytest.mark.parametrize("shifts", ["[06:10]", "[]", "[25:00]", "[noon]", "[-60]", "[false]", "6"])
def test_other_shifts_are_refused(tmp_path: Path, shifts: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(f"history:\n  shifts: {shifts}\n")
    with pytest.raises(ConfigError, match=r"history\.shifts"):
        load_settings(path)
