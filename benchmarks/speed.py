"""Compares speed and memory of bundles, of AVA-DINO on ViT-L and ViT-S, and of Anomalib's models in one run.

    python benchmarks/speed.py [BUNDLE …] [--json FILE]

Each contender has its own process, and only one of them works at a time. They take turns in every round, so slow
periods of a shared machine affect all of them. The measured time is from a frame of 1280 x 720 in memory to score and
map on the host. The time to the first verdict starts with a new process, whose compiled model is in the cache. For a
bundle, the agent itself is also measured: its first verdict, and its memory after 50 frames. Other load changes CPU
time less than latency. `speed_parts/contenders.py` describes the contenders.

ViTs need torch. Anomalib's models need the extra `benchmark`, preferably in a separate environment:
`./make-venv.sh .venv-benchmark benchmark`. Built models stay in --work. Building ViT-L needs 10 GB of memory, and the
measurement of all contenders about 8 GB. Exit codes: 0 everything ran, 1 something did not run, 2 bad usage.
"""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speed_parts.contenders import OTHERS, SGEMM, Contender
from speed_parts.report import Row, as_markdown, check_targets, compare
from speed_parts.runner import Runner

from zsad_agent.config import SHIPPED_BUNDLES
from zsad_core.bundle import parse_manifest, read_manifest
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import import_openvino

ISA_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
# Limits for oneDNN. With OpenVINO 2026.4 they work for matrix products, convolutions, softmax and fused operations, but
# not for MVN, Reduce, Interpolate and TopK, which use wider registers. The report names the kernels that ran.
ISA_LIMITS = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}


def contenders(bundles: list[Path], names: list[str]) -> list[Contender]:
    """The bundles, named as in their manifests (by path if that name is used or unreadable), and the others."""
    found: list[Contender] = []
    for path in bundles:
        try:
            name = parse_manifest(read_manifest(path), str(path)).name
        except BundleError:
            name = str(path)  # its row in the report shows the error
        if any(one.name == name for one in found):
            name = str(path)
        found.append(Contender(name=name.strip("/").replace("/", "_"), kind="bundle", what=str(path.absolute())))
    return [*found, *(one for one in OTHERS if one.name in names), SGEMM]


def run(runners: list[Runner], args: argparse.Namespace) -> Iterator[list[Row]]:
    """Builds all contenders, then runs their turns for each number of threads; yields the rows of each number."""
    for runner in runners:
        say(f"building {runner.contender.name}")
        runner.build()
    for threads in args.threads:
        for runner in runners:
            say(f"{threads} threads: starting {runner.contender.name}")
            runner.start(threads, args.starts)
        for number in range(args.rounds):
            say(f"{threads} threads: round {number + 1} of {args.rounds}")
            first = number % len(runners)  # the order changes, so none always follows the same one
            for runner in runners[first:] + runners[:first]:
                runner.take_turn(args.turn, args.gaps)
        yield [runner.stop() for runner in runners]


def machine(isa: str | None) -> dict[str, Any]:
    """The machine and software of the measurement."""
    told = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in told.items()}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", "unknown CPU"),
        "cpu_family_model": [facts.get("cpu family"), facts.get("model")],
        "cpu_count": len(os.sched_getaffinity(0)),
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "isa_limit": isa,
        "openvino": import_openvino().get_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": os.getloadavg()[0],
    }


def environment(isa: str | None) -> Mapping[str, str]:
    """The environment of the contenders' processes, with absolute paths, and limits that OpenVINO reads on loading."""
    places = [Path(__file__).parent, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    paths = [str(Path(path).absolute()) for path in places]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | ISA_LIMITS.get(isa or "", {})


def say(text: str) -> None:
    """Prints progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Runs the benchmark and returns the exit code."""
    names = [one.name for one in OTHERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundles", nargs="*", type=Path, default=sorted(SHIPPED_BUNDLES.iterdir()), help="default: the shipped bundles"
    )
    parser.add_argument("--against", nargs="*", choices=names, default=names, help="the other contenders; default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads; default 1 2")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender; default 5")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a turn without pauses; default 3")
    parser.add_argument("--gaps", type=int, default=3, help="frames per turn after a pause of 1 s; default 3")
    parser.add_argument("--starts", type=int, default=3, help="timed starts per contender; default 3")
    parser.add_argument("--isa", choices=sorted(ISA_LIMITS), help="widest instruction set to use")
    parser.add_argument("--work", type=Path, default=Path("build/speed"), help="built models; default build/speed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    args = parser.parse_args()
    for flag in ("rounds", "turn", "starts"):
        if getattr(args, flag) <= 0:
            parser.error(f"--{flag}: {getattr(args, flag)} is not above 0")
    if min(args.threads) < 1 or args.gaps < 0:
        parser.error("--threads must be at least 1, --gaps at least 0")

    report: dict[str, Any] = {"machine": machine(args.isa), "rounds": args.rounds, "turn_s": args.turn}
    chosen = contenders(args.bundles, args.against)
    env = environment(args.isa)
    runners = [Runner(one, args.work.absolute(), env, isa=args.isa) for one in chosen]
    report |= {"gaps": args.gaps, "command": sys.argv, "rows": []}
    for rows in run(runners, args):
        compare(rows)
        report["rows"] += rows
        report["targets"] = [vars(target) for target in check_targets(report["rows"])]
        if args.json is not None:  # after each step, because a long run may be interrupted
            args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(as_markdown(report))
    return 0 if all(row["error"] is None for row in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
