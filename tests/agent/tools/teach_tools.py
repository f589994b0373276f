"""Runs the commands of teach-in."""

import json
from pathlib import Path
from typing import Any

import pytest

from zsad_agent.cli.main import main


def teach(bundle: Path, *arguments: object, product: str = "nut", code: int = 0) -> None:
    words = ["teach", *map(str, arguments), "--bundle", str(bundle), "--product", product]
    assert main(words) == code


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def profiles(*words: object) -> int:
    return main(["profiles", *map(str, words)])
