"""The command line of `zsad-fleet`."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

from zsad_convert.fleet.broker import Broker
from zsad_convert.fleet.devices import Device, Selection, one_line
from zsad_convert.fleet.item import FleetError, read_item
from zsad_convert.fleet.rollout import Plan, PlanFile, Rollout, parse_waves
from zsad_core.command import guarded
from zsad_core.errors import ConfigError

STEP_S = 0.5
EXAMPLES = """examples:
  zsad-fleet list --broker mqtts://broker.plant
  zsad-fleet rollout bottle-2.zip --store https://store.plant/bundles --wave 1,5,rest --tag hall-a --dry-run
  zsad-fleet rollout bottle-2.zip --store https://store.plant/bundles --wave 1,5,rest --tag hall-a
  zsad-fleet status bottle-2.zip
  zsad-fleet rollback bottle-2.zip --match 'line3*'
"""


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-fleet`."""
    result = argparse.ArgumentParser(
        prog="zsad-fleet",
        description="Lists the devices at a broker, and rolls a signed bundle or profile out to them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listed, rollout, rollback, status = (
        commands.add_parser(name, help=text, description=text)
        for name, text in (
            ("list", "The devices and what they run."),
            ("rollout", "Devices fetch a file and take it into use, wave by wave."),
            ("rollback", "Devices that use a file take the one before it into use."),
            ("status", "How far a rollout is, and what its devices say."),
        )
    )
    listed.add_argument("--json", action="store_true", help="one JSON object a device")
    for command in (rollout, rollback, status):
        command.add_argument("file", type=Path, metavar="FILE", help=".zip of a bundle, or .profile")
        command.add_argument("--state", type=Path, help="progress file (default: <name of FILE>.ACTION.json here)")
    status.add_argument("--rollback", action="store_true", help="of the rollback, not of the rollout")
    rollout.add_argument("--store", required=True, metavar="URL", help="where devices find FILE: URL/<name of FILE>")
    rollout.add_argument("--allow-unsigned", action="store_true", help="also a FILE without a signature")
    for command in (rollout, rollback):
        command.add_argument("--wave", type=_waves, default=[1, None], help="sizes of the waves (default: 1,rest)")
        command.add_argument("--dry-run", action="store_true", help="show the waves and send nothing")
        command.add_argument("--answer-s", type=_seconds, default=60.0, help="longest wait for an answer (60)")
        command.add_argument("--wait-s", type=_seconds, default=3600.0, help="longest update of a device (3600)")
    for command in (listed, rollout, rollback):
        command.add_argument("--match", action="append", default=[], metavar="ID", help="devices: 'line*'; may repeat")
        command.add_argument("--tag", action="append", default=[], help="devices with all of these update.tags")
    for command in (listed, rollout, rollback, status):
        command.add_argument("--broker", default="mqtt://localhost:1883", metavar="URL", help="(default %(default)s)")
        command.add_argument("--prefix", default="zsad", help="mqtt.topic_prefix of the devices (default %(default)s)")
        command.add_argument("--username", help="at the broker")
        command.add_argument("--password-file", type=Path, help="file with the password on its first line")
        command.add_argument("--ca-file", type=Path, help="PEM of the broker's authorities (default: the system's)")
    return result


def _waves(text: str) -> list[int | None]:
    try:
        return parse_waves(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _seconds(text: str) -> float:
    """A finite number above 0. NaN would never be reached: a device that does not answer would not stop the wave."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return number


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed or stopped, 2 bad usage."""
    args = parser().parse_args(sys.argv[1:] if argv is None else argv)
    work: Callable[[argparse.Namespace], None] = {"list": print_devices, "status": print_status}.get(args.command, roll)
    return guarded("zsad-fleet", lambda: work(args))


def _broker(args: argparse.Namespace) -> Broker:
    return Broker(
        args.broker, args.prefix, username=args.username, password_file=args.password_file, ca_file=args.ca_file
    )


def _selection(args: argparse.Namespace) -> Selection:
    return Selection(match=args.match, tags=args.tag)


def print_devices(args: argparse.Namespace) -> None:
    """One line a device."""
    with _broker(args) as broker:
        devices = sorted(filter(_selection(args).holds, broker.fleet.devices.values()), key=lambda device: device.id)
    if args.json:
        for device in devices:
            print(json.dumps(device.as_json()))
        return
    for device in devices:
        stats, update = device.stats, device.update
        bundle = "unknown" if stats is None else f"{stats.bundle.name} {stats.bundle.version} ({device.bundle!s:.12})"
        columns = [
            f"{device.id:<20}",
            "online " if device.online else "offline",
            f"agent {stats.version if stats else '?'}",
            bundle,
            "products " + (", ".join(sorted(set(device.products.values()))) or "?"),
            f"update {update.phase}" if update is not None and device.takes_updates else "updates off",
            f"seen {stats.at[:19] if stats else 'never'}",
        ]
        print(one_line("  ".join(columns)))
        for alarm in device.alarms:
            print(f"    {one_line(alarm)}")
    print(f"{len(devices)} devices, {sum(device.online for device in devices)} online", file=sys.stderr)


def _plan_file(args: argparse.Namespace, action: str) -> PlanFile:
    return PlanFile(args.state or Path(f"{args.file.name}.{action}.json"))


def print_status(args: argparse.Namespace) -> None:
    """The plan, and what the devices say."""
    file = _plan_file(args, "rollback" if args.rollback else "rollout")
    plan = file.read()
    if plan is None:
        raise ConfigError(f"{file.path}: there is no such rollout. Name its --state")
    with _broker(args) as broker:
        devices = broker.fleet.devices
    print(f"{plan.action} of {plan.item.name}: {_counts(plan)}")
    for device_id, entry in sorted(plan.devices.items(), key=lambda item: (item[1].wave, item[0])):
        device = devices.get(device_id) or Device(id=device_id)
        said = "nothing" if device.update is None else f"{device.update.phase} {device.update.text or ''}".strip()
        uses = "uses it" if device.bundle == plan.item.in_use else f"uses {device.bundle!s:.12}"
        uses = "" if plan.item.kind == "profile" else f"{uses}, "
        there = "online" if device.online else "offline"
        print(f"wave {entry.wave}  {device_id:<20}  {entry.phase:<7}  {there}, {uses}says: {one_line(said)}")


def roll(args: argparse.Namespace) -> None:
    """Rolls a file out or back."""
    is_rollback = args.command == "rollback"
    item = read_item(args.file, None if is_rollback else args.store, allow_unsigned=is_rollback or args.allow_unsigned)
    file = _plan_file(args, args.command)
    with contextlib.nullcontext() if args.dry_run else file.locked(), _broker(args) as broker:
        plan, left_out = _planned(file, Plan(action=args.command, item=item), broker, args)
        print(f"{plan.action} of {plan.item.name}")
        for wave in range(1, plan.waves + 1):
            inside = sorted(device_id for device_id, entry in plan.devices.items() if entry.wave == wave)
            print(f"wave {wave}: {len(inside)} devices: {', '.join(inside[:20])}{', …' if len(inside) > 20 else ''}")
        if not plan.devices:
            raise FleetError("no device is selected")
        if not args.dry_run:
            _go_through(plan, file, broker, args)
            print(f"done: {_counts(plan)}{f', {left_out} left out' if left_out else ''}")


def _planned(file: PlanFile, new: Plan, broker: Broker, args: argparse.Namespace) -> tuple[Plan, int]:
    """The plan of the state file, else the new one, with the devices that are new; and how many are left out."""
    plan, item = file.read() or new, new.item
    if (plan.action, plan.item) != (new.action, item):
        store = f" from {plan.item.url}" if plan.item.url else ""
        raise ConfigError(f"{file.path}: of the {plan.action} of {plan.item.name}{store}. Name another --state")
    plan.resume(broker.fleet.devices)
    wanted, left_out = [], 0
    for device in sorted(filter(_selection(args).holds, broker.fleet.devices.values()), key=lambda one: one.id):
        has_it = device.bundle == item.in_use if item.kind == "bundle" else plan.uses(device)  # perhaps on probation
        reason = None
        if not device.online:
            reason = "offline"
        elif not device.takes_updates:
            reason = "it takes no updates (update.enabled)"
        elif plan.action == "rollback" and not has_it:
            reason = "it does not use this file"
        if reason is None:
            wanted.append(device.id)
        elif device.id not in plan.devices:
            left_out += 1
            print(f"left out: {device.id}: {reason}")
    plan.add(wanted, args.wave)
    return plan, left_out


def _go_through(plan: Plan, file: PlanFile, broker: Broker, args: argparse.Namespace) -> None:
    rollout = Rollout(plan, broker.fleet.devices, _selection(args), answer_s=args.answer_s, wait_s=args.wait_s)
    shown: dict[str, tuple[str, str]] = {}
    while True:
        commands = rollout.step(time.monotonic())
        now = {device_id: (str(entry.phase), entry.text) for device_id, entry in plan.devices.items()}
        if now != shown:
            file.write(plan)  # before a command is sent, so that its id is known after a kill
        for device_id, (phase, text) in now.items():
            if shown.get(device_id, ("waiting", "")) != (phase, text):
                print(
                    f"wave {plan.devices[device_id].wave}: {device_id}: {phase} {one_line(text)}".rstrip(), flush=True
                )
        shown = now
        if rollout.stopped or plan.wave is None:
            break
        for device_id, payload in commands:
            broker.send(device_id, payload)
        broker.listen(STEP_S)
    if rollout.stopped:
        silent = sorted(device_id for device_id, entry in plan.devices.items() if entry.phase == "silent")
        raise FleetError(
            f"stopped in wave {plan.wave} of {plan.waves}: {_counts(plan)}.\n"
            + (f"did not answer: {', '.join(silent)}\n" if silent else "")
            + f"The same command goes on from {file.path}; zsad-fleet rollback takes the devices back"
        )


def _counts(plan: Plan) -> str:
    phases = [entry.phase for entry in plan.devices.values()]
    return ", ".join(f"{phases.count(phase)} {phase}" for phase in dict.fromkeys(sorted(phases)))


if __name__ == "__main__":
    sys.exit(main())
