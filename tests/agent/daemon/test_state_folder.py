"""The state folder of a running agent is removed, renamed or restored."""

import json
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess, write_line_video
from bundle_attacks import change_manifest, copy_bundle
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from plant_operator import PlantOperator

from zsad_agent.spool import Entry, Spool

Brokers = Callable[..., MosquittoBroker]
FLAGS = ("--loop", "--fps", "25", "--print-results")


def remove(state: Path) -> None:
    """At once: the agent would write a new spool into a folder that is being emptied."""
    shutil.rmtree(state.rename(state.with_name("removed")))


def rename(state: Path) -> None:
    state.rename(state.with_name("state.old"))


def restore(state: Path) -> None:
    remove(state)
    shutil.copytree(state.with_name("backup"), state, dirs_exist_ok=True)


def restore_in_place(state: Path) -> None:
    shutil.copytree(state.with_name("backup"), state, dirs_exist_ok=True)


@pytest.mark.parametrize("change", [remove, rename, restore, restore_in_place])
def test_every_result_arrives_when_the_state_folder_is_changed_while_the_broker_is_off(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    broker = mosquitto(persistent=True)
    with MqttListener(broker.port, session="dashboard"):
        pass  # the broker keeps messages for this session from now on
    broker.stop()
    video = write_line_video(tmp_path / "line.avi", frames=20)
    with AgentProcess(tmp_path, tiny_bundle, "--source", str(video), *FLAGS, "--broker", broker.url) as agent:
        wait_until(lambda: len(agent.printed) > 20)
        shutil.copytree(agent.spool.parent, tmp_path / "backup")
        wait_until(lambda: len(agent.printed) > 50)
        change(agent.spool.parent)
        agent.wait_for_output("was changed while it was open")
        wait_until(agent.spool.exists)
        wait_until(lambda: len(agent.printed) > 100)
        broker.start()
        with MqttListener(broker.port, session="dashboard") as listener:
            listener.wait_for(lambda: {1, 60, 90} <= {result["seq"] for result in listener.results()})
            listener.wait_for(lambda: listener.results()[-1]["seq"] > 110)
            code, _ = agent.terminate()
            listener.wait_for(lambda: listener.payloads("zsad/line3/available")[-1:] == [b"offline"])
    assert code == 0, agent.output
    assert "LOST" not in agent.output and "Traceback" not in agent.output
    results = listener.results()
    arrived = {result["seq"] for result in results}
    assert {seq for _, _, seq in agent.printed} - arrived <= set(kept_seqs(agent)), agent.output
    bodies = {result["id"]: {**result, "replayed": None} for result in results}
    assert all({**result, "replayed": None} == bodies[result["id"]] for result in results)  # repeated results are equal


def kept_seqs(agent: AgentProcess) -> list[int]:
    with Spool(agent.spool, max_results=1000) as spool:
        return [json.loads(entry.body)["seq"] for entry in spool.read(0, spool.last_id, 1000)]


def test_results_that_cannot_be_rescued_are_reported_as_lost_at_the_end(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=20)
    flags = ("--source", str(video), *FLAGS, "--broker", "mqtt://127.0.0.1:1")
    with AgentProcess(tmp_path, tiny_bundle, *flags) as agent:
        wait_until(lambda: len(agent.printed) > 20)
        agent.freeze()  # so that it cannot create the folder again before the file is there
        remove(agent.spool.parent)
        agent.spool.parent.touch()
        agent.thaw()
        agent.wait_for_output("results cannot be rescued into a new file")
        code, _ = agent.terminate()
    assert code == 1
    assert "results are LOST" in agent.output
    assert "stay in the spool" not in agent.output and "Traceback" not in agent.output


def test_results_whose_file_was_overwritten_are_said_to_be_lost_in_log_and_exit_code(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    spool_path = tmp_path / "state" / "spool.sqlite3"
    spool_path.parent.mkdir()
    with Spool(spool_path, max_results=10_000) as spool:
        bodies = [b'{"seq": %d, "more": "%s"}' % (number, b"x" * 3000) for number in range(3000)]  # more than a cache
        spool.append([Entry(spool.new_id(), "cam0", body) for body in bodies])
    video = write_line_video(tmp_path / "line.avi", frames=20)
    flags = ("--source", str(video), *FLAGS, "--broker", "mqtt://127.0.0.1:1")
    with AgentProcess(tmp_path, tiny_bundle, *flags) as agent:
        wait_until(lambda: len(agent.printed) > 20)
        for file in spool_path.parent.iterdir():
            if file.name.startswith(spool_path.name):
                file.write_bytes(b"no database" * 100_000)
        agent.wait_for_output(" results cannot be read any more and are LOST")
        code, _ = agent.terminate()
    assert code == 1
    lost = int(re.findall(r"(\d+) results cannot be read any more", agent.output)[0])
    assert 2000 < lost <= 3000 and "Traceback" not in agent.output


@pytest.mark.parametrize("pause_s", [0.0, 1.5])
def test_an_agent_that_is_killed_soon_after_its_state_folder_was_removed_loses_no_result(
    tiny_bundle: Path, tmp_path: Path, pause_s: float
) -> None:
    """With the next commit, or without one after 0.2 s, the results are in a new file."""
    video = write_line_video(tmp_path / "line.avi", frames=20)
    flags = ("--source", str(video), "--loop", "--print-results", "--broker", "mqtt://127.0.0.1:1")
    with AgentProcess(tmp_path, tiny_bundle, *flags, "--fps", "0.5" if pause_s else "25") as agent:
        wait_until(lambda: len(agent.printed) >= (2 if pause_s else 6))
        remove(agent.spool.parent)
        removed_at = len(agent.printed)
        if pause_s:
            time.sleep(pause_s)
        else:
            wait_until(lambda: len(agent.printed) >= removed_at + 2)
        agent.kill()
    assert {seq for _, _, seq in agent.printed} <= set(kept_seqs(agent))


def test_commanded_settings_are_written_again_and_a_removed_bundle_is_a_fault(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    copy_bundle(tiny_bundle, tmp_path / "offered" / "new")
    change_manifest(tmp_path / "offered" / "new", version="0.0.2")
    video = write_line_video(tmp_path / "line.avi", frames=20)
    settings = f"control:\n  enabled: true\n  bundle_dir: {tmp_path / 'offered'}\n"
    flags = ("--source", str(video), *FLAGS, "--broker", broker.url)
    with (
        PlantOperator(broker.port) as operator,
        AgentProcess(tmp_path, tiny_bundle, *flags, settings=settings) as agent,
    ):
        operator.wait_until_heard(starts=1)
        assert operator.command("cam0/threshold", 0.25)["error"] is None
        assert operator.command("bundle", "new")["error"] is None
        agent.wait_for_output("has passed its probation")
        remove(agent.spool.parent)
        agent.wait_for_output("manifest.json, so the next start cannot run this bundle")
        state = agent.spool.parent
        wait_until((state / "settings.json").exists)
        wait_until((state / "bundles" / "selected.json").exists)
        code, _ = agent.terminate()
    assert code == 0 and "Traceback" not in agent.output, agent.output
    assert '"threshold":0.25' in (state / "settings.json").read_text()
