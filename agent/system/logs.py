"""The format of the log: text for people or the journal, or JSON, one object per line. Without credentials."""

import json
import logging
import os
from datetime import UTC, datetime
from typing import Literal, TextIO

from zsad_agent.system.text import printable, utc_text
from zsad_core.redaction import redacted_text


class TextFormatter(logging.Formatter):
    """One line, and a traceback on further lines if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line itself. A line break in a file name must not look like another line of the log."""
        return printable(super().formatMessage(record))

    def format(self, record: logging.LogRecord) -> str:
        """The whole record with redacted addresses. Callers redact them too; this is the second protection."""
        return redacted_text(super().format(record))


class JsonFormatter(logging.Formatter):
    """One line with the keys time, level, logger, message, and with an exception its traceback as `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole record, redacted."""
        entry = {
            "time": utc_text(datetime.fromtimestamp(record.created, UTC)),
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
    if not root.handlers:
        root.addHandler(_OurHandler())
    for handler in root.handlers:
        if isinstance(handler, _OurHandler):
            under_systemd = "JOURNAL_STREAM" in os.environ  # the journal adds the time itself
            layout = "%(levelname)s %(message)s" if under_systemd else "%(asctime)s %(levelname)s %(message)s"
            handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(layout))
            root.setLevel(level)


class _OurHandler(logging.StreamHandler[TextIO]):
    """Our handler to stderr. Its class distinguishes it from handlers of other programs."""
