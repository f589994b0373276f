"""The daemon with what was taught: real processes and a real broker."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess
from bundle_attacks import change_manifest
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import PlantOperator
from taught_parts import write_parts
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.cli.main import main
from zsad_agent.teaching import ProfileStore


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tiny_features(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "taught"))


class Line:
    """A device: its config, its good parts, and its store."""

    def __init__(self, bundle: Path, folder: Path, broker: MosquittoBroker) -> None:
        self.bundle = bundle
        self.folder = folder
        self.goods = write_parts(folder / "goods", range(20))
        self.bad = write_parts(folder / "bad", range(100, 103), blot=True)
        self.store = ProfileStore(folder / "state" / "profiles")
        self.settings = f"mqtt:\n  broker: {broker.url}\n"

    def teach(self, product: str) -> str:
        """Teaches the product; gives the hash of its profile."""
        place = ["--bundle", str(self.bundle), "--profiles", str(self.store.folder)]
        assert main(["teach", str(self.goods), "--product", product, "--config", "/dev/null", *place]) == 0
        profile = self.store.current(product)
        assert profile is not None
        return profile.sha256

    def start(self, settings: str, environment: dict[str, str] | None = None) -> AgentProcess:
        return AgentProcess(self.folder, self.bundle, settings=self.settings + settings, environment=environment)

    def camera(self, name: str, product: str, *, folder: Path | None = None, more: str = "") -> str:
        return f"- {{name: {name}, source: {folder or self.bad}, loop: true, fps: 10, product: {product}{more}}}\n"


@pytest.fixture
def broker(mosquitto: Callable[..., MosquittoBroker]) -> MosquittoBroker:
    return mosquitto()


@pytest.fixture
def line(bundle: Path, tmp_path: Path, broker: MosquittoBroker, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    return Line(bundle, tmp_path, broker)


def test_what_is_taught_while_the_agent_runs_is_used_after_a_reload(line: Line, broker: MosquittoBroker) -> None:
    with PlantOperator(broker.port) as operator, line.start("cameras:\n" + line.camera("top", "object")) as agent:
        first = operator.result_where(lambda result: True, "top")
        assert (first["provisional"], first["profile"]) == (True, None)
        sha256 = line.teach("object")
        agent.signal(signal.SIGHUP)
        taught = operator.result_where(lambda result: not result["provisional"], "top")
        assert taught["profile"] == {"product": "object", "sha256": sha256}
        assert (taught["verdict"], taught["threshold"]) == ("anomalous", 0.5)
        assert taught["regions"]


def test_cameras_of_one_agent_use_their_own_profiles(line: Line, broker: MosquittoBroker) -> None:
    shas = {product: line.teach(product) for product in ("nut", "bolt")}  # neither is in the bundle
    cameras = line.camera("top", "nut", folder=line.goods) + line.camera("side", "bolt")
    with PlantOperator(broker.port) as operator, line.start("cameras:\n" + cameras):
        for name, product, verdict in (("top", "nut", "ok"), ("side", "bolt", "anomalous")):
            for result in operator.next_results(3, name):
                assert result["profile"] == {"product": product, "sha256": shas[product]}
                assert result["verdict"] == verdict


def test_a_damaged_profile_gives_unknown_with_the_reason_and_never_zero_shot(
    line: Line, broker: MosquittoBroker
) -> None:
    line.teach("object")
    path = line.store.path_of("object")
    path.write_bytes(path.read_bytes()[:-1])
    cameras = line.camera("top", "object", folder=line.goods) + line.camera("side", "bottle", folder=line.goods)
    with PlantOperator(broker.port) as operator, line.start("cameras:\n" + cameras) as agent:
        for result in operator.next_results(3, "top"):
            assert (result["verdict"], result["anomaly_score"], result["provisional"]) == ("unknown", None, False)
            assert "1.profile: the profile was cut" in result["reason"]
        assert {result["verdict"] for result in operator.next_results(3, "side")} == {"ok"}
        agent.wait_for_output("camera top: every verdict is unknown")
        operator.wait_for(lambda: b"the profile was cut" in operator.payloads("zsad/line3/top/status")[-1])
        assert b"degraded" in operator.payloads("zsad/line3/top/status")[-1]
        line.teach("object")
        agent.signal(signal.SIGHUP)
        assert operator.result_where(lambda result: result["verdict"] != "unknown", "top")["profile"] is not None


def test_a_threshold_of_the_config_replaces_the_taught_one_and_the_log_says_so(
    line: Line, broker: MosquittoBroker
) -> None:
    line.teach("nut")
    cameras = line.camera("top", "nut", folder=line.goods, more=", decision: {threshold: 0.0}")
    with PlantOperator(broker.port) as operator, line.start("cameras:\n" + cameras) as agent:
        result = operator.next_results(1, "top")[0]
        assert (result["threshold"], result["verdict"]) == (0.0, "anomalous")
        agent.wait_for_output("decision.threshold 0 of the config replaces the taught threshold of 'nut', 0.5")


def test_profiles_off_uses_nothing_that_was_taught(line: Line, broker: MosquittoBroker) -> None:
    line.teach("object")
    settings = "profiles: off\ncameras:\n" + line.camera("top", "object")
    with PlantOperator(broker.port) as operator, line.start(settings):
        assert {result["provisional"] for result in operator.next_results(2, "top")} == {True}


def test_another_bundle_makes_the_profile_again_and_a_command_chooses_a_taught_product(
    line: Line, broker: MosquittoBroker
) -> None:
    before = line.teach("nut")
    incoming = line.folder / "incoming"
    shutil.copytree(line.bundle, incoming / "newer")
    change_manifest(incoming / "newer", version="2.0")
    settings = f"control:\n  enabled: true\n  bundle_dir: {incoming}\ncameras:\n"
    settings += line.camera("top", "object", folder=line.goods)
    with PlantOperator(broker.port) as operator, line.start(settings) as agent:
        operator.wait_until_heard(1)
        assert operator.command("top/product", "nut")["error"] is None
        assert operator.result_where(lambda result: result["profile"], "top")["profile"]["sha256"] == before
        assert operator.command("top/product", "screw")["error"] is not None
        assert operator.command("bundle", "newer")["error"] is None, agent.output
        newer = operator.result_where(lambda result: result["bundle"]["version"] == "2.0", "top")
        assert newer["profile"]["sha256"] != before
        kept = line.store.stamp("nut")
        operator.result_where(lambda result: line.store.stamp("nut") != kept, "top")  # after the probation
        current = line.store.current("nut")
        assert current is not None and current.sha256 == newer["profile"]["sha256"]
        assert current.rebuilt_from is not None and current.rebuilt_from.version == "0.0.1"
        assert newer["verdict"] == "ok"


def test_another_bundle_at_the_start_makes_the_profile_again_while_other_cameras_inspect(
    line: Line, broker: MosquittoBroker
) -> None:
    before = line.teach("nut")
    shutil.copytree(line.bundle, line.folder / "newer")
    line.bundle = line.folder / "newer"
    change_manifest(line.bundle, version="2.0")
    cameras = line.camera("top", "nut", folder=line.goods) + line.camera("side", "object")
    with PlantOperator(broker.port) as operator, line.start("cameras:\n" + cameras) as agent:
        assert operator.result_where(lambda result: result["verdict"] != "unknown", "side")["provisional"]
        found = operator.result_where(lambda result: result["profile"], "top")
        assert found["verdict"] == "ok" and found["profile"]["sha256"] != before, agent.output
        (first, *_) = operator.results_of("top")
        assert (first["verdict"], first["provisional"]) == ("unknown", False)
        assert "is being made again for this bundle" in first["reason"]
        current = line.store.current("nut")
        assert current is not None and current.made_of == before


SLOW_STEP = """
import time
from zsad_core.memory import k_centre
choose = k_centre.coresets
def slowly(*args, **more):
    time.sleep(8)  # longer than the services have to stop
    return choose(*args, **more)
k_centre.coresets = slowly
"""


@pytest.mark.chaos
def test_a_reload_waits_for_a_step_of_a_profile_that_is_made_again(line: Line, broker: MosquittoBroker) -> None:
    before = line.teach("nut")
    shutil.copytree(line.bundle, line.folder / "newer")
    line.bundle = line.folder / "newer"
    change_manifest(line.bundle, version="2.0")
    (line.folder / "sitecustomize.py").write_text(SLOW_STEP)
    path = os.pathsep.join(filter(None, (str(line.folder), os.environ.get("PYTHONPATH"))))
    cameras = "cameras:\n" + line.camera("top", "nut", folder=line.goods)
    with PlantOperator(broker.port) as operator, line.start(cameras, {"PYTHONPATH": path}) as agent:
        agent.wait_for_output("it is made again from")
        wait_until(lambda: agent.output.count("inspecting ") == 1 or not agent.running)
        agent.signal(signal.SIGHUP)
        wait_until(lambda: "restarting with the new config" in agent.output or not agent.running)
        assert agent.running, agent.output
        found = operator.result_where(lambda result: result["profile"], "top")
        assert found["verdict"] == "ok" and found["profile"]["sha256"] != before
        assert "hangs" not in agent.output and "Traceback" not in agent.output


def test_a_missing_folder_of_profiles_makes_every_verdict_unknown(line: Line, broker: MosquittoBroker) -> None:
    settings = f"profiles: {line.folder}/unmounted\ncameras:\n" + line.camera("top", "object")
    with PlantOperator(broker.port) as operator, line.start(settings):
        result = operator.next_results(1, "top")[0]
        assert (result["verdict"], result["provisional"]) == ("unknown", False)
        assert "unmounted: no such folder, so what was taught is unknown" in result["reason"]
