"""The stderr of a process that calls `configure_logging`."""

import json
import os
import subprocess
import sys

import pytest

from zsad_core.redaction import redacted_text

SCRIPT = """
import logging, sys
from zsad_agent.system import configure_logging
configure_logging(sys.argv[1], sys.argv[2])
logger = logging.getLogger("zsad_agent.x")
logger.debug("quiet")
logger.info("camera %s lost", "rtsp://admin:secret@10.0.0.1/live?token=secret")
logger.warning("line\\nINFO forged \\u2028 \\udce9 \\x1b[31m")
try:
    raise ValueError("mqtt://u:secret@host")
except ValueError:
    logger.exception("failed")
"""


def stderr_of(level: str, log_format: str, **environment: str) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"} | environment
    command = [sys.executable, "-c", SCRIPT, level, log_format]
    done = subprocess.run(command, capture_output=True, env=variables, timeout=180, check=True)
    return done.stderr.decode()


def test_json_log_has_one_object_a_line_for_any_text() -> None:
    lines = stderr_of("INFO", "json").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [sorted(entry) for entry in entries] == [["level", "logger", "message", "time"]] * 2 + [
        ["exception", "level", "logger", "message", "time"]
    ]
    assert entries[0]["message"] == "camera rtsp://***@10.0.0.1/live?… lost"
    assert entries[0]["time"].endswith("Z") and entries[0]["logger"] == "zsad_agent.x"
    assert entries[1]["message"].startswith("line\nINFO forged")
    assert entries[2]["exception"].endswith("ValueError: mqtt://***@host")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_credentials_are_logged(log_format: str) -> None:
    assert "secret" not in stderr_of("DEBUG", log_format)


def test_text_line_cannot_be_forged_and_a_traceback_stays_readable() -> None:
    lines = stderr_of("WARNING", "text").splitlines()
    assert lines[0].endswith(r"WARNING line\nINFO forged \u2028 \udce9 \x1b[31m")
    assert lines[1].endswith("ERROR failed")
    assert lines[2] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: mqtt://***@host"


def test_lines_for_the_journal_have_no_time() -> None:
    assert stderr_of("WARNING", "text", JOURNAL_STREAM="8:1").startswith("WARNING line")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("10:28:03 cam0 #12: 5 frames, see a@b", "10:28:03 cam0 #12: 5 frames, see a@b"),
        ("open rtsp://u:p@h/x: refused", "open rtsp://***@h/x: refused"),
        ("'rtsp://u:p@ss/w@h/x' and mqtts://h:8883", "'rtsp://***@h/x' and mqtts://h:8883"),
        ("user:pass@host/x is no URL", "***@host/x is no URL"),
        ("a=rtsp://u:p@h,rtsp://v:q@i", "a=rtsp://***@i"),
    ],
)
def test_addresses_in_a_text_are_redacted(text: str, shown: str) -> None:
    assert redacted_text(text) == shown


@pytest.mark.parametrize("text", ["a" * 200_000, "a:" * 100_000, "://" * 70_000, "a:b@" * 50_000])
def test_long_text_without_blanks_is_redacted_in_time(text: str) -> None:
    redacted_text(text)
