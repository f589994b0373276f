"""The Sparkplug publisher, at a real broker."""

import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from agent_process import AgentProcess
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from result_maker import make_result
from sparkplug_host import SparkplugHost
from stats_maker import AGENT, make_stats

from zsad_agent.config import MqttConfig
from zsad_agent.dashboards import SparkplugPublisher
from zsad_agent.messages import AgentSnapshot
from zsad_core.types import Verdict

BrokerFactory = Callable[..., MosquittoBroker]
CAMERAS = ("cam0", "cam1")


def make_sparkplug(
    url: str, folder: Path, snapshot: Callable[[], AgentSnapshot] = lambda: AGENT, **settings: Any
) -> SparkplugPublisher:
    return SparkplugPublisher(
        MqttConfig(broker=url, **settings),
        snapshot,
        group="zsad",
        device_id="line3",
        cameras=CAMERAS,
        state_file=folder / "sparkplug.json",
        reconnect_s=(0.05, 0.1),
    )


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_births_come_first_and_data_follow_in_order_without_gaps(
    mosquitto: BrokerFactory, tmp_path: Path, protocol: str
) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    broker = mosquitto(users={"zsad": "secret"}, anonymous=True)
    settings = {"protocol": protocol, "username": "zsad", "password_file": password}
    verdicts = [list(Verdict)[seq % 3] for seq in range(600)]
    with SparkplugHost(broker.port) as host:
        with make_sparkplug(broker.url, tmp_path, **settings) as sparkplug:
            for seq, verdict in enumerate(verdicts):
                sparkplug.accept(make_result(seq, verdict=verdict, camera=CAMERAS[seq % 2]), None)
            host.wait_for(lambda: len(host.of("DDATA")) == 600)
            assert sparkplug.fault is None
        host.wait_for(lambda: host.of("NDEATH"))
        wait_until(lambda: re.search(r"Client zsad-agent-line3-sparkplug .*disconnected\.", broker.log))
        host.mark()
        host.wait_for(lambda: host.messages[-1].device == "mark")
        host.messages.pop()  # nothing came between, such as the will
        node, first, second, *data, death = host.messages
    assert [(one.kind, one.device) for one in (node, first, second)] == [
        ("NBIRTH", ""), ("DBIRTH", "cam0"), ("DBIRTH", "cam1"),
    ]  # fmt: skip
    assert node.values == {
        "bdSeq": 0,
        "Node Control/Rebirth": False,
        "Agent/Version": "0.1.0",
        "Agent/Bundle": "zsad-tiny 1.0.0",
        "Agent/Results Waiting": 4,
        "Agent/Faults": "the disk is full",
    }
    assert first.values["Score"] is None and second.values["Fault"] == "no frame for 5 s"
    assert [one.payload.seq for one in host.messages[:-1]] == [number % 256 for number in range(603)]
    assert not any(one.retained for one in host.messages)
    assert [one.values["Result Id"] for one in data] == [f"line3-b1-{seq}" for seq in range(600)]
    assert [one.values["Verdict"] for one in data] == verdicts
    assert data[1].device == "cam1" and data[1].values == {
        "Score": {Verdict.OK: 0.1, Verdict.ANOMALOUS: 0.9, Verdict.UNKNOWN: None}[verdicts[1]],
        "Verdict": verdicts[1],
        "Threshold": 0.5,
        "Product": "object",
        "Result Id": "line3-b1-1",
        "Reason": None if verdicts[1] is not Verdict.UNKNOWN else "dark",
        **{f"Counters/{verdict.value.capitalize()}": int(verdict is verdicts[1]) for verdict in Verdict},
    }
    assert data[1].payload.metrics[0].timestamp == int(make_result(1).captured_at.timestamp() * 1000)
    assert {name: data[-1].values[name] + data[-2].values[name] for name in data[-1].values if "Counters" in name} == (
        dict.fromkeys(("Counters/Ok", "Counters/Anomalous", "Counters/Unknown"), 200)
    )
    born = first.values.keys()
    assert all(one.values.keys() <= born for one in data)
    assert death.values == {"bdSeq": 0} and not death.payload.HasField("seq")


def test_a_host_that_asks_gets_all_births_again(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with SparkplugHost(broker.port) as host, make_sparkplug(broker.url, tmp_path) as sparkplug:
        sparkplug.accept(make_result(1), None)
        host.wait_for(lambda: host.of("DDATA"))
        host.command("line3", b"nonsense")
        host.command("other", b"")
        host.ask_for_rebirth("line3")
        host.wait_for(lambda: len(host.of("DBIRTH")) == 4)
        sparkplug.accept(make_result(2), None)
        host.wait_for(lambda: len(host.of("DDATA")) == 2)
    again = host.messages[4:8]
    assert [(one.kind, one.device, one.payload.seq) for one in again] == [
        ("NBIRTH", "", 0), ("DBIRTH", "cam0", 1), ("DBIRTH", "cam1", 2), ("DDATA", "cam0", 3),
    ]  # fmt: skip
    assert again[0].values["bdSeq"] == 0 and again[1].values["Result Id"] == "line3-b1-1"


def test_a_changed_fact_is_sent_alone(
    mosquitto: BrokerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.dashboards.sparkplug.FACTS_S", 0.01)
    agent = [AGENT]
    broker = mosquitto()
    with SparkplugHost(broker.port) as host, make_sparkplug(broker.url, tmp_path, lambda: agent[0]):
        host.wait_for(lambda: len(host.of("DBIRTH")) == 2)
        stats = make_stats(reasons={"cam0": "dark", "cam1": "no frame for 5 s"}, faults=())
        agent[0] = dataclasses.replace(AGENT, stats=stats)
        host.wait_for(lambda: host.of("NDATA") and host.of("DDATA"))
    assert [one.values for one in host.of("NDATA")] == [{"Agent/Faults": ""}]
    assert [(one.device, one.values) for one in host.of("DDATA")] == [("cam0", {"Up": False, "Fault": "dark"})]


def test_results_without_a_connection_are_counted_and_the_birth_has_the_newest(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with SparkplugHost(broker.port) as host, make_sparkplug(broker.url, tmp_path) as sparkplug:
        host.wait_for(lambda: len(host.of("DBIRTH")) == 2)
        broker.kill()
        wait_until(lambda: sparkplug.fault is not None)
        for seq in range(1, 6):
            sparkplug.accept(make_result(seq), None)
        away = rf"sparkplug: broker 127\.0\.0\.1:{broker.port}: .*; 5 results were not sent"
        wait_until(lambda: re.fullmatch(away, str(sparkplug.fault)))
        time.sleep(0.5)  # a few attempts
        assert re.fullmatch(away, str(sparkplug.fault))
        broker.start()
        wait_until(lambda: sparkplug.fault == "sparkplug: 5 results were not sent")
        with SparkplugHost(broker.port) as late:  # after the births, perhaps, or between them

            def births() -> list[Any]:
                return [one for one in late.of("DBIRTH") if one.device == "cam0"]

            wait_until(lambda: (late.of("NBIRTH") and births()) or late.ask_for_rebirth("line3"))
            values = births()[0].values
        assert (values["Result Id"], values["Counters/Anomalous"]) == ("line3-b1-5", 5)
        assert late.of("NBIRTH")[0].values["bdSeq"] == 1  # the attempts between do not count


def test_the_queue_is_bounded(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    sparkplug = make_sparkplug(broker.url, tmp_path)
    for seq in range(1, 1501):
        sparkplug.accept(make_result(seq), None)
    assert sparkplug.fault == "sparkplug: 500 results were not sent"
    with SparkplugHost(broker.port) as host, sparkplug:
        host.wait_for(lambda: len(host.of("DDATA")) == 1000)
        assert host.of("DDATA")[0].values["Result Id"] == "line3-b1-501"
        assert host.of("DDATA")[-1].values["Counters/Anomalous"] == 1500


def test_a_broker_that_hangs_delays_no_result(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    """The queue fills, and what is too much is dropped; what was sent has no gap."""
    broker = mosquitto()
    with SparkplugHost(broker.port) as host, make_sparkplug(broker.url, tmp_path) as sparkplug:
        host.wait_for(lambda: len(host.of("DBIRTH")) == 2)
        broker.freeze()
        part = make_result(1, product="x" * 5000)
        for _ in range(100_000):
            sparkplug.accept(part, None)
            if sparkplug.fault is not None:
                break
        assert str(sparkplug.fault).startswith("sparkplug: ") and "results were not sent" in str(sparkplug.fault)
        broker.thaw()
        sparkplug.accept(make_result(2), None)
        host.wait_for(lambda: host.messages[-1].values.get("Result Id") == "line3-b1-2")
    seqs = [one.payload.seq for one in host.messages if one.payload.HasField("seq")]
    assert seqs == [number % 256 for number in range(len(seqs))]


def test_a_stop_sends_what_waits(mosquitto: BrokerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.dashboards.sparkplug.FACTS_S", 0.01)
    born, asked, free = threading.Event(), threading.Event(), threading.Event()

    def snapshot() -> AgentSnapshot:
        """Holds up the sending thread at its second call."""
        if born.is_set():
            asked.set()
            assert free.wait(60)
        born.set()
        return AGENT

    broker = mosquitto()
    with SparkplugHost(broker.port) as host:
        with make_sparkplug(broker.url, tmp_path, snapshot) as sparkplug:
            assert asked.wait(60)
            for seq in range(1, 6):
                sparkplug.accept(make_result(seq), None)
            sparkplug.stop(time.monotonic())
            free.set()
        host.wait_for(lambda: host.of("NDEATH"))
    assert [one.values["Result Id"] for one in host.of("DDATA")] == [f"line3-b1-{seq}" for seq in range(1, 6)]


def test_bd_seq_counts_from_0_to_255_over_restarts(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    file = tmp_path / "sparkplug.json"
    with SparkplugHost(broker.port) as host:
        for content, expected in (('{"bd_seq": 254}', 255), (None, 0), (None, 1), ("damaged", 0)):
            if content is not None:
                file.write_text(content)
            before = len(host.of("NDEATH"))
            with make_sparkplug(broker.url, tmp_path):
                host.wait_for(lambda before=before: len(host.of("NBIRTH")) > before)
            host.wait_for(lambda before=before: len(host.of("NDEATH")) > before)
            assert host.of("NBIRTH")[-1].values["bdSeq"] == host.of("NDEATH")[-1].values["bdSeq"] == expected


@contextmanager
def agent_with_sparkplug(folder: Path, bundle: Path, broker: MosquittoBroker) -> Iterator[AgentProcess]:
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    cv2.imwrite(str(pictures / "part.png"), np.full((120, 160, 3), 250, np.uint8))
    text = (
        f"mqtt: {{broker: {broker.url}}}\nsparkplug: {{enabled: true}}\n"
        f"source: {{source: {pictures}, loop: true, fps: 20}}\n"
    )
    with AgentProcess(folder, bundle, settings=text) as agent:
        yield agent


def test_a_killed_agent_is_dead_for_the_host_and_born_again(
    mosquitto: BrokerFactory, tmp_path: Path, tiny_bundle: Path
) -> None:
    broker = mosquitto()
    with SparkplugHost(broker.port) as host:
        with agent_with_sparkplug(tmp_path, tiny_bundle, broker) as agent:
            host.wait_for(lambda: len(host.of("DDATA")) >= 5)
            agent.kill()
            host.wait_for(lambda: host.of("NDEATH"))
        with agent_with_sparkplug(tmp_path, tiny_bundle, broker) as agent:
            host.wait_for(lambda: host.messages[-1].kind == "DDATA")
            assert agent.terminate()[0] == 0
            host.wait_for(lambda: len(host.of("NDEATH")) == 2)
        assert [one.values["bdSeq"] for one in host.of("NBIRTH")] == [0, 1]
        assert [one.values["bdSeq"] for one in host.of("NDEATH")] == [0, 1]
        ends = [number for number, one in enumerate(host.messages) if one.kind == "NDEATH"]
        for life in (host.messages[: ends[0]], host.messages[ends[0] + 1 : ends[1]]):
            assert [one.kind for one in life[:2]] == ["NBIRTH", "DBIRTH"]
            assert [one.payload.seq for one in life] == [number % 256 for number in range(len(life))]
    with SparkplugHost(broker.port) as late:
        late.mark()
        late.wait_for(lambda: late.messages)
        assert [one.device for one in late.messages] == ["mark"]  # nothing was retained
