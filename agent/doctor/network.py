"""Broker, certificates, and the ports of the page and of /metrics."""

import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from zsad_agent.config import OFF, AgentConfig, Settings, split_listen
from zsad_agent.doctor.finding import Finding
from zsad_agent.doctor.machine import place_of
from zsad_agent.probing import probe_broker
from zsad_agent.serving import CERTIFICATE

SOON_DAYS = 30
ANSWER_S = 3.0


def check_broker(config: AgentConfig) -> Iterator[Finding]:
    """Connects once, with the config's user and certificates, and with a client id of its own."""
    accepted, text = probe_broker(config.mqtt.model_copy(update={"client_id": None}))
    advice = (
        "correct mqtt in the config, or install a broker: apt-get install mosquitto. Results wait on disk until then"
    )
    yield Finding(check="broker", state="ok" if accepted else "fail", text=text, advice="" if accepted else advice)


def check_certificates(settings: Settings) -> Iterator[Finding]:
    """When each certificate of the config, and the page's own one, ends."""
    config, state = settings.config, place_of(settings).state
    tls = config.mqtt.tls if config.mqtt.broker.startswith("mqtts:") else None
    own = state / CERTIFICATE if config.web.generate_certificate else None
    files = {
        "web.certificate": config.web.certificate or (own if own is not None and own.exists() else None),
        "mqtt.tls.cert_file": None if tls is None else tls.cert_file,
        "mqtt.tls.ca_file": None if tls is None else tls.ca_file,
    }
    for name, file in files.items():
        if file is not None:
            yield _certificate(name, file)


def _certificate(name: str, file: Path) -> Finding:
    try:
        every_end = [one.not_valid_after_utc for one in x509.load_pem_x509_certificates(file.read_bytes())]
    except (OSError, ValueError) as error:
        return Finding(check=name, state="fail", text=f"{file}: {error}", advice="name a PEM file that can be read")
    ends = max(every_end) if name == "mqtt.tls.ca_file" else min(every_end)  # of several authorities, one is enough
    days = (ends - datetime.now(UTC)).days
    text = f"{file}: ends on {ends:%Y-%m-%d}, in {days} days"
    if days < 0:
        return Finding(check=name, state="fail", text=text, advice="renew it, then restart the agent")
    soon = days < SOON_DAYS
    return Finding(check=name, state="warn" if soon else "ok", text=text, advice="renew it soon" if soon else "")


def check_ports(config: AgentConfig) -> Iterator[Finding]:
    """Whether the addresses are free, or the agent's own."""
    for name, key, listen in (("page", "web", config.web.listen), ("metrics", "http", config.http.listen)):
        if listen != OFF:
            yield _port(name, key, listen)


def _port(name: str, key: str, listen: str) -> Finding:
    host, port = split_listen(listen)
    if is_agent(listen):
        return Finding(check=name, state="ok", text=f"{listen}: the agent answers there")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server((str(address[0]), port), family=family).close()
    except OSError as error:
        advice = f"choose another port in {key}.listen; ss -ltnp shows who uses this one"
        return Finding(check=name, state="fail", text=f"{listen}: {error.strerror}", advice=advice)
    return Finding(check=name, state="ok", text=f"{listen}: free")


def agent_runs(config: AgentConfig) -> bool:
    """Whether an agent with these addresses runs."""
    return is_agent(config.http.listen) or is_agent(config.web.listen)


def is_agent(listen: str) -> bool:
    """Whether an agent answers at an address; always False for off."""
    if listen == OFF:
        return False
    host, port = split_listen(listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    unchecked = ssl.create_default_context()
    unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE  # nothing secret is sent
    for connection in (
        http.client.HTTPConnection(host, port, timeout=ANSWER_S),
        http.client.HTTPSConnection(host, port, timeout=ANSWER_S, context=unchecked),
    ):
        try:
            connection.request("GET", "/metrics")
            if b"\n# HELP zsad_" in b"\n" + connection.getresponse().read(1_000_000):
                return True
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
    return False
