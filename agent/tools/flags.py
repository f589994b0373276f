"""Flags that several commands have, and the config that they give."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.errors import ConfigError, ImageError

if TYPE_CHECKING:  # numpy and pydantic take longer than parsing
    import numpy as np

    from zsad_agent.config import AgentConfig, CameraConfig
    from zsad_agent.teaching import ProfileStore


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps a text of one line; the lines of a longer one, as of examples, stay."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def command_parser(command: str, description: str, *, examples: str, note: str = "") -> argparse.ArgumentParser:
    """The parser of `zsad-agent COMMAND`, or of the daemon for an empty command.

    Args:
        command: its name.
        description: the text above the flags.
        examples: whole commands, one a line, shown below the flags.
        note: lines below the examples.
    """
    shown = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    return argparse.ArgumentParser(
        prog=f"zsad-agent {command}".strip(),
        description=description,
        epilog=f"examples:\n{shown}" + (f"\n\n{note}" if note else ""),
        formatter_class=_HelpFormatter,
    )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """`--camera` or `--source`, and `--config`."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--camera", metavar="INDEX|PATH", help="V4L2 camera: 0, or /dev/v4l/by-id/…")
    where.add_argument("--source", metavar="URI", help="RTSP or HTTP URL, video file, picture, folder or glob")
    add_config_flag(parser)


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """`--config`."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="YAML config; default: /etc/zsad-agent/agent.yaml if there is one"
    )


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """`--bundle` and `--product`."""
    parser.add_argument(
        "--bundle", type=Path, metavar="PATH", help="folder, .zip or name of a shipped bundle; default: zsad-small"
    )
    parser.add_argument(
        "--product",
        metavar="NAME",
        help="a taught one or one of the bundle's; default: the generic one, object",
    )


def add_profile_flags(parser: argparse.ArgumentParser) -> None:
    """`--profiles` or `--no-profile`."""
    what = parser.add_mutually_exclusive_group()
    add_profiles_flag(what)
    what.add_argument(
        "--no-profile", dest="profiles", action="store_const", const=Path("off"), help="use nothing that was taught"
    )


def add_profiles_flag(parser: argparse._ActionsContainer) -> None:
    """`--profiles`."""
    parser.add_argument(
        "--profiles", type=Path, metavar="DIR", help="folder of what was taught; default: profiles in the state folder"
    )


def add_threshold_flag(parser: argparse.ArgumentParser) -> None:
    """`--threshold`."""
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="score in [0, 1]; default: as taught, else the bundle's"
    )


def add_rate_flag(parser: argparse.ArgumentParser) -> None:
    """`--false-reject-rate`."""
    parser.add_argument(
        "--false-reject-rate",
        type=float,
        default=0.01,
        metavar="R",
        help="share of good parts that may be rejected, between 0 and 1; default %(default)s",
    )


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    """`--bit-depth` and `--unchecked`."""
    parser.add_argument(
        "--bit-depth",
        choices=("auto", "8", "10", "12", "14", "16"),
        default="auto",
        help="low bits of a 16-bit file that hold the picture; default: %(default)s, as the file states, else 16",
    )

    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="score dark, overexposed and plain pictures too; the daemon has limits for them in source.health",
    )


def read_part(path: Path, args: argparse.Namespace, camera: CameraConfig | None = None) -> np.ndarray:
    """The picture as the daemon reads it, uint8 BGR [H, W, 3]. `args`: of `add_picture_flags`.

    Raises:
        ImageError: it cannot be read, or is dark, overexposed or plain.
    """
    from zsad_agent.config import CameraConfig
    from zsad_agent.picture_health import unfit
    from zsad_core.picture import read_image

    camera = camera or CameraConfig()
    image = read_image(path, camera.used_bits if args.bit_depth == "auto" else int(args.bit_depth))
    if not args.unchecked and (finding := unfit(image, camera.health)):
        raise ImageError(f"{finding.reason}. --unchecked scores it")
    return image


def profile_store(config: AgentConfig, state_dir: Path | None = None) -> ProfileStore | None:
    """What was taught, by default in `state_dir` or the user's state folder; None with `--no-profile`."""
    from zsad_agent.config import default_state_dir
    from zsad_agent.teaching import ProfileStore

    folder = config.profiles_folder(state_dir or default_state_dir())
    return None if folder is None else ProfileStore(folder, must_exist=config.profiles is not None)


def named_store(folder: Path | None, config: AgentConfig, *, may_be_new: bool) -> ProfileStore:
    """The store in `folder`, which is made if it `may_be_new`; by default that of the config.

    Raises:
        ConfigError: neither names a folder.
    """
    from zsad_agent.teaching import ProfileStore

    store = profile_store(config) if folder is None else ProfileStore(folder, must_exist=not may_be_new)
    if store is None:
        raise ConfigError("profiles is off in the config: name a folder with --profiles")
    return store


def count(text: str) -> int:
    """A whole number from 1, as the type of an argument."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def given(**flags: Any) -> dict[str, Any]:
    """The flags that are on the command line."""
    return {name: value for name, value in flags.items() if value is not None}


def model_config(args: argparse.Namespace, *, threshold: float | None = None, **inference: Any) -> AgentConfig:
    """The config of a command that reads no config file: `args.bundle`, `.product`, `.profiles` and inference keys.

    Raises:
        ConfigError: one line per fault.
    """
    from zsad_agent.config import AgentConfig
    from zsad_core.config import validate

    values = {
        "inference": given(bundle=args.bundle, product=args.product, **inference),
        "decision": given(threshold=threshold),
        **given(profiles=getattr(args, "profiles", None)),
    }
    return validate(AgentConfig, values, "command line")
