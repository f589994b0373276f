import logging
import time
from collections.abc import Callable, Iterator

import pytest

from zsad_agent.system import RestartingService, service


class Flaky(RestartingService):
    name = "flaky"
    stop_s = 5.0

    def __init__(self, *attempts: Exception | None) -> None:
        """None: an attempt that succeeds."""
        super().__init__("test-flaky", place="port 1")
        self._attempts: Iterator[Exception | None] = iter(attempts)

    def _work(self) -> None:
        error = next(self._attempts)
        if error is not None:
            raise error
        self._works()
        self._stop.wait(60)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RETRY_S", 0.05)


def test_a_failure_is_the_fault_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refused = PermissionError(13, "Permission denied")
    with Flaky(refused, refused, RuntimeError("broken"), None) as flaky:
        wait_for(lambda: flaky.fault == "flaky: port 1: Permission denied. It is tried again")
        wait_for(lambda: flaky.fault == "flaky: port 1: broken. It is tried again")
        wait_for(lambda: flaky.fault is None)
        assert flaky.alive
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]


def test_a_stop_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(None)
    with flaky:
        pass
    assert not flaky.alive and flaky.fault is None and not caplog.records
