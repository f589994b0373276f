"""The command `zsad-agent`. Without a subcommand it runs the daemon.

Heavy modules are imported after the arguments are parsed.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zsad_agent.system import configure_logging, keep_memory_small, prepare_environment
from zsad_core.errors import ConfigError, ProductError, ZsadError

DONE, FAILED, USAGE = 0, 1, 2
DEFAULT_FALSE_REJECT_RATE = 0.01
MIN_FALSE_REJECT_RATE = 1e-6  # needs a million good parts
DEFAULT_REFERENCE_FRAMES = 50


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns the exit code. Errors that a user can cause are one line per fault on stderr."""
    arguments = sys.argv[1:] if argv is None else argv
    command = COMMANDS.get(arguments[0]) if arguments else None
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a file name may have characters that the terminal cannot show
    try:
        return command(arguments[1:]) if command is not None else run(arguments)
    except SystemExit as exit_request:  # argparse, after --help or a usage error
        return exit_request.code if isinstance(exit_request.code, int) else USAGE
    except (ConfigError, ProductError) as error:
        return _report(error, USAGE)
    except ZsadError as error:
        return _report(error, FAILED)
    except BrokenPipeError:  # the reader of stdout has ended: `zsad-agent score … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _report(error, FAILED)
    except KeyboardInterrupt:
        return _report("interrupted", FAILED)


def run(arguments: list[str]) -> int:
    """The daemon."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent",
        description="Inspects the frames of a camera or other source and publishes a verdict for each over MQTT.",
        epilog="Other commands: zsad-agent score | check | bench | calibrate | reference, each with --help. "
        "Exit codes: 0 done, 1 failed, 2 bad usage or config.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--camera", metavar="INDEX|PATH", help="V4L2 camera: 0, or /dev/v4l/by-id/…")
    where.add_argument("--source", metavar="URI", help="RTSP or HTTP URL, video file, picture, folder or glob")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML config; default: /etc/zsad-agent/agent.yaml if there is one"
    )
    _add_model_flags(parser)
    parser.add_argument("--broker", metavar="URL", help="mqtt[s]://host[:port], or embedded; default: localhost")
    parser.add_argument("--max-frames", type=_count, metavar="N", help="end after N pictures; default: no limit")
    parser.add_argument("--loop", action="store_true", default=None, help="start a file or folder again at its end")
    parser.add_argument("--fps", type=float, metavar="F", help="most frames per second; default: no limit")
    parser.add_argument("--threshold", type=float, metavar="T", help="score in [0, 1]; default: the bundle's")
    parser.add_argument("--print-results", action="store_true", help="print one line per result on stdout")
    parser.add_argument(
        "--save-heatmaps", type=Path, metavar="DIR", help="write each overlay as DIR/<camera>-<seq>.jpg; for setting up"
    )
    parser.add_argument("--version", action=_PrintVersion, help="show the version and exit")
    args = parser.parse_args(arguments)

    from zsad_agent.config import load_settings

    flags: dict[str, dict[str, Any]] = {
        "source": _given(camera=args.camera, source=args.source, loop=args.loop, fps=args.fps),
        "inference": _given(bundle=args.bundle, product=args.product),
        "decision": _given(threshold=args.threshold),
        "mqtt": _given(broker=args.broker),
    }
    flags = {section: given for section, given in flags.items() if given}
    config = load_settings(args.config, flags).config
    configure_logging(config.log_level, config.log_format)
    prepare_environment()
    keep_memory_small()
    os.umask(os.umask(0o077) | 0o027)  # other users must not read results and pictures

    from zsad_agent.cli.check import checked_settings
    from zsad_agent.config import default_state_dir
    from zsad_agent.daemon import RunOptions, StopRequest, run_agent
    from zsad_agent.inspection import HeatmapFolderSink, PrintSink, Sink
    from zsad_agent.system import CrashReports

    state_dir = default_state_dir()
    crash_reports = CrashReports(state_dir, config.model_dump(mode="json"))
    crash_reports.install()
    if crash_reports.last_crash is not None:
        logging.getLogger(__name__).error("%s", crash_reports.last_crash)
    sinks: list[Sink] = [PrintSink()] if args.print_results else []
    if args.save_heatmaps is not None:
        sinks.append(HeatmapFolderSink(args.save_heatmaps))
    with StopRequest() as stop:
        surroundings = RunOptions(
            stop=stop.event,
            state_dir=state_dir,
            reread=lambda: checked_settings(args.config, flags).config,
            sinks=sinks,
            max_frames=args.max_frames,
            crash_reports=crash_reports,
        )
        return run_agent(config, surroundings)


def score(arguments: list[str]) -> int:
    """Scores pictures without a broker."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent score",
        description="Scores pictures. Exit code 1 if a picture has no score: its verdict is `unknown`.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="a picture, or a folder with its subfolders"
    )
    _add_model_flags(parser)
    parser.add_argument("--threshold", type=float, metavar="T", help="score in [0, 1]; default: the bundle's")
    parser.add_argument("--json", action="store_true", help="one JSON object per line, latency_ms in milliseconds")
    parser.add_argument(
        "--maps",
        type=Path,
        metavar="DIR",
        help="write each anomaly map as DIR/<stem>.npy, float32 [h, w] in [0, 1], with the same subfolders; pictures "
        "of one folder with the same stem (a.png, a.jpg) get <file name>.npy, further duplicates get a number",
    )
    args = parser.parse_args(arguments)
    configure_logging("WARNING")
    prepare_environment()

    from zsad_agent.cli.score import find_pictures, print_scores, score_pictures
    from zsad_core.bundle import load_bundle

    config = _model_config(args)
    bundle = load_bundle(config.inference.bundle)
    threshold = config.decision.threshold
    if threshold is None:
        threshold = bundle.manifest.threshold.value
    pictures = find_pictures(args.paths)
    if not pictures:
        return _report(f"no pictures below {', '.join(map(str, args.paths))}", FAILED)

    from zsad_agent.model import Detector

    scores = score_pictures(pictures, Detector(bundle, config.inference), threshold=threshold, maps=args.maps)
    return print_scores(scores, as_json=args.json, with_map=args.maps is not None)


def check(arguments: list[str]) -> int:
    """Checks a config without running the agent."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent check",
        description="Prints every fault of a config file. Exit code 0, or 2 if there is a fault.",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML config; default: /etc/zsad-agent/agent.yaml if there is one"
    )
    args = parser.parse_args(arguments)
    configure_logging("ERROR")
    prepare_environment()

    from zsad_agent.cli.check import find_faults
    from zsad_agent.config import load_settings

    settings = load_settings(args.config)
    faults = list(find_faults(settings))
    if faults:
        return _report("\n".join(faults), USAGE)
    print(f"{settings.path or 'no config file, the defaults'}: no faults")
    return DONE


def calibrate(arguments: list[str]) -> int:
    """Computes a threshold from pictures of good parts."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent calibrate", description="Prints a threshold for the config, from pictures of good parts."
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="pictures of good parts, or folders of them"
    )
    _add_model_flags(parser)
    parser.add_argument(
        "--false-reject-rate",
        type=float,
        default=DEFAULT_FALSE_REJECT_RATE,
        metavar="R",
        help=f"share of good parts that may be rejected, between 0 and 1; default {DEFAULT_FALSE_REJECT_RATE}",
    )
    args = parser.parse_args(arguments)
    if not MIN_FALSE_REJECT_RATE <= args.false_reject_rate < 1:
        parser.error(f"--false-reject-rate: {args.false_reject_rate} is not between {MIN_FALSE_REJECT_RATE:g} and 1")
    configure_logging("WARNING")
    prepare_environment()

    from zsad_agent.cli.calibrate import as_yaml, calibrate
    from zsad_agent.cli.score import find_pictures, score_pictures
    from zsad_agent.model import Detector
    from zsad_agent.system import printable
    from zsad_core.bundle import load_bundle

    inference = _model_config(args).inference
    detector = Detector(load_bundle(inference.bundle), inference)
    scored = []
    for found in score_pictures(find_pictures(args.paths), detector, threshold=1.0, maps=None):
        if found.anomaly_score is None:
            reason = found.reason or ""
            said = reason if reason.startswith(found.path) else f"{found.path}: {reason}"
            print(f"zsad-agent: left out: {printable(said)}", file=sys.stderr)
        else:
            scored.append(found.anomaly_score)
    try:
        calibration = calibrate(scored, args.false_reject_rate)
    except ValueError as error:
        return _report(error, FAILED)
    print(as_yaml(calibration, args.false_reject_rate))
    return DONE


def reference(arguments: list[str]) -> int:
    """Writes the reference of a camera to a file."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent reference",
        description="Takes frames of the running line and writes their fixed background to a file for health.reference."
        " With it the agent detects a moved camera, a changed scene and lost focus. Parts must move meanwhile.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--camera", metavar="INDEX|PATH", help="V4L2 camera: 0, or /dev/v4l/by-id/…")
    where.add_argument("--source", metavar="URI", help="RTSP or HTTP URL, video file, picture, folder or glob")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML config; default: /etc/zsad-agent/agent.yaml if there is one"
    )
    parser.add_argument("--name", metavar="NAME", help="a camera of the config; required if it has several")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write, .npz")
    parser.add_argument(
        "--frames", type=_count, default=DEFAULT_REFERENCE_FRAMES, metavar="N", help="frames to take; default 50"
    )
    parser.add_argument(
        "--every", type=float, default=0.5, metavar="S", help="seconds between two frames of a camera; default 0.5"
    )
    args = parser.parse_args(arguments)
    if not 0 <= args.every <= 3600:
        parser.error(f"--every: {args.every} is not between 0 and 3600")

    from zsad_agent.config import load_settings

    flags = {"source": given} if (given := _given(camera=args.camera, source=args.source)) else {}
    config = load_settings(args.config, flags).config
    configure_logging("WARNING")
    prepare_environment(config.source.stale_after_s)

    from zsad_agent.cli.reference import choose_camera, describe, take_reference
    from zsad_agent.picture_health import save_reference
    from zsad_agent.sources import make_source

    camera = choose_camera(config.every_camera, args.name)
    camera = camera.model_copy(update={"trigger": "free"})  # frames are taken without triggers

    def progress(taken: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{taken} of {args.frames} frames", end="\n" if taken == args.frames else "", file=sys.stderr)

    made = take_reference(make_source(camera), camera.health, frames=args.frames, every_s=args.every, progress=progress)
    save_reference(made, args.out)
    print("\n".join([str(args.out), *describe(made)]))
    return DONE


def bench(arguments: list[str]) -> int:
    """Measures speed."""
    parser = argparse.ArgumentParser(
        prog="zsad-agent bench",
        description="Measures raw inference and the whole pipeline in turns: latency in milliseconds, pictures per "
        "second, seconds from process start to the first verdict, memory in MB.",
    )
    _add_model_flags(parser)
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="total time; default 20")
    parser.add_argument("--threads", type=_count, metavar="N", help="CPU threads; default: OpenVINO's choice")
    parser.add_argument("--device", default="CPU", help="OpenVINO device; default CPU")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args(arguments)
    if not 1 <= args.seconds <= 86_400:
        parser.error(f"--seconds: {args.seconds} is not between 1 and 86400")
    configure_logging("ERROR")
    prepare_environment()
    keep_memory_small()  # as in the daemon

    from zsad_agent.cli.bench import as_table, run_bench

    config = _model_config(args, device=args.device, threads=args.threads)
    report = run_bench(config, seconds=args.seconds)
    if args.json:
        import json

        print(json.dumps(report))
    else:
        print(as_table(report))
    return DONE


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "score": score,
    "check": check,
    "calibrate": calibrate,
    "reference": reference,
    "bench": bench,
}


def _add_model_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle",
        type=Path,
        metavar="PATH",
        help="folder, .zip or name of a shipped bundle; default: zsad-small",
    )
    parser.add_argument(
        "--product", metavar="NAME", help="a product of the bundle; default: the generic product, object"
    )


def _model_config(args: argparse.Namespace, **inference: Any) -> Any:
    from zsad_agent.config import AgentConfig
    from zsad_core.config import validate

    flags = {
        "inference": _given(bundle=args.bundle, product=args.product, **inference),
        "decision": _given(threshold=getattr(args, "threshold", None)),
    }
    return validate(AgentConfig, flags, "command line")


def _given(**flags: Any) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


class _PrintVersion(argparse.Action):
    """Reads the version only for `--version`: that takes longer than parsing all other flags."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"zsad-agent {version('zsad-agent')}")
        parser.exit()


def _report(error: object, code: int) -> int:
    for line in str(error).splitlines():
        print(f"zsad-agent: {line}", file=sys.stderr)
    return code
