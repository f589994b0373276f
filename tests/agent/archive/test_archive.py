"""`zsad-score`: what it lists and refuses, and on a real Ray: a killed run, a picture that ends its process.

Ray is no part of `dev`. `pip install -c constraints.txt '.[ray]'`, then `pytest -m chaos tests/agent/archive`.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from zsad_agent.archive import Done, PartsFolder, list_pictures, main, score_parts, split
from zsad_agent.cli.main import main as agent_main
from zsad_core.bundle import load_bundle
from zsad_core.errors import ConfigError
from zsad_core.picture import find_regions

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs Ray: pip install '.[ray]'")
PATIENT_S = 300.0


def write_picture(path: Path, level: int = 255) -> Path:
    image = np.full((96, 96, 3), 255, np.uint8)
    image[70:90] = 230
    image[30:60, 30:60] = level
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def test_folders_patterns_lists_and_pictures_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["a/1.png", "a/b/2.png", "a/.hidden/3.png", "a[1]/4.png", "c/5.png"]
    paths = {name: write_picture(tmp_path / name) for name in names}
    odd = tmp_path / "c" / os.fsdecode(b"\xff6.png")
    paths["c/5.png"].rename(odd)
    (tmp_path / "a" / "notes.md").write_text("no picture")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa/1.png\r\n\nmissing.png\n" + os.fsencode(odd) + b"\n")
    assert list(list_pictures(["a"])) == [paths["a/1.png"], paths["a/b/2.png"]]
    assert sorted(list_pictures(["a*/**/*.png"])) == sorted([paths["a/1.png"], paths["a/b/2.png"], paths["a[1]/4.png"]])
    assert list(list_pictures(["a[1]/4.png", "missing.png"])) == [paths["a[1]/4.png"], tmp_path / "missing.png"]
    assert list(list_pictures(["list.txt"])) == [paths["a/1.png"], tmp_path / "missing.png", odd]
    with pytest.raises(ConfigError, match=r"nowhere\.txt: this list cannot be read"):
        list(list_pictures(["nowhere.txt"]))


def test_links_in_a_circle_are_not_followed_by_a_pattern(tmp_path: Path) -> None:
    picture = write_picture(tmp_path / "a" / "1.png")
    for name in ("one", "two"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    for pattern in ("**/*.png", "a/**", "**/a/**/1.png"):
        found = list(itertools.islice(list_pictures([f"{tmp_path}/{pattern}"]), 10))
        assert set(found) == {picture}


def test_a_listing_is_read_only_as_far_as_it_is_needed() -> None:
    taken = []

    def pictures() -> Iterator[Path]:
        for number in range(10**9):
            taken.append(number)
            yield Path(f"/{number % 7}.png")

    parts = split(pictures(), Done(set(), Counter()), 3)
    assert next(parts) == [Path("/0.png"), Path("/1.png"), Path("/2.png")]
    assert next(parts) == [Path("/3.png"), Path("/4.png"), Path("/5.png")]
    assert len(taken) == 6


def test_folder_of_other_settings_of_other_files_or_in_use_is_refused(tmp_path: Path) -> None:
    folder = PartsFolder(tmp_path / "out", {"product": "bottle", "threshold": None})
    with folder.opened(), pytest.raises(ConfigError, match="another zsad-score writes to"), folder.opened():
        pass
    other = PartsFolder(tmp_path / "out", {"product": "bottle", "threshold": 0.7})
    with other.opened():  # nothing was scored with the first settings
        pass
    (tmp_path / "out" / "part-0.parquet").touch()
    with pytest.raises(ConfigError, match=r"other settings: threshold is 0\.7 there and null here"), folder.opened():
        pass
    for damaged in (b"{", b"[]", b"\xff"):
        (tmp_path / "out" / "_zsad-score.json").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"_zsad-score\.json is damaged"), folder.opened():
            pass
    with pytest.raises(ConfigError, match="is not empty"), PartsFolder(tmp_path, {}).opened():
        pass


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_missing_ray_is_named_with_the_command_that_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "zsad-score: needs Ray: pip install 'zsad-agent[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def local_ray() -> Iterator[Any]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.chaos
@needs_ray
def test_picture_that_ends_its_process_is_given_up_alone(local_ray: Any) -> None:
    class Crasher:  # in place of `PartScorer`; Ray sends a class that is not in a module as a whole
        def open(self, _: list[Path]) -> Counter[str]:
            return Counter()

        def score(self, part: list[Path]) -> Counter[str]:
            if Path("/crash.png") in part:
                os._exit(1)
            return Counter(ok=len(part))

        def give_up(self, part: list[Path]) -> Counter[str]:
            return Counter(unknown=len(part))

    actor = local_ray.remote(num_cpus=1)(Crasher)
    paths = [Path(f"/{number}.png") for number in range(40)]
    paths[17] = Path("/crash.png")
    parts = [paths[start : start + 8] for start in range(0, 40, 8)]
    counts: Counter[str] = sum(score_parts(parts, actor.remote, 5), Counter())  # the CPUs have room for 2
    assert counts == {"ok": 39, "unknown": 1}


def run(arguments: list[str]) -> subprocess.Popen[str]:
    program = "import sys; from zsad_agent.archive import main; sys.exit(main())"
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)


def stamps(out: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("part-*.parquet")}


@pytest.mark.chaos
@needs_ray
def test_killed_run_goes_on_with_the_numbers_of_score(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    archive, out = tmp_path / "archive", tmp_path / "out"
    for number in range(400):
        write_picture(archive / f"{number % 20}" / f"{number}.png", level=number % 256)
    (archive / "cut.png").write_bytes((archive / "0" / "0.png").read_bytes()[:150])
    flags = ["--bundle", str(tiny_bundle)]
    arguments = [str(archive), "--out", str(out), *flags, "--part", "10", "--cpus", "1"]

    killed = run(arguments)
    deadline_s = time.monotonic() + PATIENT_S
    while len(stamps(out)) < 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = stamps(out)
    assert len(before) < 41
    resumed = run(arguments)
    said, _ = resumed.communicate(timeout=PATIENT_S)
    assert resumed.returncode == 1
    assert said.startswith("401 pictures: ")
    after = stamps(out)
    assert before.items() <= after.items()
    assert run(arguments).wait(PATIENT_S) == 1  # nothing is left
    assert stamps(out) == after

    agent_main(["score", str(archive), "--json", "--maps", str(tmp_path / "maps"), *flags])
    expected = {row["path"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    table = pq.read_table(out)
    found = {row["path"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows == len(expected) == 401
    level = load_bundle(tiny_bundle).manifest.region_level
    for path, row in found.items():
        for name in ("verdict", "anomaly_score", "threshold", "provisional"):
            assert row[name] == expected[path][name], path
        assert row["reason"] == expected[path].get("reason")
        if expected[path]["map"] is not None:
            regions = find_regions(np.load(expected[path]["map"]), level=level, frame_wh=(96, 96))
            assert row["regions"] == [{"bbox_xywh": list(each.bbox_xywh), "peak": each.peak} for each in regions]
    assert found[str(archive / "cut.png")]["verdict"] == "unknown"
    assert {row["verdict"] for row in found.values()} == {"ok", "anomalous", "unknown"}
