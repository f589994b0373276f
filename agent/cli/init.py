"""`zsad-agent init`: asks five questions and writes a commented config."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import stat
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from zsad_agent import probing, teaching
from zsad_agent.system import configure_logging
from zsad_agent.tools.flags import command_parser, given
from zsad_core.errors import ConfigError, ProductError

EXAMPLE = Path("/usr/share/zsad-agent/agent.yaml")
FILE_MODE = 0o660  # a source may have a password; the service's group reads and, from the page, writes it
TRIGGERS = {
    "free": "every frame",
    "mqtt": "one frame for each message on <camera>/trigger",
    "plc": "one frame for each trigger of a PLC, over Modbus TCP",
    "folder": "every image that is put into a folder",
}
PAGE, BROKER, GENERIC = "127.0.0.1:8080", "mqtt://localhost:1883", "object"

TEMPLATE = """\
# Made by `zsad-agent init`. Every other setting with its default: {example}
# After a change: zsad-agent check --config {path}

source:
  {source_key}: {source}
  name: cam0    # topic level, and `camera` of every result
  trigger: {trigger}    # {triggers}
  # fps: 10.0    # most frames a second; default: every frame
  # region_xywh: [0, 0, 640, 480]    # inspected part of the frame, pixels; default: all of it

inference:
{product}

# decision:
#   threshold: 0.5    # 0 to 1, with a higher one fewer parts are rejected; default: as taught, else the bundle's

mqtt:
  broker: {broker}    # mqtts:// for TLS
  # username: zsad
  # password_file: /etc/zsad-agent/mqtt-password    # owner root:zsad-agent, mode 640

web:    # the page; while it is on, history and evidence are kept
  listen: {page}    # "off", or 0.0.0.0:8080 for every network once a password is set
"""
PLC = """
plant:    # the addresses for the PLC: zsad-agent plant map
  modbus:
    listen: 127.0.0.1:1502    # 0.0.0.0:1502 for every network; whoever reaches it controls the line
"""


@dataclass(frozen=True, kw_only=True)
class Answers:
    source_key: str  # camera, source or aravis
    source: str
    product: str
    broker: str
    trigger: str
    page: str


def main(arguments: list[str]) -> int:
    """Asks, writes the file and says the next command."""
    args = _parse(arguments)
    configure_logging("ERROR")

    from zsad_agent.system import write_whole  # pydantic takes longer than parsing

    path = args.out or _default_path()
    if path.exists() and not args.force:
        raise ConfigError(f"{path}: exists already. Name another file with --out, or replace it with --force")
    answers = ask_all(args, ask if sys.stdin.isatty() and not args.yes else None)
    is_known = _is_known(answers.product)
    text = as_yaml(answers, path, starts=is_known or _may_be_new(answers.product))
    _check(text, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode(), mode=FILE_MODE)
    if path.parent.stat().st_mode & stat.S_ISGID:  # of an installed service, whose group writes too
        path.chmod(FILE_MODE)
    print(next_steps(answers, path, is_known=is_known))
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser(
        "init",
        "Asks five questions and writes a commented config. Each question is also a flag.",
        examples="zsad-agent init\nzsad-agent init --out agent.yaml --yes --camera 0 --broker mqtt://broker:1883",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--camera", metavar="INDEX|PATH", help="V4L2 camera: 0, or /dev/v4l/by-id/…; default: the first")
    where.add_argument("--source", metavar="URI", help="RTSP or HTTP URL, video file, picture, folder or glob")
    where.add_argument("--aravis", metavar="VENDOR-SERIAL", help="GenICam camera, or its IP address")
    parser.add_argument("--product", metavar="NAME", help=f"what is inspected; default: {GENERIC}, the generic one")
    parser.add_argument("--broker", metavar="URL", help=f"mqtt[s]://host[:port]; default: {BROKER}")
    parser.add_argument("--trigger", choices=TRIGGERS, help="when a frame is inspected; default: free, every frame")
    parser.add_argument("--page", metavar="HOST:PORT", help=f"address of the page, or off; default: {PAGE}")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="default: /etc/zsad-agent/agent.yaml if it can be written, else agent.yaml",
    )
    parser.add_argument(
        "--yes", action="store_true", help="ask nothing: take the defaults for flags that are not given"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    args = parser.parse_args(arguments)
    if not args.yes and not sys.stdin.isatty():
        parser.error("no terminal to ask questions on: add --yes, and flags for other answers than the defaults")
    return args


def _default_path() -> Path:
    from zsad_agent.config import DEFAULT_CONFIG_PATH

    return DEFAULT_CONFIG_PATH if os.access(DEFAULT_CONFIG_PATH.parent, os.W_OK) else Path("agent.yaml")


def ask(question: str, default: str) -> str:
    """The answer on the terminal; the default for an empty one."""
    try:
        return input(f"{question} [{default}]: ").strip() or default
    except EOFError:
        raise ConfigError("no more answers: nothing was written") from None


def ask_all(args: argparse.Namespace, ask: Callable[[str, str], str] | None) -> Answers:
    """The five answers, each checked. Without `ask` a flag or a default is the answer."""
    key, source = _source(args, ask)

    def answer(number: int, text: str, flag: str | None, default: str, fault: Callable[[str], str | None]) -> str:
        value = flag
        while True:
            if value is None:
                value = default if ask is None else ask(f"{number}/5 {text}", default)
            if (told := fault(value)) is None:
                return value
            if ask is None or flag is not None:
                raise ConfigError(told)
            print(f"    {told}")
            value = None

    product = answer(2, "Product, the name of what is inspected", args.product, GENERIC, _product_fault)
    broker = answer(3, "MQTT broker", args.broker, BROKER, lambda value: _fault("mqtt", broker=value))
    if ask is not None:
        print(f"    {_tried(broker)}")
    told = ", ".join(TRIGGERS)
    in_source = {key: source}
    trigger = answer(4, f"Trigger ({told})", args.trigger, "free", lambda value: _trigger_fault(in_source, value))
    page = answer(
        5,
        "Address of the page, or off (0.0.0.0:8080: every network, once a password is set)",
        args.page,
        PAGE,
        lambda value: _fault("web", listen=value),
    )
    return Answers(source_key=key, source=source, product=product, broker=broker, trigger=trigger, page=page)


def _source(args: argparse.Namespace, ask: Callable[[str, str], str] | None) -> tuple[str, str]:
    """`camera`, `source` or `aravis`, and its value. On the terminal the cameras that were found are named."""
    given_key = next((key for key in ("camera", "source", "aravis") if getattr(args, key) is not None), None)
    given_value = None if given_key is None else getattr(args, given_key)
    found = [*probing.list_devices(), *probing.list_genicam()] if given_value is None else []
    genicam = {device.id for device in found if device.key == "aravis"}
    first = (found[0].by_id or found[0].path) if found else "0"
    if given_value is None and ask is not None:
        names = [f"    {camera.by_id or camera.path}: {camera.name}" for camera in found]
        print("\n".join(names) or "    No camera was found.")
    while True:
        value = given_value
        if value is None:
            value = first if ask is None else ask("1/5 Camera, or a stream's URL, video, picture or folder", first)
        is_camera = value.isdigit() or value.startswith("/dev/")
        key = given_key or ("aravis" if value in genicam else "camera" if is_camera else "source")
        if (told := _fault("source", **{key: value})) is None:
            break
        if ask is None or given_value is not None:
            raise ConfigError(told)
        print(f"    {told}")
    if key == "source" and "://" not in value:
        value = os.path.abspath(os.path.expanduser(value))  # noqa: PTH100, PTH111 - a glob too; a service runs elsewhere
    return key, value


def _tried(broker: str) -> str:
    """What the broker says; it is no fault if it does not answer."""
    from zsad_agent.config import MqttConfig

    return probing.probe_broker(MqttConfig(broker=broker))[1]


def _fault(section: str, **values: str) -> str | None:
    """What the config says about a section with these values."""
    from zsad_agent.config import load_settings

    try:
        load_settings(Path(os.devnull), {section: given(**values)})
    except ConfigError as error:
        return str(error).replace("command line: ", "", 1)
    return None


def _trigger_fault(source: dict[str, str], trigger: str) -> str | None:
    """As `_fault`; with a PLC the file gets what `trigger: plc` needs."""
    return _fault("source", **source, trigger="mqtt" if trigger == "plc" else trigger)


def _product_fault(name: str) -> str | None:
    from zsad_core.bundle import product_name

    try:
        product_name(name)
    except ValueError as error:
        return str(error)
    return None


def _is_known(product: str) -> bool:
    """Whether the bundle that ships, or what was taught here, has this product."""
    from zsad_agent.config import SHIPPED_BUNDLE, default_state_dir
    from zsad_core.bundle import load_bundle

    if teaching.ProfileStore(default_state_dir() / "profiles").has(product):
        return True
    try:
        load_bundle(SHIPPED_BUNDLE).prompt(product)
    except ProductError:
        return False
    return True


def _may_be_new(product: str) -> bool:
    """Whether the agent starts with the product although it does not know it."""
    from zsad_agent.config import SHIPPED_BUNDLE, default_state_dir
    from zsad_core.bundle import load_bundle

    store = teaching.ProfileStore(default_state_dir() / "profiles")
    return teaching.is_new(product, load_bundle(SHIPPED_BUNDLE).manifest.products, store)


def as_yaml(answers: Answers, path: Path, *, starts: bool) -> str:
    """The config. A product with which the agent does not start is a comment until it is taught."""
    product = f"  product: {_quoted(answers.product)}"
    if not starts:
        product = f"  product: {GENERIC}    # until yours is taught, then:\n  # product: {_quoted(answers.product)}"
    return (TEMPLATE + PLC * (answers.trigger == "plc")).format(
        example=EXAMPLE if EXAMPLE.exists() else "systemd/agent.yaml of the source",
        path=path,
        triggers="; ".join(f"{name}: {what}" for name, what in TRIGGERS.items()),
        source_key=answers.source_key,
        source=_quoted(answers.source),
        product=product,
        trigger=answers.trigger,
        broker=_quoted(answers.broker),
        page=_quoted(answers.page),
    )


def _quoted(text: str) -> str:
    """A string of JSON, which YAML reads as the same text."""
    return json.dumps(text, ensure_ascii=False)


def _check(text: str, path: Path) -> None:
    """Raises ConfigError with the faults that `zsad-agent check` would name."""
    from zsad_agent.cli.check import faults_in

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        trial.write_text(text, encoding="utf-8")
        faults = [fault.replace(str(trial), str(path), 1) for fault in faults_in(trial, {})]
    if faults:
        raise ConfigError("\n".join([*faults, f"{path}: not written"]))


def next_steps(answers: Answers, path: Path, *, is_known: bool) -> str:
    """What was done, and the commands to go on with."""
    from zsad_agent.config import DEFAULT_CONFIG_PATH, OFF

    is_service = path == DEFAULT_CONFIG_PATH
    config = "" if is_service else f" --config {shlex.quote(str(path))}"
    lines = [f"Wrote {path}. Next:", f"  zsad-agent doctor{config}"]
    service = "  sudo systemctl enable --now zsad-agent    # if it runs already: sudo systemctl restart zsad-agent"
    lines.append(service if is_service else f"  zsad-agent{config}")
    if answers.page != OFF:
        lines.append(f"  then open http://{answers.page}")
    if not is_known:
        flag = "" if answers.source_key == "aravis" else f" --{answers.source_key} {shlex.quote(answers.source)}"
        lines.append(f"  zsad-agent teach{flag or config} --product {shlex.quote(answers.product)}   # or on the page")
    return "\n".join(lines)
