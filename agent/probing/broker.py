"""Connects to a broker once, as the agent would."""

import contextlib
import secrets
import socket
import threading
import time
from concurrent.futures import Future

from paho.mqtt.enums import MQTTProtocolVersion

from zsad_agent.config import EMBEDDED_BROKER, MqttConfig
from zsad_agent.mqtt import (
    BrokerConnection,
    LinkCutError,
    LinkDownError,
    LinkSilentError,
    LinkVersionError,
    ProtocolChoice,
)
from zsad_agent.system import in_thread
from zsad_core.errors import ZsadError

LIMIT_S = 5.0
ANSWER_S = 2.0  # for the broker's answer to one version of MQTT
_busy = threading.Lock()


def probe_broker(config: MqttConfig, *, password: str | None = None) -> tuple[bool, str]:
    """Whether the broker accepts this agent, and the same in words, within `LIMIT_S`.

    Args:
        config: broker, TLS, username and client id; without an id a random one is used.
        password: in place of that of `config`.

    Raises:
        ZsadError: another broker is being tried.
    """
    if config.broker == EMBEDDED_BROKER:
        return True, "this broker runs inside the agent"
    if not _busy.acquire(blocking=False):
        raise ZsadError("another broker is being tried: wait a few seconds")
    tried: Future[str] = in_thread("probe-broker", lambda: _connect(config, password))
    tried.add_done_callback(lambda _: _busy.release())
    try:
        return True, tried.result(LIMIT_S)
    except TimeoutError:
        return (
            False,
            f"{config.broker}: no answer within {LIMIT_S:g} s. Check the address, the port and the network",
        )
    except (LinkDownError, ZsadError) as error:
        return False, f"{config.broker}: {error}"


def _connect(config: MqttConfig, password: str | None) -> str:
    """What was accepted.

    Raises:
        LinkDownError: nothing was.
        ConfigError: a file of the config cannot be used.
    """
    client_id = config.client_id or f"zsad-probe-{secrets.token_hex(4)}"
    protocols = list(ProtocolChoice(config.protocol).to_try())
    while True:
        protocol = protocols.pop(0)
        link = BrokerConnection(config, client_id=client_id, will=None, protocol=protocol, password=password)
        try:
            with contextlib.closing(link):
                _open(link)
        except (LinkVersionError, LinkCutError, LinkSilentError):  # as brokers without MQTT 5 react
            if not protocols:
                raise
            continue
        version = "5" if protocol == MQTTProtocolVersion.MQTTv5 else "3.1.1"
        return f"connected with MQTT {version}"


def _open(link: BrokerConnection) -> None:
    link.dial()
    deadline_s = time.monotonic() + ANSWER_S
    awake, wake = socket.socketpair()
    with awake, wake:
        while not link.accepted:
            if (end := link.poll(wake, 0.2).end) is not None:
                raise end
            if time.monotonic() > deadline_s:
                raise LinkSilentError("the broker does not answer. Check the port")
        link.say_goodbye()
        link.poll(wake, 0.0)
