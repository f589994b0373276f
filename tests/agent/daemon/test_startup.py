from pathlib import Path

import pytest

from zsad_agent.config import AgentConfig
from zsad_agent.daemon.startup import SLOW_S, compile_bundle, warn_of_slowness
from zsad_core.bundle import load_bundle


def test_a_model_that_a_watchdog_would_kill_is_named(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_slowness(SLOW_S)
    assert caplog.text == ""
    warn_of_slowness(31.0)
    assert "31 s" in caplog.text and "WatchdogSec" in caplog.text


def test_the_time_of_a_models_first_picture_is_known(tiny_bundle: Path) -> None:
    detector = compile_bundle(load_bundle(tiny_bundle), AgentConfig())
    assert 0 < detector.trial_s < SLOW_S
