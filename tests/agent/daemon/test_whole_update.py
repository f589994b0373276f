"""The agent as a process that a real broker tells to fetch bundles from a real HTTPS store, good and evil ones."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bundle_attacks import copy_bundle, make_key, sign_folder, zip_folder
from fleet_plant import PATIENCE_S, FleetPlant, sha256_of
from mosquitto_broker import MosquittoBroker
from plant_operator import BASE, PlantOperator, without_gap

from zsad_core.bundle import MODEL_BIN


@pytest.fixture
def plant(mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path) -> Iterator[FleetPlant]:
    made = FleetPlant(tmp_path, mosquitto(), tiny_bundle)
    with made.store:
        yield made


def fetch(plant: FleetPlant, file: Path, how: str = "", **changes: object) -> dict[str, object]:
    """The value of a command."""
    content = file.read_bytes()
    value = {"action": "fetch", "kind": "bundle", "url": f"{plant.store.url}{how}/{file.name}", "bytes": len(content)}
    return value | {"sha256": hashlib.sha256(content).hexdigest()} | changes


def evil(plant: FleetPlant, tiny_bundle: Path) -> dict[str, tuple[dict[str, object], str]]:
    """Name -> value of a command, and words of the reason."""
    served = plant.folder / "served"
    unsigned = zip_folder(tiny_bundle, served / "unsigned.zip")
    foreign = zip_folder(sign_folder(copy_bundle(tiny_bundle, plant.folder / "foreign"), make_key(2)), served / "f.zip")
    good = plant.offer("good", version="0.0.9")
    bomb = served / "bomb.zip"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(300_000_000) if name == MODEL_BIN else source.read(name))
    (served / "garbage.zip").write_bytes(b"PK\x03\x04" + bytes(5000))
    return {
        "unsigned": (fetch(plant, unsigned), "not signed"),
        "foreign key": (fetch(plant, foreign), "signed with key"),
        "zip bomb": (fetch(plant, bomb), "too much for a bundle's file"),
        "no zip": (fetch(plant, served / "garbage.zip"), "not a bundle folder nor a readable .zip"),
        "wrong hash": (fetch(plant, good, sha256="0" * 64), "sha256 is"),
        "endless": (fetch(plant, good, "/endless"), "more than"),
        "file": (fetch(plant, good, url="file:///etc/passwd"), "scheme 'file' is not known"),
        "redirect": (fetch(plant, good, "/redirect/http://127.0.0.1:1"), "from https to http is not followed"),
    }


def test_evil_files_are_refused_and_a_good_one_is_taken_while_the_inspection_goes_on(
    plant: FleetPlant, tiny_bundle: Path
) -> None:
    old, new = sha256_of(plant.old), plant.offer("new", padding=150_000, version="0.0.2")
    refusals = evil(plant, tiny_bundle)

    def ended(operator: PlantOperator, command_id: str) -> dict[str, Any]:
        """The state in which the command has ended; `error` of a refusal is its text."""
        state = operator.state_where(
            "update",
            lambda state: (
                (state["value"]["id"] == command_id and state["value"]["phase"] in ("done", "failed"))
                or (state["id"] == command_id and state["error"])
            ),
        )
        return dict(state["value"]) | {"said": str(state["error"] or state["value"]["text"])}

    with PlantOperator(plant.broker.port) as operator, plant.agent("line3", fps=60) as agent:
        operator.next_results(5)
        operator.state_where("update", lambda state: state["value"]["phase"] == "idle")
        for name, (value, words) in refusals.items():
            state = ended(operator, json.loads(operator.send("update", value))["id"])
            assert words in state["said"] and state["bundle"] == old, (name, state)
        before = len(operator.results_of())
        payload = operator.send("update", fetch(plant, new, "/slow"))
        operator.publish(f"{BASE}/update/set", payload)  # twice
        command_id = json.loads(payload)["id"]
        assert ended(operator, command_id)["phase"] == "done"
        agent.wait_for_output(f"the command {command_id} came again", PATIENCE_S)
        results = operator.results_of()
        during = [result for result in results[before:] if result["bundle"]["sha256"] == old]
        assert len(during) > 5, "the inspection waited for the download"
        assert plant.store.asked[-1] == "/slow/new.zip" and plant.store.asked.count("/slow/new.zip") == 1
        assert [path for path in (plant.folder / "line3/state/update").iterdir()] == []
        operator.result_where(lambda result: result["bundle"]["sha256"] == sha256_of(new))
        agent.terminate()
        assert without_gap(operator.results_of())
        assert not any(result["verdict"] == "unknown" for result in operator.results_of())
    assert "Traceback" not in agent.output
