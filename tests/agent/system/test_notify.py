import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from zsad_agent.system import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The socket of a service manager, and its address in NOTIFY_SOCKET."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@zsad-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + address[1:] if address.startswith("@") else address)
        receiver.settimeout(60)
        yield receiver, address


def test_states_reach_the_manager(manager: tuple[socket.socket, str]) -> None:
    receiver, address = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.watchdog()
    notifier.status("ok\n3 inspected")
    notifier.status("ok\n3 inspected")
    notifier.stopping()
    got = [receiver.recv(1000).decode() for _ in range(4)]
    assert got == ["READY=1", "WATCHDOG=1", "STATUS=ok 3 inspected", "STOPPING=1"]


def test_without_a_manager_nothing_happens() -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()


@pytest.mark.parametrize(
    ("environment", "expected_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "nonsense"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
    ],
)
def test_watchdog_interval_is_read_if_meant_for_this_process(
    environment: dict[str, str], expected_s: float | None
) -> None:
    assert Notifier(environment).watchdog_s == expected_s
