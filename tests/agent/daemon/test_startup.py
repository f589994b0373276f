from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from zsad_agent.config import AgentConfig, InferenceConfig, SourceConfig
from zsad_agent.daemon import startup
from zsad_agent.daemon.startup import compile_bundle
from zsad_agent.inspection import prepare_products
from zsad_core.bundle import load_bundle
from zsad_core.errors import ConfigError


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


@pytest.mark.parametrize(
    ("masked", "mask", "said"),
    [
        (False, Path("mask.png"), "was taught without ignore_mask"),
        (True, None, "was taught with an ignore_mask"),
        (True, Path("mask.png"), None),
        (False, None, None),
        (None, Path("mask.png"), None),
    ],
)
def test_a_mask_that_teach_in_did_not_have_is_logged(
    masked: bool | None,
    mask: Path | None,
    said: str | None,
    tiny_bundle: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = SimpleNamespace(trial_s=0.01, taught_with_mask=lambda product: masked)
    monkeypatch.setattr(startup, "make_predictor", lambda *_, **__: predictor)
    monkeypatch.setattr(startup, "prepare_products", lambda *_: None)
    compile_bundle(load_bundle(tiny_bundle), AgentConfig(source=SourceConfig(ignore_mask=mask)), None)
    assert (said in caplog.text) if said is not None else not caplog.text


@pytest.mark.parametrize("taught", [True, False])
def test_a_mask_needs_a_score_rule_of_the_bundle_only_if_nothing_was_taught(taught: bool) -> None:
    model = SimpleNamespace(score=None, method="learned")
    bundle: Any = SimpleNamespace(path="bundle", manifest=SimpleNamespace(model=model))
    predictor: Any = SimpleNamespace(prepare=lambda product: None, is_taught=lambda product: taught)
    config = AgentConfig(source=SourceConfig(ignore_mask=Path("mask.png")))
    with nullcontext() if taught else pytest.raises(ConfigError, match="a mask has no effect on it"):
        prepare_products(config, bundle, predictor)
