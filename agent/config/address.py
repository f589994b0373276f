"""Checks the address of a stream or broker. A camera process imports it, so it does not import pydantic."""

import ipaddress
import re
from collections.abc import Collection
from typing import NamedTuple

STREAM_SCHEMES = ("http", "https", "rtsp", "rtsps")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_ENCODED = "Percent-encode these characters in a user name or password: %23 for #, %2F for /, %3F for ?, %40 for @"
_YAML = "YAML ends a value at a blank and #: put it in quotes"


class Address(NamedTuple):
    """A URL in its parts."""

    url: str  # with the scheme in lower case
    scheme: str
    user: str  # user:password; empty if there is none
    host: str  # without brackets
    port: int | None
    rest: str  # path and query


def is_url(text: str) -> bool:
    """Whether a text has a scheme and `://`, unlike a path."""
    return _URL.match(text) is not None


def parse_address(url: str, schemes: Collection[str]) -> Address:
    """The parts of a URL with one of `schemes`.

    Raises:
        ValueError: what is wrong and what to write. It holds no part of the URL except the scheme.
    """
    match = _URL.fullmatch(url)
    allowed = " or ".join(f"{scheme}://host[:port]" for scheme in sorted(schemes))
    if match is None:
        raise ValueError(f"expected {allowed}")
    scheme, authority, rest = match["scheme"].lower(), match["authority"], match["rest"]
    if scheme not in schemes:
        raise ValueError(f"scheme {match['scheme']!r} is not known: expected {allowed}. A file is named by its path")
    if any(character.isspace() or not character.isprintable() for character in url):
        raise ValueError("a blank or control character: remove it, or write %20 for a blank")
    if "#" in rest:
        raise ValueError(f"a # ends the address there. {_ENCODED}")
    user, at, host_port = authority.rpartition("@")
    if re.search(r"[@\[\]]|%(?![0-9A-Fa-f]{2})", user):
        raise ValueError(f"a character in the user name or password needs an escape. {_ENCODED}, %25 for %")
    host, port = _host_and_port(host_port, at_follows=not at and "@" in rest)
    return Address(scheme + url[len(scheme) :], scheme, user, host, port, rest)


def _host_and_port(text: str, *, at_follows: bool) -> tuple[str, int | None]:
    """`at_follows`: an @ comes after the host, so that `text` may be the beginning of user and password."""
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text)
    if bracketed is not None:
        host, port = bracketed[1], bracketed[2]
        _check_ip(ipaddress.IPv6Address, host)
    else:
        host, colon, port_text = text.partition(":")
        port = port_text if colon else None
        if ":" in (port or ""):
            raise ValueError(f"more than one colon. Write an IPv6 address in brackets: [::1]. {_ENCODED}")
        if re.fullmatch(r"[0-9.]+", host):
            _check_ip(ipaddress.IPv4Address, host)
    if not host:
        raise ValueError("there is no host")
    if port is not None and not re.fullmatch(r"[0-9]{1,9}", port):
        raise ValueError(f"expected a port number after the host's colon. {_ENCODED}. {_YAML}")
    if port is not None and not 1 <= int(port) <= 65_535:
        raise ValueError("expected a port from 1 to 65535")
    if at_follows and port is not None and "." not in host:
        raise ValueError(f"an @ after the path began. {_ENCODED}")
    if bracketed is None and not all(character.isalnum() or character in "-._" for character in host):
        raise ValueError("the host has a character that no host name has")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host has no name before or after a dot, or one of more than 63 characters") from None
    return host, int(port) if port is not None else None


def _check_ip(kind: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address], host: str) -> None:
    try:
        kind(host.replace("%25", "%"))
    except ValueError:
        raise ValueError(f"the host is not an {kind.__name__[:4]} address") from None
