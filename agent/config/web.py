"""The settings of the page and API, and of the history of results."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from zsad_agent.config.address import parse_address
from zsad_core.config import StrictModel

OFF = "off"
OffInYaml = BeforeValidator(lambda value: OFF if value is False else value)  # YAML reads a bare off as False
_LISTEN = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


def listen_address(listen: str) -> str:
    """A checked `listen`: `off`, or host:port."""
    match = _LISTEN.fullmatch(listen)
    if listen != OFF and (match is None or int(match["port"]) > 65_535):
        raise ValueError("expected off or host:port, such as 127.0.0.1:8080 or 0.0.0.0:8080 for every network")
    return listen


def _webhook_url(url: str) -> str:
    address = parse_address(url, ("http", "https"))
    if address.user:
        raise ValueError("credentials do not belong in the URL: it is shown on the page and in logs")
    return address.url


def _time_of_day(value: Any) -> Any:
    """YAML reads 14:00 as the number 840, minutes."""
    return f"{value // 60:02}:{value % 60:02}" if type(value) is int and 0 <= value < 24 * 60 else value


ShiftStart = Annotated[str, BeforeValidator(_time_of_day), Field(pattern=r"^([01][0-9]|2[0-3]):(00|15|30|45)$")]


class WebhookConfig(StrictModel):
    """Gets each result with one of `verdicts`, as a POST of its JSON."""

    url: Annotated[str, AfterValidator(_webhook_url)]
    verdicts: Annotated[tuple[Literal["ok", "anomalous", "unknown"], ...], Field(min_length=1)] = ("anomalous",)


class WebConfig(StrictModel):
    """The page and its API. Off unless `listen` is set."""

    # host:port, such as 127.0.0.1:8080, or 0.0.0.0:8080 for every network. Off the loopback a password is needed.
    listen: Annotated[str, OffInYaml, AfterValidator(listen_address)] = OFF
    certificate: Path | None = None  # PEM of this device's certificate and those above it; None: no TLS
    key: Path | None = None  # PEM of the certificate's key, without a passphrase
    generate_certificate: bool = False  # TLS with a certificate that the agent makes itself
    session_h: Annotated[float, Field(gt=0, le=8760)] = 12.0  # hours from log-in to the next one
    webhooks: Annotated[tuple[WebhookConfig, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: set both or neither")
        if self.generate_certificate and self.certificate is not None:
            raise ValueError("generate_certificate and certificate are both set: keep one of them")
        if self.webhooks and not self.on:
            raise ValueError("webhooks are sent only while the page is on: set listen, for example 127.0.0.1:8080")
        return self

    @property
    def on(self) -> bool:
        return self.listen != OFF


class HistoryConfig(StrictModel):
    """Results in a database, for the page and its reports."""

    enabled: bool | None = None  # None: on when web is on. See `AgentConfig.keeps_history`
    max_days: Annotated[float, Field(gt=0, le=3650)] = 365.0
    max_bytes: Annotated[int, Field(ge=1_000_000, le=10**13)] = 2_000_000_000  # of the file
    path: Path | None = None  # None: history.sqlite3 in the service's state folder
    # local times at which the shifts of reports begin, in whole quarters of an hour
    shifts: Annotated[tuple[ShiftStart, ...], Field(min_length=1, max_length=24)] = ("06:00", "14:00", "22:00")


def is_loopback(host: str) -> bool:
    """Whether a host without brackets is an address of this machine's loopback, or `localhost`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def split_listen(listen: str) -> tuple[str, int]:
    """Host, without brackets, and port of a checked `listen`."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def is_same_port(listen: str, other: str) -> bool:
    """Whether two servers cannot have these addresses at once. Port 0 is any free one."""
    (host, port), (other_host, other_port) = split_listen(listen), split_listen(other)
    hosts = {"127.0.0.1" if one.lower() == "localhost" else one.lower() for one in (host, other_host)}
    return port == other_port != 0 and (len(hosts) == 1 or not hosts.isdisjoint({"0.0.0.0", "::"}))
