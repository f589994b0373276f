import logging
import threading
from collections.abc import Iterator

import pytest
from mqtt_listener import wait_until

from zsad_agent.system import RestartingService, service


class Flaky(RestartingService):
    name = "flaky"
    stop_s = 5.0

    def __init__(self, *attempts: Exception | None) -> None:
        """None: an attempt that succeeds."""
        super().__init__("test-flaky", place="port 1")
        self._attempts: Iterator[Exception | None] = iter(attempts)
        self.go_on = threading.Semaphore(1)  # one more attempt for each release

    def _work(self) -> None:
        while not self.go_on.acquire(timeout=0.01):
            if self._stop.is_set():
                return
        error = next(self._attempts)
        if error is not None:
            raise error
        self._works()
        self._stop.wait(60)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "RETRY_S", 0.05)


def test_a_failure_is_the_fault_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    refused = PermissionError(13, "Permission denied")
    with Flaky(refused, refused, RuntimeError("broken"), None) as flaky:
        wait_until(lambda: flaky.fault == "flaky: port 1: Permission denied. It is tried again")
        flaky.go_on.release(2)
        wait_until(lambda: flaky.fault == "flaky: port 1: broken. It is tried again")
        flaky.go_on.release()
        wait_until(lambda: flaky.fault is None)
        assert flaky.alive
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR", "WARNING"]


def test_a_stop_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(None)
    with flaky:
        pass
    assert not flaky.alive and flaky.fault is None and not caplog.records
