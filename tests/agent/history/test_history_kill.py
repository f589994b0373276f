"""The history of an agent that is killed at any moment has every result that the broker has accepted."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from history_tools import ids
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener

from zsad_agent.history import HistoryStore

KILLS = 5

# The agent's spool, publisher and history, as the daemon joins them, with 200 results per second. The history
# writes slowly, so that acknowledged results wait for it. The last run only takes over what the spool still has.
AGENT = """
import sys, threading, time
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from result_maker import make_result
from zsad_agent.config import AgentConfig
from zsad_agent.daemon.startup import RecordedFirst, make_spool, start_history, start_publisher
from zsad_agent.history import rows
from zsad_agent.system import ServiceGroup

state_dir, port, run = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = AgentConfig.model_validate(
    {"device_id": "line3", "mqtt": {"broker": f"mqtt://127.0.0.1:{port}"}, "history": {"enabled": True}}, strict=False
)
insert = rows.insert
def slow_insert(db, results):
    time.sleep(0.4)
    return insert(db, results)
rows.insert = slow_insert
services = ServiceGroup()
with make_spool(config, state_dir, threading.Event()) as spool:
    history = start_history(config, state_dir, spool, services)
    publisher = start_publisher(config, spool, history, services, threading.Event())
    store = RecordedFirst(history, publisher)
    while run < 0 and history.waiting:
        time.sleep(0.01)
    for seq in range(1_000_000):
        result = make_result(seq, id=f"line3-{run}-{seq}")
        store.accept_all([(result, None)], [None])
        if seq == 0:
            print("begun", flush=True)
        time.sleep(0.005)
"""


def run_agent(state_dir: Path, port: int, run: int, wait: Callable[[], None] = lambda: None) -> None:
    """Runs the agent and kills it when `wait`, called after its first result, returns."""
    arguments = [sys.executable, "-c", AGENT, str(state_dir), str(port), str(run), str(Path(__file__).parents[2])]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == "begun\n"
        wait()
        agent.send_signal(signal.SIGKILL)


def test_kill_loses_nothing_that_the_broker_has_accepted(
    tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    rng = random.Random(20)
    broker = mosquitto()
    with MqttListener(broker.port) as listener:

        def wait() -> None:
            before = len(listener.messages)
            listener.wait_for(lambda: len(listener.messages) > before + 30)
            time.sleep(rng.uniform(0, 1.5))

        for run in range(KILLS):
            run_agent(tmp_path, broker.port, run, wait)
        time.sleep(0.5)  # the broker delivers what it has
        accepted = {result["id"] for result in listener.results()}
    run_agent(tmp_path, broker.port, -1)
    with HistoryStore(tmp_path / "history.sqlite3") as history:
        stored = ids(history, limit=500)
    assert len(accepted) > 100
    assert accepted - set(stored) == set()
    assert len(stored) == len(set(stored))
