"""The command `zsad-score`."""

from __future__ import annotations

import argparse
import itertools
import os
import socket
import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent.archive.listing import list_pictures
from zsad_agent.system import configure_logging, guarded
from zsad_agent.tools.flags import command_parser, count
from zsad_agent.tools.score import add_scorer_flags
from zsad_core.errors import ConfigError

if TYPE_CHECKING:  # pydantic takes longer than parsing
    from zsad_agent.archive.parts import Done, Part, PartsFolder

PART_PICTURES = 200  # what a kill costs, at most, on each actor
NOTE_EVERY_S = 1.0
LOCAL = "local"
CONNECT_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """Scores an archive. Returns 1 if a picture has no score: its verdict is `unknown`."""
    return guarded("zsad-score", lambda: _main(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    args = _parse(arguments)
    configure_logging("WARNING")
    if find_spec("ray") is None or find_spec("pyarrow") is None:
        raise ConfigError("needs Ray: pip install 'zsad-agent[ray]'")

    from zsad_agent.archive.parts import PartsFolder, split
    from zsad_agent.archive.scoring import read_settings
    from zsad_core.types import Verdict

    folder = PartsFolder(args.out.absolute(), read_settings(args))
    with folder.opened():
        done = folder.read_done()
        if done.verdicts:
            print(f"zsad-score: {folder.folder} has {done.verdicts.total()} results: goes on", file=sys.stderr)
        parts = split(list_pictures(args.paths), done, args.part)
        if (first := next(parts, None)) is not None:
            _connect(args.address)
            _score(itertools.chain([first], parts), done, args, folder)
    counts = done.verdicts
    if not counts:
        raise ConfigError(f"no pictures in {', '.join(args.paths)}")
    print(f"{counts.total()} pictures: {', '.join(f'{counts[verdict]} {verdict}' for verdict in Verdict)}")
    return 1 if counts[Verdict.UNKNOWN] else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "score",
        "Scores an archive of pictures into Parquet files. The scores are those of `zsad-agent score`. To continue "
        "after a stop, run the same command again. Exit code 1 if a picture has no score: its verdict is `unknown`.",
        examples="zsad-score /archive/2026 --out scores\n"
        "zsad-score '/archive/*/cam0/*.png' list.txt --out /shared/scores --address head:6379 --cpus 4",
    )
    parser.prog = "zsad-score"
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a folder with its subfolders, a pattern, a picture, or a .txt of paths",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the results")
    add_scorer_flags(parser)
    parser.add_argument(
        "--address",
        default=LOCAL,
        metavar="HOST:PORT",
        help="of the Ray cluster, whose machines need the same files at the same paths; default: this machine alone",
    )
    parser.add_argument("--cpus", type=count, default=2, metavar="N", help="of each model; default: %(default)s")
    parser.add_argument("--models", type=count, metavar="N", help="at the same time; default: what the CPUs allow")
    parser.add_argument(
        "--part", type=count, default=PART_PICTURES, metavar="N", help="pictures in a file; default: %(default)s"
    )
    args = parser.parse_args(arguments)
    for name in ("config", "bundle", "profiles"):  # the other processes have other working folders
        if (path := getattr(args, name)) is not None and path.exists():
            setattr(args, name, path.absolute())
    return args


def _connect(address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    import ray

    try:
        host, colon, port = address.rpartition(":")
        if colon:  # Ray itself would try for a minute
            socket.create_connection((host, int(port)), CONNECT_S).close()
        ray.init(address=address, logging_level="ERROR", log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray raises that class too
        raise ConfigError(f"--address {address}: no Ray cluster answers: {error}") from error


def _score(parts: Iterable[Part], done: Done, args: argparse.Namespace, folder: PartsFolder) -> None:
    import ray

    from zsad_agent.archive.scoring import PartScorer, score_parts

    machines = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = max(1, min(args.cpus, max(machines)))
    most = args.models or max(1, sum(each // cpus for each in machines))
    actor = ray.remote(num_cpus=cpus)(PartScorer)
    began_s = noted_s = time.monotonic()
    before = done.verdicts.total()
    for verdicts in score_parts(parts, lambda: actor.remote(args, folder.settings, folder.folder, cpus), most):
        done.verdicts.update(verdicts)
        if sys.stderr.isatty() and time.monotonic() > noted_s + NOTE_EVERY_S:
            noted_s = time.monotonic()
            rate = (done.verdicts.total() - before) / (noted_s - began_s)
            print(f"\r{done.verdicts.total()} pictures, {rate:.1f} a second", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
