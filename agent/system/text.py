"""Text of one line, and moments as text: for messages, the log and the terminal."""

from datetime import UTC, datetime


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as in `2026-11-22T10:28:03.123Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """One line without control characters, which could change a terminal: a file name may hold any character."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def one_line(text: str, most: int) -> str:
    """UTF-8 without line breaks, at most `most` characters: for a message. Lines are joined by `; `."""
    lines = [" ".join(line.split()) for line in text.encode("utf-8", "replace").decode().splitlines()]
    return shortened("; ".join(line for line in lines if line), most)


def shortened(text: str, most: int) -> str:
    """At most `most` characters; an ellipsis stands for the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
