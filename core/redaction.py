"""Hides credentials in the address of a source or broker: user, password, and the query, which may hold tokens."""

import re
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,3}")  # one slash is a common typing mistake
_USER_WITHOUT_SCHEME = re.compile(r"[^/]+:.*@", re.DOTALL)  # "user:password@host/x"; an @ alone is common in paths
# "user:password" of an address that was cut at a special character
_CUT_PASSWORD = re.compile(r"[^@:/?#\[\]]+:(?![0-9]*(?:[/?#]|[^A-Za-z0-9]{0,3}$))[^@]*$")
_LIKE_A_QUERY = re.compile(r"/.*[?#]|[?#].*=", re.DOTALL)
# In a longer text an address ends at a space. The lengths are bounded, because a long log line may have no space.
_ADDRESS = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]{0,20}:/{1,3}\S+|[^\s/:@"'(=]{1,64}:[^\s@]{1,256}@\S*""")


def redacted(text: str) -> str:
    """`rtsp://***@host/x?…` for an address with credentials and query; any other text unchanged.

    Everything up to the last @ is hidden, because a password that is not percent-encoded may contain @, / or ?. If the
    @ may belong to a query, a token may follow it; then only the scheme is shown.
    """
    scheme = _SCHEME.match(text)
    if scheme is None:
        return "***@" + text.rpartition("@")[2] if _USER_WITHOUT_SCHEME.match(text) else text
    if _CUT_PASSWORD.match(text, scheme.end()):
        return scheme[0] + "***"
    before, at, address = text[scheme.end() :].rpartition("@")
    if _LIKE_A_QUERY.search(before):
        return scheme[0] + "***"
    return scheme[0] + ("***@" if at else "") + re.sub(r"[?#].*", "?…", address, flags=re.DOTALL)


def redacted_text(text: str) -> str:
    """A longer text, such as a log line, with every address in it redacted."""
    return _ADDRESS.sub(lambda found: redacted(found[0]), text)


def redacted_values(values: Any) -> Any:
    """A config value, or a tree of values, with every text in it redacted."""
    if isinstance(values, str):
        return redacted(values)
    if isinstance(values, dict):
        return {key: redacted_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [redacted_values(value) for value in values]
    return values
