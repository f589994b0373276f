"""The format of the log: text for people or the journal, or JSON, one object per line. Without credentials."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Literal, TextIO

from zsad_agent.system.text import printable
from zsad_core.redaction import redacted_text


class TextFormatter(logging.Formatter):
    """One line, and a traceback on further lines if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself. A file's name in it may hold a line break, which must not forge another line."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The whole record with redacted addresses, as a second protection behind the places that log them."""
        return redacted_text(super().format(record))


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", "exception"}` in one line, whatever the texts hold."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record, redacted; `exception` is a traceback, or absent."""
        at = datetime.fromtimestamp(record.created, UTC)
        entry = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redacted_text(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = redacted_text(self.formatException(record.exc_info))
        return json.dumps(entry)


def configure_logging(level: str, log_format: Literal["text", "json"] = "text") -> None:
    """Sends every record from `level` up to stderr. Does nothing if another program has set up the root logger."""
    root = logging.getLogger()
    ours = next((handler for handler in root.handlers if isinstance(handler, _OurHandler)), None)
    if ours is None and root.handlers:
        return
    if ours is None:
        ours = _OurHandler()
        root.addHandler(ours)
    ours.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_text_layout()))
    root.setLevel(level)


class _OurHandler(logging.StreamHandler[TextIO]):
    """Our handler to stderr; its class tells it from handlers of other programs."""


def _text_layout() -> str:
    under_systemd = "JOURNAL_STREAM" in os.environ  # the journal adds the time itself
    return "%(levelname)s %(message)s" if under_systemd else "%(asctime)s %(levelname)s %(message)s"
