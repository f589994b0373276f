from pathlib import Path

import pytest

from zsad_agent.config import AgentConfig, InferenceConfig
from zsad_agent.daemon import startup
from zsad_agent.daemon.startup import compile_bundle
from zsad_core.bundle import load_bundle


def test_a_model_too_slow_for_the_watchdog_is_logged(
    tiny_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AgentConfig(inference=InferenceConfig(cache_dir=tmp_path))
    detector = compile_bundle(load_bundle(tiny_bundle), config, None)
    assert 0 < detector.trial_s < startup.SLOW_S
    assert "WatchdogSec" not in caplog.text
    monkeypatch.setattr(startup, "SLOW_S", 0.0)
    compile_bundle(load_bundle(tiny_bundle), config, None)
    assert "for one picture" in caplog.text and "WatchdogSec" in caplog.text
