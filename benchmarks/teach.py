"""Compares teach-in with zero-shot and with Anomalib's PatchCore and PaDiM, taught the same good parts.

    python benchmarks/teach.py --results FILE --data-root DATASETS [--anomalib-python PYTHON --weights LITE0_FILE]
    python benchmarks/teach.py --results FILE

Each line of FILE is one method on one draw of good parts. A draw that FILE has is not repeated, so an interrupted run
goes on; delete lines to repeat them. The table is printed from FILE, and without --data-root nothing else is done.
`teach_parts/sets.py` describes the draws, `teach_parts/methods.py` the methods. Draws, subsets of test pictures and all
methods are seeded.

The methods of a draw are taught one by one. Then each runs in its own process, and they take turns in every round of
the timing, from a picture in memory to score and map. The first bundle's zero-shot always takes part: other load
changes the ratio to it less than the times.

Anomalib needs its own environment: `./make-venv.sh .venv-benchmark benchmark`. aws_aliens is easy: a trivial feature
has 0.94. Exit codes: 0 everything ran, 1 something did not run, 2 bad usage.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from speed import environment, machine, say
from speed_parts.runner import NotRunError, Process
from teach_parts.methods import ANOMALIB, Method, bundle_methods
from teach_parts.report import COUNTS, Row, as_markdown, summarise
from teach_parts.sets import Draw, Product, draw_goods, draw_stream, possible_counts, read_products, stream_length

from zsad_agent.config import SHIPPED_BUNDLES
from zsad_core.data import Sample
from zsad_core.errors import ZsadError

SETS = ("ksdd", "crackforest", "magnetic_tile", "aws_cookie", "deeppcb", "aws_aliens", "mvtec_ad_mini")
STREAMS = (0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One teach-in of a product."""

    goods: int  # pictures
    stream: float  # share of them that is defective; 0: none
    draw: int  # seed of the choice of pictures and of the methods

    def __str__(self) -> str:
        defective = f", {self.stream:.0%} of them defective" if self.stream else ""
        return f"{self.goods} pictures{defective}, draw {self.draw}"


@dataclass(kw_only=True)
class Contest:
    """The processes of one draw, one for each method."""

    args: argparse.Namespace
    draw: Draw
    setting: Setting
    folder: Path
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    turns: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _serving: dict[str, Process] = field(default_factory=dict)

    def prepare(self, method: Method, running: contextlib.ExitStack) -> None:
        """Teaches the method, and starts its process; a failure is noted in its facts."""
        own = self.folder / f"{method.kind}-{Path(method.what).name}"
        own.mkdir(exist_ok=True)
        facts = self.facts[method.name] = {}
        try:
            with self._process(method, own, "teach") as process:
                asked = {"goods": [str(one.image) for one in self.draw.goods], "rates": self.args.rates}
                asked |= {"stream": self.setting.stream > 0, "seed": self.setting.draw}
                asked |= {"weights": self.args.weights and str(self.args.weights.absolute())}
                facts |= process.ask(asked)
            if "refused" not in facts:
                self._serving[method.name] = running.enter_context(self._process(method, own, "serve"))
        except NotRunError as error:
            facts["error"] = str(error)

    def judge(self, method: Method) -> None:
        """Adds the scores of the test pictures to the facts; for a method with promises also those of the goods."""
        names = ("tests",) if method.kind == "anomalib" else ("goods", "held_out", "tests")
        for name in names:
            samples = getattr(self.draw, name)
            self._ask(method.name, name, {"samples": as_json(samples), "pixels": name == "tests"})

    def time(self, seconds: float) -> None:
        """One round: every method works alone for some seconds."""
        for name in list(self._serving):
            self._ask(name, "turn", {"samples": as_json(self.draw.tests), "seconds": seconds})
            if turn := self.facts[name].pop("turn", None):
                self.turns.setdefault(name, []).append(turn)

    def _ask(self, name: str, what: str, question: Mapping[str, Any]) -> None:
        if name in self._serving:
            try:
                self.facts[name][what] = self._serving[name].ask(question)
            except NotRunError as error:
                self.facts[name]["error"] = str(error)
                self._serving.pop(name)

    def _process(self, method: Method, own: Path, action: str) -> Process:
        python = self.args.anomalib_python if method.kind == "anomalib" else Path(sys.executable)
        threads = str(self.args.threads)
        # The choice of PatchCore's coreset otherwise leaves gaps of 12 MB in the heap, up to 17 GB.
        own_blocks = {"MALLOC_MMAP_THRESHOLD_": "1000000"} if method.kind == "anomalib" else {}
        return Process(
            ["-m", "teach_parts.worker", method.as_json(), str(own), action, threads],
            folder=own,
            log=own / f"{action}-{method.level}.log",
            environment=environment(None) | {"OMP_NUM_THREADS": threads} | own_blocks,
            python=str(python.absolute()),
        )


def as_json(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """The fields of the samples; `teach_parts.worker.as_sample` reads them."""
    return [json.loads(json.dumps(asdict(sample), default=str)) for sample in samples]


def measure(product: Product, setting: Setting, methods: Sequence[Method], args: argparse.Namespace) -> list[Row]:
    """The rows of `methods` on one draw; the first of `args.methods` is the yardstick of the times."""
    yardstick = args.methods[0]
    taking_part = [yardstick, *(method for method in methods if method is not yardstick)]
    if setting.stream:
        draw = draw_stream(product, setting.stream, setting.draw)
    else:
        draw = draw_goods(product, setting.goods, setting.draw)
    with tempfile.TemporaryDirectory(prefix="teach-") as folder, contextlib.ExitStack() as running:
        contest = Contest(args=args, draw=draw, setting=setting, folder=Path(folder))
        for method in taking_part:
            say(f"{product.name}, {setting}: {method.name}")
            contest.prepare(method, running)
            if method in methods:
                contest.judge(method)
        for _ in range(args.rounds):
            contest.time(args.turn)
    made = {"product": product.name, "most": product.most, **asdict(setting)}
    made |= {"per_folder": args.per_folder, "threads": args.threads, "machine": args.machine}
    defective = [sample.is_anomalous for sample in draw.tests]
    return [
        made
        | {"method": method.name}
        | summarise(
            contest.facts[method.name],
            defective,
            rates=args.rates,
            turns=contest.turns.get(method.name, []),
            yardstick=contest.turns.get(yardstick.name, []),
        )
        for method in methods
    ]


def settings_of(product: Product, args: argparse.Namespace) -> Iterator[Setting]:
    """The draws and streams of a product, first draws first. All goods are drawn only once."""
    for number in args.draws:
        for count in possible_counts(product, args.counts):
            if number == 0 or count < len(product.goods):
                yield Setting(goods=count, stream=0.0, draw=number)
        for share in args.streams:
            if length := stream_length(product, share):
                yield Setting(goods=length, stream=share, draw=number)


def missing(
    products: Sequence[Product], args: argparse.Namespace, rows: Sequence[Row]
) -> list[tuple[Product, Setting, list[Method]]]:
    """The methods of each draw without a row; the first draws of all products come first."""
    known = {(row["product"], row["goods"], row["stream"], row["draw"], row["method"]) for row in rows}
    wanted = [one for one in args.methods if args.only is None or one.name in args.only]
    found = []
    for product in products:
        for setting in settings_of(product, args):
            place = (product.name, setting.goods, setting.stream, setting.draw)
            if left := [one for one in wanted if (*place, one.name) not in known]:
                found.append((product, setting, left))
    return sorted(found, key=lambda entry: entry[1].draw)


def read_rows(path: Path) -> list[Row]:
    """The rows of the results file; a last line that was cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def append_rows(path: Path, rows: Sequence[Row], data_root: Path) -> None:
    """Adds lines to the results file, after ending a line that was cut short. Paths in reasons start at `data_root`."""
    cut = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a") as file:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file.write("\n" * cut + lines.replace(f"{data_root}/", ""))


def methods_of(args: argparse.Namespace) -> list[Method]:
    """Each bundle's methods, then Anomalib's if its environment is given."""
    found = [method for path in args.bundles for method in bundle_methods(path)]
    if args.anomalib_python is None:
        say("Anomalib is left out: --anomalib-python names the Python of an environment that has it")
        return found
    return [*found, *ANOMALIB]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="lines of JSON of these bundles, read and extended"
    )
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=SETS, help=f"default: {' '.join(SETS)}")
    parser.add_argument("--counts", nargs="*", type=int, default=COUNTS, help="good parts; default 1 4 16 60")
    parser.add_argument(
        "--streams", nargs="*", type=float, default=STREAMS, help="shares of defective pictures; default .05 .1 .2"
    )
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="seeds; default 0 1 2 3 4")
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[0.01, 0.05], help="of false rejects; default .01 .05"
    )
    parser.add_argument(
        "--per-folder", type=int, default=80, help="most pictures of a folder that are tested or held out; default 80"
    )
    parser.add_argument(
        "--bundles", nargs="+", type=Path, default=sorted(SHIPPED_BUNDLES.iterdir()), help="default: the shipped ones"
    )
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="names as in the table; default: all methods")
    parser.add_argument("--anomalib-python", type=Path, metavar="PYTHON", help="of an environment with Anomalib")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of EfficientNet-Lite0, for Anomalib")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads; default 2")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method for its time; default 3")
    parser.add_argument("--turn", type=float, default=1.0, help="seconds of a turn; default 1")
    args = parser.parse_args(arguments)
    for flag in ("counts", "rates", "per_folder", "threads", "rounds", "turn"):
        values = getattr(args, flag)
        if min(values if isinstance(values, Sequence) else [values], default=1) <= 0:
            parser.error(f"--{flag.replace('_', '-')}: {values} is not above 0")
    if min(args.draws) < 0 or max(args.rates) >= 1 or not all(0 < share < 1 for share in args.streams):
        parser.error("--draws must be at least 0, --rates below 1, --streams between 0 and 1")
    if (args.anomalib_python is None) != (args.weights is None):
        parser.error("--anomalib-python and --weights need each other")
    return args


def main() -> int:
    """Runs what is missing, prints the table, and returns the exit code."""
    args = parse()
    if args.data_root is not None:
        try:
            args.methods, args.machine = methods_of(args), machine(None)
            products = [one for name in args.sets for one in read_products(args.data_root / name, args.per_folder)]
        except ZsadError as error:
            print(error, file=sys.stderr)
            return 1
        for product, setting, methods in missing(products, args, read_rows(args.results)):
            append_rows(args.results, measure(product, setting, methods, args), args.data_root)
    rows = read_rows(args.results)
    print(as_markdown(rows))
    return 1 if any("error" in row for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
