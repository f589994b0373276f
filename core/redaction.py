"""A source's or broker's address as it may be shown: without user, password and query, where tokens live."""

import re
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,3}")  # one slash is a common slip
_USER_WITHOUT_SCHEME = re.compile(r"[^/]+:.*@", re.DOTALL)  # "user:password@host/x"; a path may well hold an @ alone
_LIKE_A_QUERY = re.compile(r"/.*[?#]|[?#].*=", re.DOTALL)
# in a longer text an address ends at a blank; bounded, since a log line may be long and without one
_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]{0,20}:/{1,3}\S+|[^\s/:@"'(=]{1,64}:[^\s@]{1,256}@\S*""")


def redacted(text: str) -> str:
    """`rtsp://***@host/x?…` for an address with credentials and query; any other text as it is.

    All up to the last @ is left out: a password that was not percent-encoded may itself hold @, / or ?. Where the @ may
    as well be of a query, whose token would then follow it, nothing but the scheme is shown.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return "***@" + text.rpartition("@")[2] if _USER_WITHOUT_SCHEME.match(text) else text
    before, at, address = text[scheme.end() :].rpartition("@")
    if _LIKE_A_QUERY.search(before):
        return scheme[0] + "***"
    return scheme[0] + ("***@" if at else "") + re.sub(r"[?#].*", "?…", address, flags=re.DOTALL)


def redacted_text(text: str) -> str:
    """A longer text, such as a line of a log, with every address in it redacted."""
    return _ADDRESS.sub(lambda found: redacted(found[0]), text)


def redacted_values(values: Any) -> Any:
    """A config's value, or a tree of them, with every text in it redacted."""
    if isinstance(values, str):
        return redacted(values)
    if isinstance(values, dict):
        return {key: redacted_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [redacted_values(value) for value in values]
    return values
