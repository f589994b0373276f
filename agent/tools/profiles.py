"""`zsad-agent profiles`: what was taught on this device."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_agent import learning
from zsad_agent.system import configure_logging, printable, utc_text
from zsad_agent.tools.flags import add_config_flag, add_profiles_flag, command_parser, named_store
from zsad_agent.tools.teach import promise_lines

if TYPE_CHECKING:  # pydantic takes longer than parsing
    from zsad_agent.teaching import Entry, Profile


def main(arguments: list[str]) -> int:
    """Lists or changes the profiles."""
    args = _parse(arguments)
    configure_logging("WARNING")

    from zsad_agent.config import load_settings
    from zsad_core.bundle import read_trusted_keys

    config = load_settings(args.config).config
    store = named_store(args.profiles, config, may_be_new=args.action == "import")
    if args.action == "list":
        return _print_all(store.entries(), args)
    if args.action == "show":
        entry = store.entry(args.product)
        if entry.number is None and entry.fault is None:
            raise store.nothing(args.product)
        return _print_all([entry], args)
    if args.action == "remove":
        store.remove(args.product)
        print(f"{printable(args.product)}: removed")
        return 0
    if args.action == "export" and args.dataset is not None:
        print(f"{args.dataset}: {learning.export_dataset(store, args.dataset, args.product)} pictures")
        return 0
    if args.action == "export":
        stored = store.export_to(args.product, args.file)
        print(f"{args.file}: {_name(stored)}")
        return 0
    if args.action == "import":
        stored = store.import_from(args.file, read_trusted_keys(config.inference.trusted_keys))
    else:
        stored = store.roll_back(args.product)
    print(f"in use after the agent's next reload: {_name(stored)}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "profiles",
        "What was taught: one profile for each product, and the two before it.",
        examples="zsad-agent profiles list\n"
        "zsad-agent profiles rollback bottle\n"
        "zsad-agent profiles export bottle bottle.profile",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in {
        "list": "every product; exit code 1 if a profile is damaged",
        "show": "one product in detail",
        "remove": "forget a product",
        "rollback": "take the profile before the present one into use",
        "export": "write a product's profile to one file",
        "import": "check such a file and take it into use",
    }.items():
        sub = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        if action in ("show", "remove", "rollback"):
            sub.add_argument("product", metavar="PRODUCT")
        if action == "export":
            sub.add_argument("product", nargs="?", metavar="PRODUCT")
            sub.add_argument("file", nargs="?", type=Path, metavar="FILE")
            sub.add_argument(
                "--dataset",
                type=Path,
                metavar="DIR",
                help="instead: all pictures, of PRODUCT or of all products",
            )
        if action == "import":
            sub.add_argument("file", type=Path, metavar="FILE")
        if action in ("list", "show"):
            sub.add_argument("--json", action="store_true", help="one JSON object per product")
        add_profiles_flag(sub)
        add_config_flag(sub)
    args = parser.parse_args(arguments)
    if args.action == "export" and (args.file is None) == (args.dataset is None):
        parser.error("export: name PRODUCT and FILE, or --dataset DIR")
    return args


def _print_all(entries: list[Entry], args: argparse.Namespace) -> int:
    for entry in entries:
        if args.json:
            print(json.dumps(as_json(entry)))
        elif args.action == "list":
            print(_row(entry))
        else:
            print("\n".join(_details(entry)))
    if not entries and not args.json:
        print("nothing was taught yet: zsad-agent teach PICTURES --product NAME")
    return 1 if any(entry.fault is not None or entry.profile is None for entry in entries) else 0


def as_json(entry: Entry) -> dict[str, Any]:
    """The output of `--json` for one product."""
    about: dict[str, Any] = {"product": entry.product, "version": entry.number, "versions": list(entry.numbers)}
    about["fault"] = entry.fault
    if (profile := entry.profile) is not None:
        level = profile.levels[-1]
        about |= {
            "sha256": profile.sha256,
            "made_at": utc_text(profile.made_at),
            "bundle": profile.bundle.model_dump(),
            "rebuilt_from": None if profile.rebuilt_from is None else profile.rebuilt_from.model_dump(),
            "mode": profile.part.mode,
            "goods": len(profile.goods_scores),
            "false_reject_rate": level.false_reject_rate,
            "false_reject_rate_90": level.false_reject_rate_90,
            "recall": None if level.recall is None else level.recall.share,
        }
    return about


def _row(entry: Entry) -> str:
    name = printable(entry.product)
    if entry.profile is None:
        return f"{name:<20}  FAULT: {printable(entry.fault or 'nothing was taught')}"
    profile, level = entry.profile, entry.profile.levels[-1]
    recall = "unknown" if level.recall is None else f"{level.recall.share:.0%}"
    return (
        f"{name:<20}  version {entry.number}  {utc_text(profile.made_at)[:16]}  {len(profile.goods_scores):4} goods  "
        f"false rejects {level.false_reject_rate:.1%}  recall {recall}  {profile.bundle.name} {profile.bundle.version}"
    )


def _details(entry: Entry) -> list[str]:
    if entry.profile is None:
        return [_row(entry)]
    profile = entry.profile
    lines = [
        _name(profile),
        f"version {entry.number} of {', '.join(map(str, entry.numbers))}, taught {utc_text(profile.made_at)}",
        f"bundle {profile.bundle.name} {profile.bundle.version} ({profile.bundle.sha256[:12]})",
        f"where the part is: {profile.part.mode}",
        *promise_lines(profile, len(profile.goods_scores)),
        *(f"memory {name}: {len(memory.vectors)} vectors" for name, memory in profile.scales.items()),
    ]
    if profile.background is None:
        lines.append("made by an earlier agent: it is made again from its kept pictures when it is used")
    if (old := profile.rebuilt_from) is not None:
        lines.append(
            f"made again from the kept pictures of {old.name} {old.version}: bad parts were not measured again"
        )
    return lines


def _name(profile: Profile) -> str:
    return f"{printable(profile.product)}, profile {profile.sha256[:12]}"
