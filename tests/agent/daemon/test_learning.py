"""The daemon learns from its line and from people: real processes and a real broker."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from agent_process import AgentProcess
from mosquitto_broker import MosquittoBroker
from plant_operator import BASE, PlantOperator
from taught_parts import write_parts
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.config import SHIPPED_BUNDLES
from zsad_agent.teaching import ProfileStore
from zsad_core.bundle import load_bundle

ROADS = Path(__file__).parents[4] / "shared/datasets/crackforest/road"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tiny_features(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "taught"))


@pytest.fixture
def broker(mosquitto: Callable[..., MosquittoBroker]) -> MosquittoBroker:
    return mosquitto()


def settings(broker: MosquittoBroker, folder: Path, learning: str) -> str:
    write_parts(folder / "goods", range(40))
    return (
        f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\nlearning: {learning}\n"
        f"source: {{source: {folder / 'goods'}, loop: true, fps: 10, name: top}}\n"
    )


def test_an_offer_is_committed_rolled_back_and_marked_without_a_restart(
    bundle: Path, tmp_path: Path, broker: MosquittoBroker
) -> None:
    config = settings(broker, tmp_path, "{parts: 20}")
    with PlantOperator(broker.port) as operator, AgentProcess(tmp_path, bundle, settings=config) as agent:
        assert operator.result_where(lambda result: True, "top")["provisional"]
        assert "no offer" in operator.command("top/teach", {"action": "commit"})["error"]
        offered = operator.state_where("top/teach", lambda state: state["value"]["phase"] == "offered")["value"]
        assert offered["next"] == ["commit", "cancel"] and offered["offer"]["goods"] >= 15
        answer = operator.command("top/teach", {"action": "commit"})
        assert answer["error"] is None and answer["value"]["phase"] == "idle"
        taught = operator.result_where(lambda result: result["profile"] is not None, "top")
        assert not taught["provisional"] and taught["threshold"] == 0.5

        answer = operator.command("top/teach", {"action": "start", "count": 500})
        assert answer["error"] is None and answer["value"]["asked"]
        operator.state_where("top/teach", lambda state: state["value"].get("asked") and state["value"]["pictures"] >= 5)
        answer = operator.command("top/teach", {"action": "finish"})
        assert answer["error"] is None and answer["value"]["next"] == ["cancel"]
        operator.state_where("top/teach", lambda state: state["value"].get("asked") and state["value"]["offer"])
        assert operator.command("top/teach", {"action": "commit"})["error"] is None
        second = operator.result_where(lambda result: result["profile"] not in (None, taught["profile"]), "top")
        assert operator.command("top/teach", {"action": "roll_back"})["error"] is None
        assert operator.next_results(5, "top")[-1]["profile"] == taught["profile"]

        answer = operator.command("top/teach", {"action": "bad", "id": second["id"]})
        if answer["error"] is None:  # most passes are kept for some seconds
            assert second["id"] in answer["value"]["mark"]
        else:
            assert "no longer there" in answer["error"]
        assert "Traceback" not in agent.output
    assert ProfileStore(tmp_path / "state/profiles").products() == ["object"]


def test_mode_use_needs_no_person(bundle: Path, tmp_path: Path, broker: MosquittoBroker) -> None:
    config = settings(broker, tmp_path, "{parts: 20, mode: use}")
    with PlantOperator(broker.port) as operator, AgentProcess(tmp_path, bundle, settings=config) as agent:
        operator.result_where(lambda result: result["profile"] is not None, "top")
        assert "Traceback" not in agent.output


def test_without_feature_networks_the_command_says_what_is_missing(
    tiny_bundle: Path, tmp_path: Path, broker: MosquittoBroker
) -> None:
    with (
        PlantOperator(broker.port) as operator,
        AgentProcess(tmp_path, tiny_bundle, settings=settings(broker, tmp_path, "{}")),
    ):
        operator.result_where(lambda result: True, "top")
        answer = operator.command("top/teach", {"action": "start"})
        assert "feature networks" in answer["error"] and answer["value"]["phase"] == "off"


def provisional_frames(operator: PlantOperator) -> int | None:
    """In the newest statistics."""
    found = operator.payloads(f"{BASE}/stats")[-1:]
    return next((json.loads(payload)["cameras"]["top"]["provisional_frames"] for payload in found), None)


@pytest.mark.skipif(not ROADS.is_dir(), reason=f"the pictures of {ROADS} are not there")
def test_threshold_of_an_untaught_product_follows_its_parts_and_survives_a_restart(
    tmp_path: Path, broker: MosquittoBroker
) -> None:
    tiny = SHIPPED_BUNDLES / "zsad-tiny"
    goods, bads = sorted((ROADS / "test/good").iterdir())[-46:-24], sorted((ROADS / "test/crack").iterdir())[:1]
    for number, path in enumerate([*bads, *goods]):  # the stream starts with a defect
        (tmp_path / "road").mkdir(exist_ok=True)
        (tmp_path / f"road/{number:02}.jpg").symlink_to(path)
    source = f"{{source: {tmp_path / 'road'}, loop: true, fps: 20, name: top}}"
    config = f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\nsource: {source}\n"
    shipped = load_bundle(tiny).manifest.threshold.value
    with PlantOperator(broker.port) as operator:
        with AgentProcess(tmp_path, tiny, settings=config):
            first = operator.result_where(lambda result: True, "top")
            assert (first["threshold"], first["provisional_frames"]) == (shipped, 0)
            later = operator.result_where(lambda result: result["provisional_frames"] >= 20, "top")
            operator.state_where("top/threshold", lambda state: state["value"] < 0.9 * shipped)
            operator.wait_for(lambda: provisional_frames(operator) is not None)
        assert later["provisional"] and later["profile"] is None
        assert 0.2 * shipped < later["threshold"] < 0.9 * shipped
        with AgentProcess(tmp_path, tiny, settings=config):
            operator.result_where(lambda result: result["provisional_frames"] >= 19 and result["seq"] < 19, "top")
