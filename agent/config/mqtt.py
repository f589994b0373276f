"""The settings of the connection to the broker, of incoming commands and of updates."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from zsad_agent.config.address import is_url, parse_address
from zsad_core.config import StrictModel

EMBEDDED_BROKER = "embedded"
EMBEDDED_LISTEN = "127.0.0.1:1883"  # the broker has no passwords, so it is not reachable from outside


def _broker_url(url: str) -> str:
    if url == EMBEDDED_BROKER:
        return url
    if not is_url(url):
        raise ValueError("expected mqtt://host[:port], mqtts://host[:port] or 'embedded'")
    address = parse_address(url, ("mqtt", "mqtts"))
    if address.user:
        raise ValueError("credentials do not belong in the URL: set username and password_file")
    if address.rest not in ("", "/"):
        raise ValueError("expected mqtt://host[:port] with nothing after it; the topic prefix is mqtt.topic_prefix")
    return address.url


class TlsConfig(StrictModel):
    """Settings of mqtts://. The broker's certificate and its host name are always checked."""

    ca_file: Path | None = None  # PEM of the trusted authorities; None: the system's
    cert_file: Path | None = None  # PEM of this agent's certificate, for a broker that requires one
    key_file: Path | None = None  # PEM of the certificate's key, without a passphrase

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: set both or neither")
        return self


class MqttConfig(StrictModel):
    broker: Annotated[str, AfterValidator(_broker_url)] = "mqtt://localhost:1883"
    protocol: Literal["auto", "5", "3.1.1"] = "auto"  # auto: 5, and 3.1.1 with a broker that does not know it
    # None: zsad-agent-<device_id>. No two clients of a broker may have the same
    client_id: Annotated[str, Field(pattern="^[!-~]{1,128}$")] | None = None
    username: str | None = None
    password_file: Path | None = None
    # the name that systemd's LoadCredential= gives the password file
    password_credential: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")] | None = None
    tls: TlsConfig = TlsConfig()
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}(/[A-Za-z0-9_.-]{1,64})*$")] = "zsad"
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    in_flight: Annotated[int, Field(ge=1, le=1000)] = 20  # results sent and not yet acknowledged

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.password_file is not None and self.password_credential is not None:
            raise ValueError("password_file and password_credential are both set: keep one of them")
        if not self.broker.startswith("mqtts:") and self.tls != TlsConfig():
            raise ValueError(f"tls is set, but broker is {self.broker}: change it to mqtts://host[:port]")
        return self


class ControlConfig(StrictModel):
    """Commands over MQTT. Off unless `enabled`."""

    enabled: bool = False
    # A command is {"value": …, "id": …, "sent_at": …}. An older command, or a known id, is refused as a replay.
    max_age_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    plain: bool = False  # also accept a bare value, for dashboards that cannot send JSON; replays are not detected
    bundle_dir: Path | None = None  # the folder with the bundles for `bundle/set`; None: no bundle switch


class UpdateConfig(StrictModel):
    """Bundles and profiles that a command names by URL and hash (`update/set`). Off unless `enabled`."""

    enabled: bool = False
    ca_file: Path | None = None  # PEM of the authorities for the store's certificate; None: the system's
    plain_http: bool = False  # also http:// to other machines; the hash and the signature are checked all the same
    unsigned: bool = False  # also without inference.trusted_keys: whoever may send commands chooses the bundle
    max_bytes: Annotated[int, Field(ge=1, le=10**11)] = 1_000_000_000  # of a file
    timeout_s: Annotated[float, Field(gt=0, le=604_800)] = 3600.0  # longest download, with all its attempts
    # names of groups of devices; zsad-fleet selects devices by them
    tags: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")], ...], Field(max_length=32)] = ()
