"""Weights that change in the memory of a running agent, as a faulty memory module changes them."""

import json
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from agent_process import AgentProcess
from chaos_record import record
from judge import read_results
from mosquitto_broker import MosquittoBroker
from weight_flipper import flip_weights
from witness import Witness

from zsad_agent.model.self_test import TEST_EVERY_S

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "agent" / "bundles" / "zsad-tiny"
PORT = 9469


def ready() -> str:
    try:
        with urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except HTTPError as error:
        return error.read().decode()


@pytest.mark.chaos
def test_weights_that_change_in_memory_are_noticed_and_the_model_is_loaded_again(tmp_path: Path) -> None:
    settings = (
        f"http: {{listen: 127.0.0.1:{PORT}}}\nheatmap: {{enabled: false}}\n"
        f"source: {{source: {ROOT / 'demo' / 'stream'}, loop: true, fps: 5}}\n"
    )
    with (
        MosquittoBroker(tmp_path) as broker,
        Witness(broker.port) as witness,
        AgentProcess(tmp_path, BUNDLE, "--broker", broker.url, settings=settings) as agent,
    ):
        results = lambda: read_results(witness.arrivals)  # noqa: E731
        assert witness.wait_for(lambda: len(results()) >= 24, 60), agent.output
        assert flip_weights(agent.pid, (BUNDLE / "model.bin").read_bytes()) > 20
        changed_s = time.time()
        agent.wait_for_output("every verdict is unknown until the model is loaded again", 2 * TEST_EVERY_S)
        noticed_s = time.time()
        assert "answer to the test picture differs by" in ready()
        agent.wait_for_output("back: the model was loaded again", 60)
        back_s = time.time()
        assert witness.wait_for(lambda: results()[-1].captured_s > back_s + 5, 30)
        assert json.loads(ready())["status"] == "ok"
        agent.terminate()
    during = [result.verdict for result in results() if noticed_s + 0.5 < result.captured_s < back_s - 0.5]
    after = [result.verdict for result in results() if result.captured_s > back_s + 0.5]
    assert set(during) <= {"unknown"} and "unknown" not in after
    assert any(result.verdict == "unknown" for result in results())
    record(
        "weights change in the memory of the agent",
        tried=1,
        lost=0,
        doubled=0,
        recover_s=[back_s - noticed_s],
        note=f"noticed after {noticed_s - changed_s:.0f} s; all unknown until the model was loaded again",
    )
