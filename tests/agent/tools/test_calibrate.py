import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from result_maker import make_result

from zsad_agent.cli.main import main
from zsad_agent.config import EvidenceConfig, HeatmapConfig
from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection.overlay import render_heatmap
from zsad_agent.tools.calibrate import find_outliers
from zsad_core.types import Verdict

STREAM = Path(__file__).parents[3] / "demo" / "stream"


def goods(folder: Path) -> list[Path]:
    """Six good parts that differ. Their scores with the small bundle of the tests are about 0.2."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(6):
        image = np.full((384, 512, 3), 205, np.uint8)
        cv2.circle(image, (80 + 60 * number, 192), 60, (225, 215, 235), -1)
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), image)
    return paths


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


class Calibration:
    """Runs the command on `parts`."""

    def __init__(self, bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._bundle, self._parts, self._capsys = bundle, parts, capsys

    def __call__(self, *flags: str) -> tuple[int, str, str]:
        code = main(["calibrate", str(self._parts), "--bundle", str(self._bundle), *flags])
        return code, *self._capsys.readouterr()


@pytest.fixture
def calibration(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Calibration:
    return Calibration(tiny_bundle, tmp_path / "parts", capsys)


def test_the_same_picture_ten_times_is_refused(calibration: Calibration, tmp_path: Path) -> None:
    first = goods(tmp_path / "parts")[0]
    for other in (tmp_path / "parts").glob("[1-9].png"):
        shutil.copy(first, other)
    image = cv2.imread(str(first))
    parts = tmp_path / "parts"
    cv2.imwrite(str(parts / "7.bmp"), image)
    cv2.imwrite(str(parts / "8.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    cv2.imwrite(str(parts / "9.tif"), cv2.resize(image, (256, 192), interpolation=cv2.INTER_AREA))
    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    cv2.imwrite(str(parts / "a.png"), np.clip(image + noise, 0, 255).astype(np.uint8))
    code, out, err = calibration()
    assert (code, out) == (1, "")
    assert "1 different pictures can be scored, at least 5 are needed" in err
    for name in ("1.png", "7.bmp", "8.jpg", "9.tif", "a.png"):
        assert f"left out: {parts}/{name}: the same picture as {parts}/0.png. If it shows another part, add" in err


def test_pictures_that_differ_a_little_are_all_used(calibration: Calibration, tmp_path: Path) -> None:
    goods(tmp_path / "parts")
    code, out, err = calibration()
    assert (code, err) == (0, "") and "From 6 pictures" in out and "Left out" not in out


def test_black_and_plain_pictures_are_refused_by_name(calibration: Calibration, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, grey in enumerate((0, 1, 2, 90, 120, 180)):
        cv2.imwrite(str(parts / f"{number}.png"), np.full((96, 128, 3), grey, np.uint8))
    code, _, err = calibration()
    assert code == 1 and "0 different pictures can be scored" in err
    assert err.count("left out") == 6 and "black picture" in err and "without structure" in err


def test_overlays_and_rejects_of_the_agent_are_not_used_as_good_parts(calibration: Calibration, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    paths = goods(parts)
    overlay = render_heatmap(cv2.imread(str(paths[0])), np.ones((8, 8), np.float32), HeatmapConfig())
    assert overlay is not None
    (parts / "cam0-17.jpg").write_bytes(overlay)  # the name that --save-heatmaps gives
    with EvidenceStore(EvidenceConfig(enabled=True, passes_every=1, min_free_bytes=0), parts / "evidence") as store:
        for seq, (verdict, grey) in enumerate(((Verdict.ANOMALOUS, 30), (Verdict.UNKNOWN, 60), (Verdict.OK, 190))):
            image = cv2.imread(str(paths[0]))
            image[:120, :120] = grey
            store.keep(make_result(seq + 1, verdict=verdict), image, overlay)
        store.stop(1e9)
    code, out, err = calibration()
    assert code == 0
    assert (
        "From 7 pictures" in out and "# Left out: 6 written by the agent." in out
    )  # the image with the verdict ok is a good part
    assert err.count("an overlay of the agent") == 4
    assert err.count("which was anomalous") == err.count("which was unknown") == 1

    renamed = next(path for path in parts.rglob("*line3-b1-1.jpg")).rename(parts / "part.jpg")  # without its .json
    assert f"{renamed}: evidence of the agent, which was anomalous" in calibration()[2]
    _, out, err = calibration("--unchecked")
    assert "evidence of the agent" not in err and "# Left out: 4 written by the agent." in out


def test_evidence_of_an_earlier_version_is_recognised_by_its_json(calibration: Calibration, tmp_path: Path) -> None:
    path = goods(tmp_path / "parts")[3]
    path.with_suffix(".json").write_text('{"schema": "zsad.result/1", "verdict": "anomalous"}')
    assert f"{path}: evidence of the agent, which was anomalous" in calibration()[2]
    for other in ("[]", "{", '{"verdict": "anomalous"}', '{"schema": "zsad.result/1", "verdict": "ok"}'):
        path.with_suffix(".json").write_text(other)
        assert "From 6 pictures" in calibration()[1]


def test_cracked_part_among_good_ones_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = [str(path) for path in sorted(STREAM.glob("*-whole.jpg"))]
    assert main(["calibrate", *parts]) == 0
    assert capsys.readouterr().err == ""
    cracked = STREAM / "08-cracked.jpg"
    assert main(["calibrate", *parts, str(cracked)]) == 0
    out, err = capsys.readouterr()
    assert f"outlier: {cracked}: scores 0." in err and err.count("outlier") == 1
    assert "# 1 score far above the others" in out


@pytest.mark.parametrize(
    ("scores", "outliers"),
    [
        ([], []),
        ([0.1, 0.1, 0.1, 0.9], []),  # fewer than are needed
        ([0.1] * 5, []),
        ([0.1] * 9 + [0.24], []),
        ([0.1] * 9 + [0.26], [9]),
        ([0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.2, 0.3], []),
        ([0.02, 0.05, 0.08, 0.11, 0.14, 0.17, 0.9, 0.8], [6, 7]),
        ([0.0] * 9 + [1.0], [9]),
    ],
)
def test_outliers_are_far_above_the_others(scores: list[float], outliers: list[int]) -> None:
    by_path = {Path(str(number)): score for number, score in enumerate(scores)}
    assert find_outliers(by_path) == [Path(str(number)) for number in outliers]
