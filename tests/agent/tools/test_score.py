import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_agent.cli.main import main
from zsad_agent.tools import score as score_module
from zsad_agent.tools.calibrate import as_yaml, calibrate
from zsad_agent.tools.score import find_pictures
from zsad_core.errors import ZsadError


def write_picture(path: Path, blot: bool) -> Path:
    image = np.full((96, 96, 3), 255, np.uint8)
    image[70:90] = 230
    if blot:
        image[30:60, 30:60] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_json_has_the_fields_of_the_contract_in_order_of_names(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "parts" / "b.png", blot=True)
    write_picture(tmp_path / "parts" / "a.png", blot=False)
    assert main(["score", str(tmp_path / "parts"), "--bundle", str(tiny_bundle), "--json"]) == 0
    good, bad = rows(capsys)
    assert good["path"] == str(tmp_path / "parts" / "a.png")
    assert (good["verdict"], bad["verdict"], bad["threshold"]) == ("ok", "anomalous", 0.5)
    assert bad["anomaly_score"] == pytest.approx(1.0, abs=1e-6)
    assert set(good) == {"path", "anomaly_score", "threshold", "verdict", "latency_ms", "provisional", "profile"}
    assert (good["provisional"], good["profile"]) == (True, None)
    assert isinstance(good["latency_ms"], float)


def test_product_and_threshold_flags_are_used(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(write_picture(tmp_path / "a.png", blot=True))
    flags = ["--bundle", str(tiny_bundle), "--json", "--product", "bottle", "--threshold", "0.9"]
    assert main(["score", picture, *flags]) == 0
    (row,) = rows(capsys)
    assert (row["verdict"], row["threshold"]) == ("ok", 0.9)
    assert row["anomaly_score"] == pytest.approx(0.8, abs=1e-6)


def test_unreadable_file_is_unknown_the_rest_is_scored_and_the_exit_code_is_one(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = write_picture(tmp_path / "c.png", blot=False).read_bytes()
    (tmp_path / "a.png").write_bytes(whole[:-30])
    one_pixel = np.zeros((1, 1, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / "b.png"), one_pixel)
    assert main(["score", str(tmp_path), str(tmp_path / "nix.png"), "--bundle", str(tiny_bundle), "--json"]) == 1
    found = rows(capsys)
    assert [row["verdict"] for row in found] == ["unknown", "unknown", "ok", "unknown"]
    assert all(row["anomaly_score"] is None and row["reason"] for row in found if row["verdict"] == "unknown")


def test_files_that_are_not_pictures_are_counted_and_named_once_on_stderr(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tmp_path / "parts"
    write_picture(parts / "a.png", blot=True).rename(parts / "a")
    for name in ("notes.txt", "z.npy"):
        (parts / name).write_text("text")
    assert main(["score", str(parts), "--bundle", str(tiny_bundle), "--json"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["path"] for line in printed.out.splitlines()] == [str(parts / "a")]
    assert printed.err == f"zsad-agent: 2 files are not pictures and are skipped, for example {parts}/notes.txt\n"
    assert main(["score", str(parts / "notes.txt"), "--bundle", str(tiny_bundle), "--json"]) == 1  # named by the user


def test_bit_depth_flag_is_used(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bright = cv2.cvtColor(cv2.imread(str(write_picture(tmp_path / "a.png", blot=True))), cv2.COLOR_BGR2GRAY)
    assert cv2.imwrite(str(tmp_path / "a.png"), bright.astype(np.uint16) * 1023 // 255)
    flags = ["--bundle", str(tiny_bundle), "--json"]
    assert main(["score", str(tmp_path / "a.png"), *flags]) == 1  # nearly black
    assert main(["score", str(tmp_path / "a.png"), "--bit-depth", "10", *flags]) == 0
    dark, right = rows(capsys)
    assert "dark_below" in str(dark["reason"]) and right["anomaly_score"] == pytest.approx(1.0, abs=1e-6)


def test_maps_have_the_folders_of_the_pictures_and_the_models_resolution(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "parts" / "a.png", blot=True)
    write_picture(tmp_path / "parts" / "sub" / "a.png", blot=False)
    maps = tmp_path / "maps"
    assert main(["score", str(tmp_path / "parts"), "--bundle", str(tiny_bundle), "--json", "--maps", str(maps)]) == 0
    top, below = np.load(maps / "a.npy"), np.load(maps / "sub" / "a.npy")
    assert top.dtype == np.float32 and top.shape == (64, 64)
    assert top.max() == pytest.approx(1.0, abs=1e-6) and below.max() < 0.1
    assert [row["map"] for row in rows(capsys)] == [str(maps / "a.npy"), str(maps / "sub" / "a.npy")]


def test_no_map_file_overwrites_another(tmp_path: Path) -> None:
    for name in ("one/a.png", "one/a.jpg", "one/b.png", "two/a.png", "two/b.png"):
        write_picture(tmp_path / name, blot=False)
    names = [map_path.as_posix() for _, map_path in find_pictures([tmp_path / "one", tmp_path / "two"])]
    assert names == ["a.jpg.npy", "a.png.npy", "b.png.npy", "a.png.2.npy", "b.png.2.npy"]
    alone = [map_path.as_posix() for _, map_path in find_pictures([tmp_path / "two"])]
    assert alone == ["a.npy", "b.npy"]


def test_score_prints_a_readable_table(tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_picture(tmp_path / "a.png", blot=True)
    (tmp_path / "b.png").write_bytes(b"x")
    assert main(["score", str(tmp_path), "--bundle", str(tiny_bundle)]) == 1
    header, first, second, total, note = capsys.readouterr().out.splitlines()
    assert header.split() == ["verdict", "score", "ms", "path"]
    assert first.split()[:2] == ["anomalous", "1.000"]
    assert second.startswith("unknown")
    assert total == "2 pictures: 0 ok, 1 anomalous, 1 unknown"
    assert note == "The verdicts are provisional: no profile is used. Teach good parts with zsad-agent teach."


def test_faults_are_one_line_with_the_right_exit_code(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(write_picture(tmp_path / "a.png", blot=False))
    (tmp_path / "empty").mkdir()
    for arguments, code, text in [
        (["score", picture, "--bundle", str(tmp_path / "nix")], 1, "no such bundle"),
        (["score", picture, "--bundle", str(tiny_bundle), "--product", "screw"], 2, "In the bundle: bottle, object"),
        (["score", picture, "--bundle", str(tiny_bundle), "--threshold", "7"], 2, "decision.threshold"),
        (["score", str(tmp_path / "empty"), "--bundle", str(tiny_bundle)], 1, "no pictures below"),
    ]:
        assert main(arguments) == code
        error = capsys.readouterr().err
        assert text in error and len(error.splitlines()) == 1
    assert main(["score"]) == 2


def test_closed_output_and_unusual_file_names_give_no_traceback(tiny_bundle: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    whole_png = write_picture(parts / "a.png", blot=False).read_bytes()
    Path(os.fsdecode(os.fsencode(parts) + b"/\xff.png")).write_bytes(whole_png)
    score = f"{sys.executable} -m zsad_agent.cli score {parts} --bundle {tiny_bundle}"
    whole = subprocess.run(score, shell=True, capture_output=True, timeout=180)
    assert whole.returncode == 0 and whole.stderr == b""
    assert rb"\udcff.png" in whole.stdout
    cut = subprocess.run(f"{score} | true", shell=True, capture_output=True, timeout=180)
    assert cut.stderr == b""


def test_picture_without_content_is_unknown_unless_the_checks_are_off(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, grey in {"black": 0, "covered": 120, "overexposed": 255}.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((96, 96, 3), grey, np.uint8))
    score = ["score", str(tmp_path), "--bundle", str(tiny_bundle), "--json"]
    assert main(score) == 1
    checked = rows(capsys)
    assert [(row["verdict"], row["anomaly_score"]) for row in checked] == [("unknown", None)] * 3
    starts = ["black picture: ", "picture without structure: ", "overexposed picture: "]
    assert all(str(row["reason"]).startswith(start) for row, start in zip(checked, starts, strict=True))
    assert all(str(row["reason"]).endswith(". --unchecked scores it") for row in checked)
    assert main([*score, "--unchecked"]) == 0
    assert [row["verdict"] for row in rows(capsys)] == ["anomalous", "anomalous", "ok"]


def test_calibrate_prints_a_threshold_that_passes_the_good_parts(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(6):
        image = np.full((64, 64, 3), 255 - 10 * index, np.uint8)
        cv2.imwrite(str(tmp_path / f"{index}.png"), image)
    (tmp_path / "broken.png").write_bytes(b"x")
    assert main(["calibrate", str(tmp_path), "--bundle", str(tiny_bundle), "--unchecked"]) == 1
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    assert "# Left out: 1 without a score." in printed.out
    assert "From 6 pictures" in printed.out and "are too few for the 1.00%" in printed.out
    assert printed.out.splitlines()[-2:] == ["decision:", "  threshold: 0.1961"]


@pytest.mark.parametrize("count", [0, 4])
def test_calibrate_refuses_too_few_pictures(count: int) -> None:
    with pytest.raises(ZsadError, match=f"{count} different pictures can be scored, at least 5"):
        calibrate([0.1] * count, 0.01)


def test_calibrate_with_enough_pictures_allows_the_requested_rate() -> None:
    scores = [index / 1000 for index in range(199)]  # 0.000 … 0.198
    threshold, expected_rate = calibrate(scores, 0.02)
    assert threshold == pytest.approx(0.1951)  # the 4th highest, 0.195, is the highest that passes
    assert expected_rate == 0.02
    text = as_yaml(scores, 0.02)
    assert "199 pictures of good parts, of which 3 reach it" in text and "cannot support" not in text


def test_calibrate_stays_above_every_score_when_there_are_few() -> None:
    threshold, expected_rate = calibrate([0.1, 0.2, 0.3, 0.2, 0.1], 0.01)
    assert threshold > 0.3
    assert expected_rate == pytest.approx(1 / 6)
    assert "of which 0 reach it" in as_yaml([0.1, 0.2, 0.3, 0.2, 0.1], 0.01)


def test_calibrate_refuses_a_bundle_with_the_highest_score_for_a_good_part() -> None:
    with pytest.raises(ZsadError, match="does not fit"):
        calibrate([0.1, 0.2, 0.3, 0.2, 1.0], 0.01)


def test_table_has_one_line_for_each_picture_with_any_name(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "a\nok 0.1 b\x1b[2J.png", blot=True)
    assert main(["score", str(tmp_path), "--bundle", str(tiny_bundle)]) == 0
    _, row, _, _ = capsys.readouterr().out.splitlines()
    assert row.startswith("anomalous") and row.endswith(r"a\nok 0.1 b\x1b[2J.png")


def test_folder_that_cannot_be_listed_is_unknown_and_the_rest_is_scored(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(tmp_path / "parts" / "a.png", blot=False)
    for locked in (tmp_path / "locked", tmp_path / "parts" / "locked"):
        locked.mkdir(0o000)
    if os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("this user may read everything")
    flags = ["--bundle", str(tiny_bundle), "--json", "--maps", str(tmp_path / "maps")]
    assert main(["score", str(tmp_path / "locked"), str(tmp_path / "parts"), *flags]) == 1
    found = rows(capsys)
    assert [row["verdict"] for row in found] == ["unknown", "ok", "unknown"]
    assert all("cannot be read" in str(row["reason"]) for row in found if row["verdict"] == "unknown")


def test_a_name_that_is_too_long_is_unknown_and_the_rest_is_scored(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_picture(tmp_path / "a.png", blot=False)
    assert main(["score", f"{'x' * 300}.png", str(good), "--bundle", str(tiny_bundle), "--json"]) == 1
    assert [row["verdict"] for row in rows(capsys)] == ["unknown", "ok"]


def test_calibrate_names_the_pictures_that_it_leaves_out_on_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(5):
        image = cv2.imread(str(write_picture(tmp_path / f"{number}.png", blot=False)))
        image[70:90] -= np.uint8(5 * number)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    cv2.imwrite(str(tmp_path / "dot.png"), np.full((1, 1, 3), 90, np.uint8))
    (tmp_path / "dot.png").rename(tmp_path / "d\x1bot.png")
    assert main(["calibrate", str(tmp_path), "--bundle", str(tiny_bundle)]) == 1
    assert f"left out: {tmp_path}/d\\x1bot.png: the picture has 1x1 pixels" in capsys.readouterr().err


def test_calibrate_refuses_a_rate_that_no_number_of_pictures_supports(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--bundle", str(tiny_bundle), "--false-reject-rate", "1e-320"]
    assert main(["calibrate", str(tmp_path), *flags]) == 2
    assert "is not between 1e-06 and 1" in capsys.readouterr().err


def test_a_part_that_differs_as_a_whole_is_unknown_only_where_it_would_pass(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = str(write_picture(tmp_path / "part.png", blot=True))
    predict = score_module.Scorer.predict
    other = "another part: as a whole"
    monkeypatch.setattr(score_module.Scorer, "predict", lambda self, image: replace(predict(self, image), other=other))
    found = []
    for threshold in ("0.1", "0.9"):
        main(
            ["score", picture, "--bundle", str(tiny_bundle), "--json", "--product", "bottle", "--threshold", threshold]
        )
        found += rows(capsys)
    assert [row["verdict"] for row in found] == ["anomalous", "unknown"]
    assert (found[1]["reason"], found[1]["anomaly_score"]) == (other, None)
