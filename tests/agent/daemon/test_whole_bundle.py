"""The agent as a process that switches to another bundle by commands over a real broker."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agent_process import STOP_S, AgentProcess
from bundle_attacks import change_manifest, copy_bundle, make_key, sign_folder, with_products, write_public_key
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import BASE, PATIENCE_S, PlantOperator, without_gap, write_parts
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import SHIPPED_BUNDLE
from zsad_agent.model.bundle_update import PROBATION_FRAMES
from zsad_core.bundle import load_bundle

Brokers = Callable[..., MosquittoBroker]


@pytest.fixture
def offered(tmp_path: Path) -> Path:
    """The folder with bundles to switch to."""
    folder = tmp_path / "offered"
    folder.mkdir()
    return folder


@contextmanager
def running(
    broker: MosquittoBroker, bundle: Path, folder: Path, *, fps: float = 60, trusted: Path | None = None
) -> Iterator[AgentProcess]:
    settings = (
        f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\n  bundle_dir: {folder / 'offered'}\n"
        f"source:\n  source: {folder / 'parts'}\n  loop: true\n  fps: {fps}\n"
    )
    with AgentProcess(folder, bundle, settings=settings) as agent:
        yield agent


def sha256_of(result: dict[str, Any]) -> str:
    return str(result["bundle"]["sha256"])


def boot_of(result: dict[str, Any]) -> str:
    return str(result["id"].rsplit("-", 1)[0])


def successive_shas(results: list[dict[str, Any]]) -> list[str]:
    """The bundle of each result, without repetitions."""
    shas = [sha256_of(result) for result in results]
    return [sha for number, sha in enumerate(shas) if number == 0 or shas[number - 1] != sha]


def test_good_bundle_is_used_from_the_next_frame_until_it_is_switched_back(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts", blot=120)
    old = load_bundle(tiny_bundle).sha256
    change_manifest(copy_bundle(tiny_bundle, offered / "new"), version="0.0.2", products=["bottle", "object"])
    new = load_bundle(offered / "new").sha256
    with PlantOperator(broker.port) as operator:
        with running(broker, tiny_bundle, tmp_path) as agent:
            operator.next_results(5)
            state = operator.command("bundle", "new")
            assert (state["error"], "0.0.2" in state["value"]) == (None, True)
            operator.next_results(PROBATION_FRAMES + 1)
            agent.wait_for_output("has passed its probation", PATIENCE_S)
            assert successive_shas(operator.results_of()) == [old, new]
            assert without_gap(operator.results_of())
            assert all(result["verdict"] == "anomalous" for result in operator.results_of())
            agent.kill()
        with running(broker, tiny_bundle, tmp_path) as agent:
            operator.wait_until_heard(starts=2)
            operator.result_where(lambda result: sha256_of(result) == new)
            assert operator.command("bundle", None)["error"] is None
            operator.result_where(lambda result: sha256_of(result) == old)
            assert agent.running
            state = json.loads(operator.payloads(f"{BASE}/bundle/state")[-1])
            assert (state["source"], "0.0.1" in state["value"]) == ("config", True)
            agent.terminate()
        assert successive_shas(operator.results_of()) == [old, new, old]
        assert "Traceback" not in agent.output


def test_reload_waits_for_the_end_of_a_probation(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    change_manifest(copy_bundle(tiny_bundle, offered / "new"), version="0.0.2", products=["bottle", "object"])
    with PlantOperator(broker.port) as operator, running(broker, tiny_bundle, tmp_path, fps=3) as agent:
        operator.next_results(2)
        assert operator.command("bundle", "new")["error"] is None
        assert "is still on probation" in operator.command("reload")["error"]
        agent.wait_for_output("has passed its probation", PATIENCE_S)
        assert operator.command("reload")["error"] is None
        agent.wait_for_output("restarting with the new config", PATIENCE_S)
        operator.wait_until_heard(starts=2)
        assert "0.0.2" in json.loads(operator.payloads(f"{BASE}/bundle/state")[-1])["value"]


def test_unusable_bundles_are_refused_while_the_inspection_continues(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    make_tiny_bundle(offered / "mad", output_scale=float("nan"))
    make_tiny_bundle(offered / "high", output_scale=3.0)
    poor = copy_bundle(tiny_bundle, offered / "poor")
    with_products(poor, "object")
    cut = copy_bundle(tiny_bundle, offered / "tampered")
    (cut / "model.bin").write_bytes((cut / "model.bin").read_bytes() + b"x")
    (offered / "link").symlink_to(tiny_bundle)
    refusals = {
        "mad": "no valid",
        "high": "[0, 1]",
        "poor": "'bottle' is not in the bundle",
        "tampered": "sha256",
        "link": "link out of",
        "../parts": "not a path out of it",
        "none": "no such bundle",
    }
    with PlantOperator(broker.port) as operator, running(broker, tiny_bundle, tmp_path) as agent:
        operator.next_results(5)
        write_parts(tmp_path / "parts", grey=60)
        operator.result_where(lambda result: result["anomaly_score"] > 0.7)
        assert operator.command("cam0/product", "bottle")["error"] is None
        for name, words in refusals.items():
            state = operator.command("bundle", name)
            assert words in state["error"], name
            assert "0.0.1" in state["value"] and state["source"] == "config"
        operator.next_results(5)
        assert len(successive_shas(operator.results_of())) == 1
        assert not any(result["verdict"] == "unknown" for result in operator.results_of())
        assert without_gap(operator.results_of())
        agent.terminate()
    assert [path.name for path in (tmp_path / "state" / "bundles").glob("*") if len(path.name) > 60] == []
    assert "Traceback" not in agent.output


def test_with_a_trusted_key_only_bundles_that_it_signed_are_accepted(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    key = make_key(1)
    mine = sign_folder(copy_bundle(tiny_bundle, tmp_path / "mine"), key)
    copy_bundle(tiny_bundle, offered / "unsigned")
    sign_folder(copy_bundle(tiny_bundle, offered / "foreign"), make_key(2))
    tampered = sign_folder(copy_bundle(tiny_bundle, offered / "tampered"), key)
    change_manifest(tampered, version="6.6.6")
    sign_folder(change_manifest(copy_bundle(tiny_bundle, offered / "signed"), version="0.0.2"), key)
    with PlantOperator(broker.port) as operator, running(broker, mine, tmp_path) as agent:
        operator.next_results(1)
        config = tmp_path / "agent.yaml"
        trusted = f"  trusted_keys: [{write_public_key(tmp_path / 'line.pub', key)}]\n"
        config.write_text(config.read_text().replace("  threads: 1\n", f"  threads: 1\n{trusted}"))
        operator.reload()
        for name in ("unsigned", "foreign", "tampered"):
            assert "sign" in operator.command("bundle", name)["error"], name
        assert operator.command("bundle", "signed")["error"] is None
        operator.result_where(lambda result: result["bundle"]["version"] == "0.0.2")
        agent.terminate()
    assert without_gap(operator.results_of())


def test_bundle_that_fails_on_later_frames_is_rolled_back_automatically(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    make_tiny_bundle(offered / "shy", nan_on_black=True)
    old, shy = load_bundle(tiny_bundle).sha256, load_bundle(offered / "shy").sha256
    with PlantOperator(broker.port) as operator, running(broker, tiny_bundle, tmp_path, fps=4) as agent:
        operator.next_results(5)
        assert operator.command("bundle", "shy")["error"] is None
        write_parts(tmp_path / "parts", blot=0)
        state = operator.state_where("bundle", lambda state: "gave no answer" in (state["error"] or ""))
        assert "darkness 0.0.1 (" + old[:12] in state["value"] and state["source"] == "config"
        result = operator.result_where(lambda result: sha256_of(result) == old)
        assert result["verdict"] == "anomalous"
        unknown = [result for result in operator.results_of() if result["verdict"] == "unknown"]
        assert {sha256_of(result) for result in unknown} == {shy} and len(unknown) == 3
        assert successive_shas(operator.results_of()) == [old, shy, old]
        assert without_gap(operator.results_of())
        operator.wait_for(lambda: b'"ok"' in operator.payloads(f"{BASE}/cam0/status")[-1], PATIENCE_S)
        agent.terminate()
    with PlantOperator(broker.port) as operator, running(broker, tiny_bundle, tmp_path) as agent:
        assert sha256_of(operator.next_results(1)[0]) == old


def test_kill_during_probation_leaves_the_old_bundle(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    change_manifest(copy_bundle(tiny_bundle, offered / "new"), version="0.0.2")
    with PlantOperator(broker.port) as operator:
        with running(broker, tiny_bundle, tmp_path, fps=4) as agent:
            operator.next_results(2)
            operator.send("bundle", "new")
            operator.result_where(lambda result: result["bundle"]["version"] == "0.0.2")
            agent.kill()
        killed = {boot_of(result) for result in operator.results_of()}

        def fresh() -> list[dict[str, Any]]:
            return [result for result in operator.results_of() if boot_of(result) not in killed]

        with running(broker, tiny_bundle, tmp_path) as agent:
            operator.wait_for(fresh)
            operator.wait_until_heard(starts=2)
            assert {result["bundle"]["version"] for result in fresh()} == {"0.0.1"}
            assert operator.command("bundle", "new")["error"] is None  # and it can be selected again
            agent.terminate()


def test_stop_during_a_trial_exits_normally(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, offered: Path
) -> None:
    broker = mosquitto()
    write_parts(tmp_path / "parts")
    copy_bundle(SHIPPED_BUNDLE, offered / "large")
    with PlantOperator(broker.port) as operator, running(broker, tiny_bundle, tmp_path) as agent:
        operator.next_results(5)
        operator.send("bundle", "large")
        wait_until(lambda: list((tmp_path / "state" / "bundles").glob("*/model.xml")))  # stored, and now compiled
        time.sleep(0.05)
        code, spent_s = agent.terminate()
        assert (code, spent_s < STOP_S) == (0, True), agent.output
        operator.wait_for(lambda: operator.payloads(f"{BASE}/available")[-1] == b"offline")
    assert "Traceback" not in agent.output and "Fatal" not in agent.output, agent.output
    assert not list((tmp_path / "state" / "crash").glob("*.txt"))
