"""`python -m zsad_agent.cli.man_page` prints the manual page, zsad-agent(1): the `--help` of every command."""

import contextlib
import io
import os
import sys
from importlib.metadata import version

from zsad_agent.cli.main import COMMANDS, main

LINE = 78  # characters


def man_page() -> str:
    """The page in the language of man(7)."""
    os.environ["COLUMNS"] = str(LINE)  # argparse wraps there
    return "\n".join(
        [
            f'.TH ZSAD-AGENT 1 "" "zsad-agent {version("zsad-agent")}" "User commands"',
            ".SH NAME",
            r"zsad-agent \- finds defects on a production line that it was never trained on",
            *_section("DESCRIPTION"),
            *(line for command in COMMANDS for line in _section(f"ZSAD-AGENT {command.upper()}", command)),
            ".SH FILES",
            "/etc/zsad-agent/agent.yaml",
            "",
        ]
    )


def _section(title: str, *arguments: str) -> list[str]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        main([*arguments, "--help"])
    return [f".SH {title}", ".nf", *(_as_text(line) for line in told.getvalue().splitlines()), ".fi"]


def _as_text(line: str) -> str:
    r"""Escapes what man(7) reads as its own: `\&` before a dot or quote that begins a line."""
    line = line.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    line = "".join(letter if letter.isascii() else rf"\[u{ord(letter):04X}]" for letter in line)
    return rf"\&{line}" if line.startswith(".") else line


if __name__ == "__main__":
    sys.stdout.write(man_page())
