"""The commands teach and profiles, and score with what was taught, on a small real bundle with feature networks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from taught_parts import part, write_parts
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.cli.main import main
from zsad_agent.config import CameraConfig
from zsad_agent.sources import Picture
from zsad_agent.teaching import ProfileStore
from zsad_agent.tools import capture_goods as capture_module
from zsad_agent.tools.capture_goods import capture_goods
from zsad_core.errors import ImageError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_tiny_features(make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "taught"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder / "good", range(20))
    write_parts(folder / "bad", range(100, 104), blot=True)
    return folder


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path_factory.getbasetemp() / "teach-cache"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "state" / "profiles")


def teach(bundle: Path, *arguments: object, product: str = "nut", code: int = 0) -> None:
    words = ["teach", *map(str, arguments), "--bundle", str(bundle), "--product", product]
    assert main(words) == code


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


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


def test_a_damaged_profile_is_named_and_nothing_is_scored(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    store.path_of("nut").write_bytes(b"PK")
    capsys.readouterr()
    assert main(["score", str(parts / "bad"), "--bundle", str(bundle), "--product", "nut"]) == 1
    told = capsys.readouterr()
    assert "1.profile: the profile was cut or changed" in told.err
    assert "ok " not in told.out


def test_teach_says_what_it_learnt_and_what_to_run_next(
    bundle: Path, parts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good", product="hex nut")
    told = capsys.readouterr()
    for text in (
        "hex nut: learnt from 20 pictures of good parts; left out: 0; pictures that set the threshold: 20",
        "with 90 % confidence at most",
        "20 pictures cannot support the 1.0% asked: take at least 99",
        "bad parts found: unknown: name pictures of bad parts with --bad",
        "zsad-agent score PICTURES --product 'hex nut'",
    ):
        assert text in told.out
    assert "zsad-agent: learning good parts: 20" in told.err


def test_pictures_that_are_not_learnt_are_named(
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
    cv2.imwrite(str(tmp_path / "cut.png"), part(1)[16:80, :80])
    capsys.readouterr()
    score = ["score", str(tmp_path / "cut.png"), "--bundle", str(bundle), "--product", "nut", "--json"]
    assert main([*score, "--maps", str(tmp_path / "maps")]) == 0
    assert output(capsys)["verdict"] == "ok"
    assert np.load(tmp_path / "maps/cut.npy")[profile.ignored].max() == 0
    teach(bundle, parts / "good", "--config", config, product="bolt", code=2)
    assert "--name: name one of the cameras: top, side" in capsys.readouterr().err


def test_a_taught_product_that_the_bundle_lacks_is_no_fault_of_the_config(
    bundle: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text(f"source: {{source: {parts}/good}}\ninference: {{bundle: {bundle}, product: nut}}\n")
    assert main(["check", "--config", str(config)]) == 2
    assert "product 'nut' is not in the bundle" in capsys.readouterr().err
    teach(bundle, parts / "good")
    assert main(["check", "--config", str(config)]) == 0


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


def profiles(*words: object) -> int:
    return main(["profiles", *map(str, words)])


def test_profiles_are_listed_shown_rolled_back_exported_imported_and_removed(
    bundle: Path, parts: Path, tmp_path: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert profiles("list") == 0
    assert "nothing was taught yet" in capsys.readouterr().out
    teach(bundle, parts / "good")
    teach(bundle, parts / "good", "--bad", parts / "bad")
    capsys.readouterr()

    assert profiles("list") == 0
    assert "version 2" in (told := capsys.readouterr().out) and "20 goods" in told and "recall 100%" in told
    assert profiles("list", "--json") == 0
    shown = output(capsys)
    assert (shown["product"], shown["version"], shown["versions"], shown["fault"]) == ("nut", 2, [1, 2], None)
    assert profiles("show", "nut") == 0
    assert "bad parts found: 4 of 4" in capsys.readouterr().out

    assert profiles("rollback", "nut") == 0
    assert profiles("rollback", "nut") == 1
    assert "there is no earlier one" in capsys.readouterr().err
    assert store.entry("nut").number == 1

    file = tmp_path / "nut.profile"
    assert profiles("export", "nut", file) == 0
    assert profiles("remove", "nut") == 0
    assert profiles("show", "nut") == 1
    assert profiles("remove", "nut") == 1
    assert profiles("import", file) == 0
    assert store.entry("nut").fault is None and store.has("nut")

    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert profiles("import", file) == 1
    assert "nut.profile: the profile was cut" in capsys.readouterr().err


def test_a_damaged_profile_is_listed_as_a_fault(
    bundle: Path, parts: Path, store: ProfileStore, capsys: pytest.CaptureFixture[str]
) -> None:
    teach(bundle, parts / "good")
    store.path_of("nut").write_bytes(b"PK")
    capsys.readouterr()
    assert profiles("list") == 1
    assert "nut" in (told := capsys.readouterr().out) and "FAULT" in told and "was cut" in told


def test_profiles_needs_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert profiles() == 2
    assert "ACTION" in capsys.readouterr().err
