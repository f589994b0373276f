"""`zsad-agent` without a subcommand: the daemon."""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from zsad_agent.system import configure_logging, keep_memory_small, note_hangups, quick_imports
from zsad_agent.tools.flags import (
    add_model_flags,
    add_profile_flags,
    add_source_flags,
    add_threshold_flag,
    command_parser,
    count,
    given,
)


def main(arguments: list[str]) -> int:
    """Runs until every source ends, `--max-frames` are done, or a signal."""
    args = _parser().parse_args(arguments)
    hangup = note_hangups()
    flags: dict[str, Any] = {
        "source": given(camera=args.camera, source=args.source, loop=args.loop, fps=args.fps),
        "inference": given(bundle=args.bundle, product=args.product),
        "decision": given(threshold=args.threshold),
        "mqtt": given(broker=args.broker),
        **given(profiles=args.profiles),
    }
    with quick_imports():
        import numpy  # noqa: F401  pydantic replaces parts of `typing`; numpy is 35 ms slower after that

        from zsad_agent.config import default_state_dir, keep_device_id, load_settings

        settings = load_settings(args.config, flags)
        config = settings.config
        configure_logging(config.log_level, config.log_format)
        keep_memory_small()
        os.umask(os.umask(0o077) | 0o027)  # other users must not read results and pictures

        from zsad_agent.cli.check import checked_settings, faults_in
        from zsad_agent.daemon import RunOptions, run_agent, stop_on_signal
        from zsad_agent.inspection import HeatmapFolderSink, PrintSink, Sink
        from zsad_agent.system import CrashReports

    state_dir = default_state_dir()
    keep_device_id(state_dir)
    crash_reports = CrashReports(state_dir, config.model_dump(mode="json"))
    crash_reports.install()
    if crash_reports.last_crash is not None:
        logging.getLogger(__name__).error("%s", crash_reports.last_crash)
    sinks: list[Sink] = [PrintSink()] if args.print_results or sys.stdout.isatty() else []
    if args.save_heatmaps is not None:
        sinks.append(HeatmapFolderSink(args.save_heatmaps))
    with stop_on_signal() as stop:
        options = RunOptions(
            stop=stop,
            state_dir=state_dir,
            hangup=hangup,
            reread=lambda: checked_settings(args.config, flags).config,
            config_path=settings.path,
            check_config=lambda path: faults_in(path, flags),
            sinks=sinks,
            max_frames=args.max_frames,
            crash_reports=crash_reports,
        )
        return run_agent(config, options)


def _parser() -> argparse.ArgumentParser:
    from zsad_agent.cli.main import COMMANDS

    listed = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    parser = command_parser(
        "",
        "Inspects the frames of a camera or other source and publishes a verdict for each over MQTT.",
        examples="zsad-agent --camera 0\n"
        "zsad-agent --source rtsp://camera/stream --product bottle --broker mqtt://broker:1883\n"
        "zsad-agent --config agent.yaml",
        note=f"commands, each with --help:\n{listed}\n\nExit codes: 0 done, 1 failed, 2 bad usage or config.",
    )
    add_source_flags(parser)
    add_model_flags(parser)
    add_profile_flags(parser)
    parser.add_argument("--broker", metavar="URL", help="mqtt[s]://host[:port], or embedded; default: localhost")
    parser.add_argument("--max-frames", type=count, metavar="N", help="end after N pictures; default: no limit")
    parser.add_argument("--loop", action="store_true", default=None, help="start a file or folder again at its end")
    parser.add_argument("--fps", type=float, metavar="F", help="most frames per second; default: no limit")
    add_threshold_flag(parser)
    parser.add_argument(
        "--print-results", action="store_true", help="print one line per result; on a terminal that is the default"
    )
    parser.add_argument(
        "--save-heatmaps", type=Path, metavar="DIR", help="write each overlay as DIR/<camera>-<seq>.jpg; for setting up"
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="show the version and exit")
    return parser


class _PrintVersion(argparse.Action):
    """Reads the version only for `--version`: that takes longer than parsing all other flags."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"zsad-agent {version('zsad-agent')}")
        parser.exit()
