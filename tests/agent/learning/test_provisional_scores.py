"""The threshold of a product that was not taught: what counts, and what a restart or a switch changes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from learning_tools import MAP, LearnerLine

from zsad_agent.learning import provisional
from zsad_agent.messages import BundleName
from zsad_core.judging import Provisional, provisional_threshold

BUNDLE: Any = SimpleNamespace(sha256="0" * 64, manifest=SimpleNamespace(threshold=SimpleNamespace(value=0.5)))
OTHER: Any = SimpleNamespace(sha256="1" * 64, manifest=BUNDLE.manifest)


def show(line: LearnerLine, scores: list[float], *, seed: int | None = None, **changes: Any) -> None:
    """Parts with these scores pass by; with a seed their pictures are the same."""
    for score in scores:
        line.learner.take(*line.part(seed=seed, anomaly_score=score, **changes), MAP)
        assert line.learner.wait_idle(60)


def found(line: LearnerLine, product: str = "nut", bundle: Any = BUNDLE, camera: str = "cam0") -> Provisional | None:
    return line.learner.provisional(camera, product, bundle)


def scores_around(middle: float, count: int) -> list[float]:
    return np.linspace(middle - 0.05, middle + 0.05, count).tolist()


def test_threshold_follows_different_parts_of_one_camera_product_and_bundle(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        show(line, scores_around(0.2, 8))
        assert found(line) is None
        show(line, [0.2])
        assert found(line) == provisional_threshold([*scores_around(0.2, 8), 0.2], 0.5)
        assert found(line) is found(line)  # computed once for each new score
        show(line, scores_around(0.6, 12), product="bolt")
        show(line, [0.9] * 20, provisional=False)
        assert found(line) == provisional_threshold([*scores_around(0.2, 8), 0.2], 0.5)
        assert found(line, "bolt") == provisional_threshold(scores_around(0.6, 12), 0.5)
        assert found(line, bundle=OTHER) is None and found(line, camera="cam1") is None
        show(line, [0.3], bundle=BundleName(name="other", version="1", sha256="1" * 64))
        assert found(line) is None  # the scores of another bundle do not count


def test_scene_that_stays_the_same_does_not_count(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        show(line, [0.2] * 30, seed=1)
        assert found(line) is None


def test_restart_keeps_the_threshold_and_the_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provisional, "WINDOW", 30)
    with LearnerLine(tmp_path) as line:
        show(line, [0.45] * 5 + scores_around(0.2, 45))
        before = found(line)
    assert before is not None and before.frames == 30
    path = tmp_path / "learning/cam0/nut/scores.json"
    with LearnerLine(tmp_path) as line:
        assert line.learner.wait_idle(60)
        after = found(line)
        assert after is not None and after.frames == 30 and after.threshold == pytest.approx(before.threshold, abs=0.02)
    path.write_bytes(path.read_bytes()[:-5])
    with LearnerLine(tmp_path) as line:
        assert line.learner.wait_idle(60)
        assert found(line) is None
        show(line, scores_around(0.2, 10))
        assert found(line) is not None
    assert path.stat().st_size < provisional.MAX_BYTES * 30 / 200


def test_evident_defects_neither_count_nor_ever_pass(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        show(line, [0.95] * 30)  # the stream starts with them
        assert found(line) is None
        show(line, scores_around(0.2, 20))
        now = found(line)
        assert now is not None and now.frames == 20 and now.threshold < 0.5
        show(line, scores_around(0.7, 40))  # as high as enters
        now = found(line)
        assert now is not None and now.threshold < 0.82


@pytest.mark.parametrize("config", [{"mode": "off"}, {"provisional_threshold": False}])
def test_switched_off(tmp_path: Path, config: dict[str, Any]) -> None:
    with LearnerLine(tmp_path, **config) as line:
        line.learner.begin("cam0", "nut", 20, None)
        show(line, scores_around(0.2, 15))
        assert found(line) is None


def test_cancelled_or_taught_product_starts_afresh(tmp_path: Path) -> None:
    with LearnerLine(tmp_path) as line:
        show(line, scores_around(0.2, 12))
        line.learner.cancel("cam0")
        assert found(line) is None and line.stored == []
        show(line, scores_around(0.2, 20))
        assert found(line) is not None
        line.learner.commit("cam0")
        assert found(line) is None and line.stored == []
