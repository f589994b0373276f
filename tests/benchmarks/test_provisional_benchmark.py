import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import provisional
import pytest
from provisional import Scores

SCRIPT = Path(provisional.__file__)


def made(goods: int = 60, bads: int = 30) -> Scores:
    """Goods below 0.1, defects around 0.2, and a threshold that finds none."""
    return Scores(
        bundle="small",
        sha256="0" * 64,
        threshold=0.3,
        product="set/nut",
        trained=False,
        goods=np.linspace(0.02, 0.09, goods).tolist(),
        bads=np.linspace(0.18, 0.25, bads).tolist(),
    )


@pytest.mark.parametrize("share", [0.0, 0.02, 0.4])
def test_a_draw_judges_no_picture_of_its_stream(share: float) -> None:
    scores = made()
    stream, is_bad, goods, bads = provisional._draw(scores, share, 50, np.random.default_rng(0))
    assert len(stream) == 50 and is_bad.sum() == round(share * 50)
    assert not {*stream} & {*goods, *bads} and len(goods) >= 20 and len(bads) >= 10
    assert {*stream[is_bad]} <= {*scores.bads} and {*stream[~is_bad]} <= {*scores.goods}


def test_bundles_threshold_stream_and_afterwards_are_told_apart() -> None:
    by_bundle, during, after = provisional.judge(made(), 0.02, 50, 20)
    assert by_bundle.recall.max() == 0 and by_bundle.false_rejects.max() == 0
    assert 0 < during.recall.mean() < after.recall.mean() == 1
    assert after.false_rejects.mean() < 0.2
    assert str(by_bundle) == "0.00 ± 0.00 / 0.00 ± 0.00 (0%)"


def test_table_comes_from_the_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "scores.jsonl"
    file.write_text(json.dumps(asdict(made())) + "\n")
    command = [sys.executable, SCRIPT, "--scores", file, "--draws", "2"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "|small, set/nut|60, 30|1.000|0.00 ± 0.00 / 0.00 ± 0.00 (0%)|" in run.stdout
