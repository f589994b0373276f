"""zsad-fleet against real agents, a real broker and a real HTTPS store."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fleet_plant import PATIENCE_S, FleetPlant, Watcher, sha256_of
from mosquitto_broker import MosquittoBroker
from plant_operator import without_gap, write_parts
from taught_parts import write_parts as write_taught_parts
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.cli.main import main as agent_command
from zsad_agent.teaching import ProfileStore
from zsad_core.bundle import sign_profile


@pytest.fixture
def plant(mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path) -> Iterator[FleetPlant]:
    made = FleetPlant(tmp_path, mosquitto(), tiny_bundle)
    with made.store:
        yield made


def test_rollout_in_waves_then_a_bad_bundle_stops_after_the_first_device(plant: FleetPlant) -> None:
    old, new = sha256_of(plant.old), plant.offer("new", version="0.0.2")
    shy = plant.offer("shy", make_tiny_bundle(plant.folder / "shy", nan_on_black=True), version="0.0.3")
    with (
        plant.agent("line1", tags="hall-a", fps=8) as one,
        plant.agent("line2", tags="hall-a", fps=8) as two,
        Watcher(plant.broker.port) as watcher,
    ):
        watcher.wait_ready("line1", "line2")
        url = f"{plant.store.url}/"
        nobody = plant.run("rollout", new, "--store", url, "--tag", "hall-b")
        assert (nobody.returncode, "no device is selected" in nobody.stderr) == (1, True), nobody.stderr
        dry = plant.run("rollout", new, "--store", url, "--dry-run")
        assert "wave 1: 1 devices: line1\nwave 2: 1 devices: line2" in dry.stdout
        assert watcher.update_of("line1")["phase"] == "idle" and plant.store.asked == []

        done = plant.run("rollout", new, "--store", url, "--tag", "hall-a", "--wave", "1,rest")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "done: 2 done" in done.stdout
        watcher.wait_for(lambda: watcher.bundles_of("line2") == [old, sha256_of(new)], PATIENCE_S)
        assert watcher.bundles_of("line1") == [old, sha256_of(new)]
        assert plant.store.asked == ["/new.zip", "/new.zip"]
        said = [json.loads(payload)["at"] for payload in watcher.payloads("zsad/line2/update/state")]
        assert said[1] > watcher.update_done_at("line1")
        listed = [json.loads(line) for line in plant.run("list", "--json").stdout.splitlines()]
        assert [(one["device"], one["bundle"]["sha256"], one["tags"]) for one in listed] == [
            ("line1", sha256_of(new), ["hall-a"]),
            ("line2", sha256_of(new), ["hall-a"]),
        ]

        watcher.when_on_probation("line1", sha256_of(shy), lambda: write_parts(plant.folder / "line1/parts", blot=0))
        bad = plant.run("rollout", shy, "--store", url)
        assert bad.returncode == 1, bad.stdout
        assert "stopped in wave 1 of 2: 1 failed, 1 waiting" in bad.stderr
        assert "gave no answer" in bad.stdout and "/shy.zip" not in plant.store.asked[3:]
        watcher.wait_for(
            lambda: watcher.bundles_of("line1") == [old, sha256_of(new), sha256_of(shy), sha256_of(new)], PATIENCE_S
        )
        assert watcher.update_of("line1")["bundle"] == sha256_of(new)
        assert watcher.update_of("line2")["phase"] == "done"

        back = plant.run("rollback", new)
        assert back.returncode == 0, back.stdout + back.stderr + one.output[-3000:]
        watcher.wait_for(lambda: watcher.bundles_of("line2") == [old, sha256_of(new), old], PATIENCE_S)
        for agent, device_id in ((one, "line1"), (two, "line2")):
            agent.terminate()
            results = [json.loads(payload) for payload in watcher.payloads(f"zsad/{device_id}/cam0/result")]
            assert without_gap(results)
            assert "Traceback" not in agent.output


def test_profile_is_rolled_out_and_back(
    mosquitto: Callable[..., MosquittoBroker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = FleetPlant(tmp_path, mosquitto(), add_tiny_features(make_tiny_bundle(tmp_path / "taught")))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    profiles = ProfileStore(tmp_path / "elsewhere")
    files, shas = [tmp_path / f"served/{number}.profile" for number in (1, 2)], []
    for number, file in enumerate(files):
        goods = write_taught_parts(tmp_path / f"goods{number}", range(30 * number, 30 * number + 20))
        place = ["--bundle", str(plant.old), "--profiles", str(profiles.folder), "--config", "/dev/null"]
        assert agent_command(["teach", str(goods), "--product", "object", *place]) == 0
        shas.append(profiles.export_to("object", file).sha256)
        sign_profile(file, plant.key)
    (tmp_path / "line1").mkdir()
    (tmp_path / "line1/parts").symlink_to(tmp_path / "goods0")

    def profile_in_use() -> str | None:
        result = json.loads(watcher.payloads("zsad/line1/cam0/result")[-1])
        return None if result["profile"] is None else str(result["profile"]["sha256"])

    with plant.store, plant.agent("line1", fps=10) as agent, Watcher(plant.broker.port) as watcher:
        watcher.wait_ready("line1")
        assert profile_in_use() is None
        for words, sha256 in (
            (("rollout", files[0], "--store", plant.store.url), shas[0]),
            (("rollout", files[1], "--store", plant.store.url), shas[1]),
            (("rollback", files[1]), shas[0]),
        ):
            done = plant.run(*words)
            assert done.returncode == 0, done.stdout + done.stderr + agent.output
            watcher.wait_for(lambda: profile_in_use() == sha256, PATIENCE_S)  # noqa: B023
        assert "Traceback" not in agent.output
