"""`zsad-agent doctor`: examines this machine, a line for each check with what to do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent.system import configure_logging, prepare_environment
from zsad_agent.tools.flags import add_config_flag, command_parser
from zsad_core.errors import ConfigError

if TYPE_CHECKING:  # pydantic takes longer than parsing
    from zsad_agent.doctor import Check, Finding

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def main(arguments: list[str]) -> int:
    """Prints the findings. Exit code 1 if one is a `fail`."""
    parser = command_parser(
        "doctor",
        "Checks this machine and the config: cameras, sources, inference, broker, certificates, folders, disk, clock, "
        "service, ports. One line for each, with what to do. Exit code 1 if one fails.",
        examples="zsad-agent doctor\nzsad-agent doctor --config agent.yaml --json",
        note="The running agent holds its cameras. Stop it first to measure their frame rate.",
    )
    add_config_flag(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object: ok, and a list of checks")
    args = parser.parse_args(arguments)
    configure_logging("CRITICAL")

    from zsad_agent.doctor import examine

    prepare_environment()
    found: list[Finding] = []
    for finding in examine(checks_of(args.config)):
        found.append(finding)
        if not args.json:
            print(as_line(finding), flush=True)
    failed = [finding for finding in found if finding.state == "fail"]
    if args.json:
        print(json.dumps({"ok": not failed, "checks": [dataclasses.asdict(finding) for finding in found]}))
    else:
        warned = sum(finding.state == "warn" for finding in found)
        print(f"{len(found)} checks: {len(failed)} failed, {warned} warnings")
    return 1 if failed else 0


def checks_of(path: Path | None) -> Iterator[Check]:
    """The checks, in order. With a config that cannot be read, those that need none.

    A module is imported when its check runs: a library that cannot be imported fails only that check.
    """
    from zsad_agent import doctor
    from zsad_agent.config import load_settings

    yield doctor.Check(name="config", run=lambda: check_config(path), limit_s=30.0)
    yield doctor.Check(name="cameras", run=lambda: doctor.check_devices())
    yield doctor.Check(name="clock", run=lambda: doctor.check_clock())
    yield doctor.Check(name="service", run=lambda: doctor.check_service())
    try:
        settings = load_settings(path)
    except ConfigError:
        return
    config = settings.config
    yield doctor.Check(name="folders", run=lambda: doctor.check_folders(settings))
    yield doctor.Check(name="certificates", run=lambda: doctor.check_certificates(settings))
    yield doctor.Check(name="ports", run=lambda: doctor.check_ports(config), limit_s=20.0)
    yield doctor.Check(name="broker", run=lambda: doctor.check_broker(config))
    if any(camera.aravis for camera in config.every_camera):
        yield doctor.Check(name="GigE Vision", run=lambda: doctor.check_receiving())
    if config.plant.gpio:
        yield doctor.Check(name="gpio", run=lambda: doctor.check_lines(config))
    for camera in config.every_camera:
        if camera.origin is not None:
            run = partial(doctor.check_source, camera, config)
            yield doctor.Check(name=f"source {camera.name}", run=run, limit_s=30.0 + 2 * camera.stale_after_s)
    yield doctor.Check(name="model", run=lambda: doctor.check_inference(config), limit_s=120.0)


def check_config(path: Path | None) -> Iterator[Finding]:
    """Each fault that `zsad-agent check` names."""
    from zsad_agent.cli.check import find_faults
    from zsad_agent.config import load_settings
    from zsad_agent.doctor import Finding

    try:
        settings = load_settings(path)
        faults = list(find_faults(settings))
    except ConfigError as error:
        faults = str(error).splitlines()
    for fault in faults:
        yield Finding(check="config", state="fail", text=fault, advice="correct the config")
    if not faults:
        yield Finding(check="config", state="ok", text=f"{settings.path or 'none, the defaults'}: no faults")


def as_line(finding: Finding) -> str:
    """E.g. `WARN  clock: 2026-11-29 16:48:47 UTC: not synchronised -> timedatectl set-ntp true`."""
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{MARKS[finding.state]}  {finding.check}: {finding.text}{advice}"
