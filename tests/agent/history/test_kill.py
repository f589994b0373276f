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

KILLS = 6
SECONDS = 0.8  # of one run, about, after its first result

# The agent's spool, publisher and history, as the daemon joins them, with a result every millisecond. The history
# writes slowly, so that acknowledged results wait for it.
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
    time.sleep(0.03)
    return insert(db, results[:20])
def insert_all(db, results):
    return sum(slow_insert(db, results[i:i + 20]) for i in range(0, len(results), 20))
rows.insert = insert_all
services = ServiceGroup()
with make_spool(config, state_dir, threading.Event()) as spool:
    history = start_history(config, state_dir, spool, services)
    publisher = start_publisher(config, spool, history, services, threading.Event())
    store = RecordedFirst(history, publisher)
    for seq in range(1_000_000):
        result = make_result(seq, id=f"line3-{run}-{seq}")
        store.accept_all([(result, None)], [None])
        if seq == 0:
            print("begun", flush=True)
        time.sleep(0.001)
"""


def test_kill_loses_nothing_that_the_broker_has_accepted(
    tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    rng = random.Random(20)
    broker = mosquitto()
    helpers = str(Path(__file__).parents[2])
    with MqttListener(broker.port) as listener:
        for run in range(KILLS):
            arguments = [sys.executable, "-c", AGENT, str(tmp_path), str(broker.port), str(run), helpers]
            with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as agent:
                assert agent.stdout is not None and agent.stdout.readline() == "begun\n"
                time.sleep(rng.uniform(0.2, 1) * SECONDS)
                agent.send_signal(signal.SIGKILL)
        time.sleep(0.5)  # the broker delivers what it has
        accepted = {result["id"] for result in listener.results()}
    with subprocess.Popen(
        [sys.executable, "-c", AGENT, str(tmp_path), str(broker.port), str(KILLS), helpers],
        stdout=subprocess.PIPE,
        text=True,
    ) as agent:  # the next start takes over what the spool still has
        assert agent.stdout is not None and agent.stdout.readline() == "begun\n"
        time.sleep(1.5)
        agent.send_signal(signal.SIGKILL)
    with HistoryStore(tmp_path / "history.sqlite3") as history:
        stored = ids(history, limit=500)
    assert len(accepted) > 100
    assert accepted - set(stored) == set()
    assert len(stored) == len(set(stored))
