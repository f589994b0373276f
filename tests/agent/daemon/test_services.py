"""The death of any thread is reported, and all services together stop within one time limit."""

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from agent_process import STOP_S, write_line_video
from mosquitto_broker import free_port
from mqtt_listener import wait_until

from zsad_agent.config import (
    EMBEDDED_BROKER,
    AgentConfig,
    ControlConfig,
    EvidenceConfig,
    HttpConfig,
    InferenceConfig,
    MqttConfig,
    SourceConfig,
)
from zsad_agent.control import Controller
from zsad_agent.daemon import RunOptions, run_agent
from zsad_agent.evidence import EvidenceStore
from zsad_agent.mqtt import EmbeddedBroker
from zsad_agent.spool import Outbox
from zsad_agent.system import Service, ServiceGroup


class FakeService(Service):
    name = "fake"
    stop_s = 1.0

    def __init__(self, log: list[str], label: str, *, hangs: bool = False, broken: bool = False) -> None:
        self.log, self.label, self.hangs, self.broken = log, label, hangs, broken
        self.waited_s = 0.0

    def start(self) -> None:
        self.log.append(f"start {self.label}")

    def stop(self, deadline_s: float) -> None:
        self.log.append(f"stop {self.label}")
        self.waited_s = deadline_s - time.monotonic()
        if self.hangs:
            time.sleep(max(0.0, self.waited_s))
        if self.broken:
            raise RuntimeError("no")

    @property
    def alive(self) -> bool:
        return True


def test_services_stop_newest_first_even_if_one_fails() -> None:
    log: list[str] = []
    group = ServiceGroup()
    for label, broken in (("a", False), ("b", True)):
        group.start(FakeService(log, label, broken=broken))
    group.stop(time.monotonic() + 1)
    assert log == ["start a", "start b", "stop b", "stop a"]


def test_hanging_service_does_not_use_up_the_time_of_the_others() -> None:
    log: list[str] = []
    group = ServiceGroup()
    first, *hanging = [group.start(FakeService(log, label, hangs=label != "a")) for label in "abc"]
    started_s = time.monotonic()
    group.stop(started_s + 1.8)
    assert time.monotonic() - started_s < 6.0
    assert 0.2 < first.waited_s < 1.0
    assert all(0.2 < service.waited_s < 1.0 for service in hanging)
    group.stop(started_s + 9)  # no service is running
    assert len(log) == 6


class RunningAgent:
    """An agent with every service, in a thread of this process."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.folder = folder
        self.http_port = free_port()
        self.stop = threading.Event()
        self.config = AgentConfig(
            source=SourceConfig(source=str(write_line_video(folder / "line.avi", frames=20)), loop=True, fps=10),
            inference=InferenceConfig(bundle=bundle, cache_dir=folder / "cache"),
            mqtt=MqttConfig(broker=EMBEDDED_BROKER),
            evidence=EvidenceConfig(enabled=True, min_free_bytes=0, passes_every=1),
            control=ControlConfig(enabled=True),
            http=HttpConfig(listen=f"127.0.0.1:{self.http_port}"),
        )
        self.code: int | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        options = RunOptions(stop=self.stop, state_dir=self.folder / "state", exit_now=lambda code: None)
        self.code = run_agent(self.config, options)

    def ask(self, path: str) -> list[str]:
        """The reasons in the answer of `path`."""
        try:
            with urlopen(f"http://127.0.0.1:{self.http_port}/{path}", timeout=60) as answer:
                body = answer.read()
        except HTTPError as error:
            body = error.read()
        return list(json.loads(body)["reasons"])


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd reads."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        yield receiver


def end_the_thread(*_: object, **__: object) -> None:
    """Raises an error that `except Exception` does not catch and that ends a thread without a message."""
    raise SystemExit


def kill_broker(broker: EmbeddedBroker) -> None:
    assert broker._loop is not None and broker._stop is not None
    broker._loop.call_soon_threadsafe(broker._stop.set)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", ["evidence", "commands", "publisher", "embedded broker"])
def test_thread_that_dies_is_a_fault_of_the_agent(
    name: str,
    tiny_bundle: Path,
    tmp_path: Path,
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    brokers: list[EmbeddedBroker] = []
    begin = EmbeddedBroker.start
    monkeypatch.setattr(EmbeddedBroker, "start", lambda broker: (brokers.append(broker), begin(broker)))
    kill: dict[str, Callable[[], None]] = {
        "evidence": lambda: monkeypatch.setattr(EvidenceStore, "_next", end_the_thread),
        "commands": lambda: monkeypatch.setattr(Controller, "_settle_bundle", end_the_thread),
        "publisher": lambda: monkeypatch.setattr(Outbox, "delete_acknowledged", end_the_thread),
        "embedded broker": lambda: kill_broker(brokers[0]),
    }
    death = f"{name}: its thread has died"
    agent = RunningAgent(tiny_bundle, tmp_path)
    caplog.set_level(logging.ERROR)
    agent.thread.start()
    try:
        wait_for_message(manager, lambda text: text.startswith("STATUS=ok;"))
        wait_until(lambda: agent.ask("readyz") == [])
        kill[name]()
        wait_for_message(manager, lambda text: text.startswith("STATUS=") and death in text)
        assert death in agent.ask("readyz")
        assert (death in agent.ask("healthz")) == (name == "publisher")
        assert_no_watchdog(manager) if name == "publisher" else wait_for_message(
            manager, lambda text: text == "WATCHDOG=1"
        )
        assert [record.message for record in caplog.records].count(death) == 1
    finally:
        started_s = time.monotonic()
        agent.stop.set()
        agent.thread.join(60)
    assert time.monotonic() - started_s < STOP_S
    assert agent.code is not None


def wait_for_message(manager: socket.socket, wanted: Callable[[str], bool]) -> None:
    while not wanted(manager.recv(4096).decode()):
        pass


def assert_no_watchdog(manager: socket.socket) -> None:
    """Discards earlier messages, and waits for longer than the pause between two checks of the services."""
    manager.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            manager.recv(4096)
    time.sleep(0.7)
    heard = []
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(manager.recv(4096))
    assert b"WATCHDOG=1" not in heard
