"""Text of one line, and moments as text: for messages, the log and the terminal."""

from datetime import UTC, datetime


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as in `2026-11-22T10:28:03.123Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """On one line, and without what would steer a terminal: a file's name may hold anything."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
