"""Speed and memory of bundles beside AVA-DINO on ViT-L and ViT-S and beside Anomalib, in turns, in one run.

    python benchmarks/speed.py [BUNDLE …] [--json FILE]

Each contender has a process of its own, and only one of them works at a time: they take turns, round after round, so
that a slow spell of a shared machine hits all alike. Measured is the whole way from a frame of 1280 x 720 in memory to
score and map on the host. The first verdict is timed from the start of a fresh process that finds its compiled model in
the cache; for a bundle also that of the agent itself, whose memory is taken after 50 pictures. Processor time is moved
less by other load than latency is. What each contender is made of is told in `speed_contenders.py`.

ViTs need torch, Anomalib's models the extra `benchmark`, best in an environment of its own:
`./make-venv.sh .venv-benchmark benchmark`. What was built stays in --work. Building ViT-L takes 10 GB of memory, racing
all at once about 8 GB. Exit codes: 0 all that was asked for ran, 1 something did not, 2 bad usage.
"""

import argparse
import datetime
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from speed_contenders import OTHERS, SGEMM, Contender
from speed_report import Row, as_markdown, check_targets, compare
from speed_runner import Runner

from zsad_agent.config import SHIPPED_BUNDLES
from zsad_core.bundle import parse_manifest, read_manifest
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import import_openvino

ISA_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
# What oneDNN is told. With OpenVINO 2026.4 matrix products, convolutions, softmax and what is fused obey; MVN, Reduce,
# Interpolate and TopK do not and keep wider registers. The report names the kernels that ran.
ISA_LIMITS = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"}}


def contenders(bundles: list[Path], names: list[str]) -> list[Contender]:
    """The bundles, by the names in their manifests (by path, where that is taken or cannot be read), and the others."""
    found: list[Contender] = []
    for path in bundles:
        try:
            name = parse_manifest(read_manifest(path), str(path)).name
        except BundleError:
            name = str(path)  # its own row says what is wrong
        if any(one.name == name for one in found):
            name = str(path)
        found.append(Contender(name=name.strip("/").replace("/", "_"), kind="bundle", what=str(path.absolute())))
    return [*found, *(one for one in OTHERS if one.name in names), SGEMM]


def run(runners: list[Runner], args: argparse.Namespace) -> Iterator[list[Row]]:
    """Builds all, then lets them take turns at each number of threads, and after each gives the rows of it."""
    for runner in runners:
        say(f"building {runner.contender.name}")
        runner.build()
    for threads in args.threads:
        for runner in runners:
            say(f"{threads} threads: starting {runner.contender.name}")
            runner.start(threads, args.starts)
        for number in range(args.rounds):
            say(f"{threads} threads: round {number + 1} of {args.rounds}")
            first = number % len(runners)  # nobody is always after the same one
            for runner in runners[first:] + runners[:first]:
                runner.take_turn(args.turn, args.gaps)
        yield [runner.stop() for runner in runners]


def machine(isa: str | None) -> dict[str, Any]:
    """What the figures hold for."""
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
    """Of the contenders' processes, which have other current folders; limits must stand before OpenVINO is loaded."""
    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | ISA_LIMITS.get(isa or "", {})


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Runs it; the exit code."""
    names = [one.name for one in OTHERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "bundles", nargs="*", type=Path, default=sorted(SHIPPED_BUNDLES.iterdir()), help="default: those that ship"
    )
    parser.add_argument("--against", nargs="*", choices=names, default=names, help="the other contenders; default: all")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads; default 1 2")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender; default 5")
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of a turn's tight loop; default 3")
    parser.add_argument("--gaps", type=int, default=3, help="frames after a gap of 1 s, each turn; default 3")
    parser.add_argument("--starts", type=int, default=3, help="timed starts of each contender; default 3")
    parser.add_argument("--isa", choices=sorted(ISA_LIMITS), help="widest instruction set that may be used")
    parser.add_argument("--work", type=Path, default=Path("build/speed"), help="what was built; default build/speed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
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
        if args.json is not None:  # each time: a long run may be cut short
            args.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    print(as_markdown(report))
    return 0 if all(row["error"] is None for row in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
