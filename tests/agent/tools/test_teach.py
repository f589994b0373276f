"""The commands teach and profiles, and score with what was taught, on a small real bundle with feature networks."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from taught_parts import part, write_parts
from teach_tools import output, teach
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.cli.main import main
from zsad_agent.config import CameraConfig
from zsad_agent.sources import Picture
from zsad_agent.teaching import ProfileStore
from zsad_agent.tools import capture_goods as capture_module
from zsad_agent.tools.capture_goods import capture_goods
from zsad_core.errors import ImageError

pytestmark = pytest.mark.usefixtures("folders")


def test_teach_prints_the_fields_of_the_contract(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--bad", parts / "bad", "--json")
    report = output(capsys)
    contract = {
        "product",
        "goods",
        "outliers",
        "threshold",
        "false_reject_rate",
        "false_reject_rate_90",
        "recall",
        "profile",
    }
    assert contract <= set(report)
    assert (report["product"], report["goods"], report["threshold"], report["recall"]) == ("nut", 20, 0.5, 1.0)
    assert report["false_reject_rate"] == pytest.approx(1 / 21)
    assert report["false_reject_rate"] < report["false_reject_rate_90"] < 1
    assert (report["needed"], report["outliers"]) == (99, [])
    assert Path(report["profile"]) == store.path_of("nut")
    sheet = cv2.imread(report["sheet"])
    assert sheet is not None and sheet.shape[1] > 1000


def test_score_uses_the_profile_of_the_product(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--json")
    capsys.readouterr()
    profile = store.current("nut")
    assert profile is not None
    score = ["score", str(parts / "bad"), "--bundle", str(bundle), "--product", "nut", "--json"]
    assert main(score) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["verdict"] for row in rows} == {"anomalous"}
    assert {row["threshold"] for row in rows} == {0.5} and not any(row["provisional"] for row in rows)
    assert rows[0]["profile"] == {"product": "nut", "sha256": profile.sha256}
    assert main([*score, "--no-profile"]) == 2  # the bundle has no nut
    assert "product 'nut' is not in the bundle" in capsys.readouterr().err
    other = ["--profiles", str(store.folder.parent / "other"), "--product", "object"]
    assert main(["score", str(parts / "bad"), "--bundle", str(bundle), "--json", *other]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["verdict"] for row in rows} == {"unknown"} and "other: no such folder" in rows[0]["reason"]
    (store.folder.parent / "other").mkdir()
    assert main(["score", str(parts / "bad"), "--bundle", str(bundle), "--json", *other]) == 0
    assert all(json.loads(line)["provisional"] for line in capsys.readouterr().out.splitlines())


def test_a_threshold_flag_wins_over_the_taught_one(
    bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--json")
    capsys.readouterr()
    flags = ["--bundle", str(bundle), "--product", "nut", "--threshold", "0.01", "--json"]
    assert main(["score", str(parts / "good"), *flags]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(row["verdict"], row["threshold"]) for row in rows} == {("anomalous", 0.01)}


@pytest.mark.parametrize("shape", [[], ["--json"]])
def test_a_damaged_profile_makes_every_picture_unknown(
    shape: list[str], bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    store.path_of("nut").write_bytes(b"PK")
    capsys.readouterr()
    assert main(["score", str(parts / "bad"), "--bundle", str(bundle), "--product", "nut", *shape]) == 1
    told = capsys.readouterr().out
    assert told.count("1.profile: the profile was cut or changed") == told.count("unknown") - (not shape) == 4
    if shape:
        rows = [json.loads(line) for line in told.splitlines()]
        assert {(row["verdict"], row["anomaly_score"], row["provisional"]) for row in rows} == {
            ("unknown", None, False)
        }


def test_teach_says_what_it_learned_and_what_to_run_next(
    bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", product="hex nut")
    told = capsys.readouterr()
    for text in (
        "hex nut: learned from 20 pictures of good parts; left out: 0; pictures that set the threshold: 20",
        "with 90 % confidence at most",
        "20 pictures are too few for the 1.0% that was asked for: take at least 99",
        "bad parts found: unknown: name pictures of bad parts with --bad",
        "zsad-agent score PICTURES --product 'hex nut'",
    ):
        assert text in told.out
    assert "zsad-agent: learning good parts: 20" in told.err


def test_pictures_that_are_not_learned_are_named(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goods = write_parts(tmp_path / "goods", range(12))
    cv2.imwrite(str(goods / "twin.png"), part(3))
    cv2.imwrite(str(goods / "black.png"), np.zeros((96, 96, 3), np.uint8))
    (goods / "cut.png").write_bytes((goods / "01.png").read_bytes()[:300])
    teach(bundle, goods, "--json")
    told = capsys.readouterr()
    for text in ("twin.png: the same part as", "black.png: black picture", "cut.png: "):
        assert text in told.err
    assert len(json.loads(told.out)["left_out"]) == 3


def test_an_outlier_that_a_person_keeps_is_learned(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goods = write_parts(tmp_path / "goods", range(20))
    odd, image = goods / "odd.png", part(30)
    image[30:62, 40:72] = (255, 255, 90)  # not dark, so the bundle sees no defect
    cv2.imwrite(str(odd), image)
    teach(bundle, goods, "--json")
    told = capsys.readouterr()
    assert json.loads(told.out)["outliers"] == [str(odd)] and "--keep" in told.err
    teach(bundle, goods, "--json", "--keep", odd)
    report = output(capsys)
    assert (report["left_out"], report["goods"]) == ([], 21)
    assert main(["score", str(odd), "--product", "nut", "--bundle", str(bundle), "--json"]) == 0
    assert output(capsys)["verdict"] == "ok"
    teach(bundle, goods, "--keep", odd, "--bad", odd, code=1)
    assert "is among the good parts and among those of --bad" in capsys.readouterr().err


@pytest.mark.parametrize("goods", [0, 2])
def test_too_few_goods_teach_nothing_and_the_earlier_profile_stays(
    goods: int, bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    before = store.path_of("nut").read_bytes()
    folder = write_parts(tmp_path / "few", range(goods))
    teach(bundle, folder, code=1)
    assert ("no pictures below" if goods == 0 else "At least 3 are needed") in capsys.readouterr().err
    assert store.path_of("nut").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--product", "a/b", "x"], "--product: 'a/b'"),
        (["x"], "required: --product"),
        (["--product", "nut", "x", "--camera", "0"], "name either pictures or a camera or source"),
        (["--product", "nut", "x", "--false-reject-rate", "0"], "--false-reject-rate: 0.0 is not between"),
        (["--product", "nut", "x", "--mode", "round"], "invalid choice: 'round'"),
        (["--product", "nut", "x", "--sheet", "/nowhere/sheet.jpg"], "--sheet: /nowhere: no such folder"),
        (["--product", "nut"], "no camera and no source"),
    ],
)
def test_bad_usage_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["teach", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_good_part_that_is_also_a_bad_one_is_refused(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts, "--bad", parts / "bad", code=1)  # the folder of the good parts holds that of the bad ones
    assert "is among the good parts and among those of --bad (4 such pictures)" in capsys.readouterr().err
    assert store.products() == []


@pytest.mark.parametrize("flags", [["nowhere"], ["--bad", "nowhere"]])
def test_a_path_that_does_not_exist_is_refused(
    flags: list[str], bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", *flags, code=1)
    assert "nowhere: no such file or folder" in capsys.readouterr().err
    assert store.products() == []


def test_bad_parts_that_cannot_be_used_are_said(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    teach(bundle, parts / "good", "--bad", tmp_path / "bad.png", "--json")
    report = output(capsys)
    assert report["recall"] is None and "none of the pictures of bad parts can be used" in report["notes"][0]


def test_a_store_that_cannot_be_changed_is_refused_before_pictures_are_taken(
    bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--profiles", "/dev/null/profiles", code=1)
    told = capsys.readouterr().err
    assert "/dev/null/profiles: cannot be changed" in told and "checking pictures" not in told


def test_the_next_command_names_the_folder_and_the_bundle(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--profiles", tmp_path / "my profiles")
    assert f"--product nut --bundle {bundle} --profiles '{tmp_path}/my profiles'" in capsys.readouterr().out


def test_goods_that_set_the_threshold_and_goods_that_are_learned_are_counted(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goods = write_parts(tmp_path / "goods", range(72))
    teach(bundle, goods, "--false-reject-rate", 0.1, "--json")
    report = output(capsys)
    assert report["goods"] + len(report["left_out"]) == 72
    assert report["false_reject_rate"] <= 0.1


def test_score_with_another_bundle_changes_nothing_that_was_taught(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", "--bad", parts / "bad")
    other = add_tiny_features(make_tiny_bundle(tmp_path / "other", output_scale=0.9))
    capsys.readouterr()
    assert main(["score", str(parts / "good"), "--bundle", str(other), "--product", "nut", "--json"]) == 0
    assert not any(json.loads(line)["provisional"] for line in capsys.readouterr().out.splitlines())
    assert store.entry("nut").numbers == (1,)


def test_the_config_may_name_the_product_that_is_yet_to_be_taught(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"source: {{source: {parts}/good}}\ninference: {{bundle: {bundle}, product: nut}}\n")
    teach(bundle, "--count", 8, "--config", config)
    assert store.has("nut")


def test_a_bundle_without_feature_networks_cannot_be_taught(
    tiny_bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(tiny_bundle, parts / "good", code=1)
    assert "has no feature networks, which teach-in needs" in capsys.readouterr().err


def test_the_region_and_mask_of_the_config_apply(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"inference: {{bundle: {bundle}}}\ncameras:\n"
        f"- {{name: top, source: {parts}, product: nut, region_xywh: [0, 16, 80, 64],\n"
        f"   ignore_mask: {tmp_path}/mask.png}}\n- {{name: side, source: {parts}, product: bottle}}\n"
    )
    teach(bundle, parts / "good", "--config", config)
    profile = store.current("nut")
    assert profile is not None and profile.goods[0].image().shape == (64, 80, 3)
    assert profile.ignored is not None
    rows = profile.ignored.mean(axis=1)
    assert rows[: len(rows) // 2 - 1].min() == 1 and rows[len(rows) // 2 + 1 :].max() == 0
    assert f"--product nut --bundle {bundle} --config {config}\n" in capsys.readouterr().out
    cv2.imwrite(str(tmp_path / "cut.png"), part(1)[16:80, :80])
    cv2.imwrite(str(tmp_path / "whole.png"), part(1))
    maps = tmp_path / "maps"
    for name, flags in (("cut", ["--bundle", str(bundle)]), ("whole", ["--config", str(config)])):
        score = ["score", str(tmp_path / f"{name}.png"), "--product", "nut", "--json", "--maps", str(maps), *flags]
        assert main(score) == 0
        assert output(capsys)["verdict"] == "ok"
        assert np.load(maps / f"{name}.npy")[profile.ignored].max() == 0
    assert np.abs(np.load(maps / "cut.npy") - np.load(maps / "whole.npy")).max() < 0.01
    assert main(["score", str(tmp_path / "whole.png"), "--config", str(config)]) == 2
    assert "--name: name one of the cameras: top, side" in capsys.readouterr().err
    teach(bundle, parts / "good", "--config", config, product="bolt", code=2)
    assert "--name: name one of the cameras: top, side" in capsys.readouterr().err


def test_a_taught_product_that_the_bundle_lacks_is_no_fault_of_the_config(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"source: {{source: {parts}/good}}\ninference: {{bundle: {bundle}, product: nut}}\n")
    flags = ["--config", str(config)]
    assert main(["check", *flags]) == 0  # it may be new
    assert main(["score", str(parts / "bad"), *flags]) == 2
    text = capsys.readouterr().err
    assert "product 'nut' is not in the bundle and was not taught. Teach it first: zsad-agent " in text
    teach(bundle, parts / "good")
    assert main(["check", *flags]) == 0
    assert main(["score", str(parts / "bad"), *flags]) == 0


def test_pictures_are_taken_from_a_source(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, "--source", parts / "good", "--count", "8", "--json")
    told = capsys.readouterr()
    assert json.loads(told.out)["goods"] == 8
    assert "taking pictures: 8" in told.err


class ScriptedSource:
    """A live source that gives these pictures, or raises, and moves the clock by 0.1 s each time."""

    description, lossless, endless = "line", False, True

    def __init__(self, steps: Iterator[np.ndarray | ImageError]) -> None:
        self._steps = steps
        self.now_s = 0.0

    def __enter__(self) -> "ScriptedSource":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Picture | None:
        self.now_s += 0.1
        step = next(self._steps)
        if isinstance(step, ImageError):
            raise step
        return Picture(image=step)


def test_a_camera_s_pictures_are_taken_at_intervals_and_each_part_once(capsys: pytest.CaptureFixture[str]) -> None:
    def steps() -> Iterator[np.ndarray | ImageError]:
        for seed in range(1000):
            for noise in range(6):
                yield np.clip(part(seed).astype(int) + noise % 2, 0, 255).astype(np.uint8)
            yield ImageError("torn")
            yield np.zeros((96, 96, 3), np.uint8)

    source = ScriptedSource(steps())
    taken = capture_goods(
        source,
        CameraConfig(name="top"),
        count=5,
        every_s=0.25,
        progress=lambda what, done, total: None,
        clock=lambda: source.now_s,
    )
    assert [name for name, _ in taken] == [f"top-{number}" for number in range(1, 6)]
    for seed, (_, image) in enumerate(taken):
        assert np.abs(image.astype(int) - part(seed)).max() <= 1
    told = capsys.readouterr().err
    assert "pictures: the same part again" in told and "torn" in told and "black picture" in told


def test_a_camera_that_shows_nothing_new_ends_the_capture(capsys: pytest.CaptureFixture[str]) -> None:
    source = ScriptedSource(
        np.clip(part(0).astype(int) + number % 2, 0, 255).astype(np.uint8) for number in range(9999)
    )
    taken = capture_goods(
        source,
        CameraConfig(name="top"),
        count=5,
        every_s=0.25,
        progress=lambda what, done, total: None,
        clock=lambda: source.now_s,
    )
    assert len(taken) == 1
    assert source.now_s == pytest.approx(capture_module.PATIENCE_S, abs=1)
    assert "1 of 5 pictures were taken: nothing new in view for 60 s" in capsys.readouterr().err
