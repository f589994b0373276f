"""An MQTT broker inside the agent's process, for a demo without a separate broker."""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zsad_agent.config import EMBEDDED_LISTEN, MqttConfig, split_listen
from zsad_agent.system import Service
from zsad_core.errors import BrokerError

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

LOOPBACK, DEFAULT_PORT = split_listen(EMBEDDED_LISTEN)
START_S = 10.0
STOP_S = 1.0
NOISY_LOGGERS = ("amqtt", "transitions")  # they log every packet and every disconnect


class EmbeddedBroker(Service):
    """Runs amqtt in its own thread and event loop, on loopback only, without persistence. MQTT 3.1.1."""

    name = "embedded broker"
    stop_s = 2 * STOP_S

    def __init__(self, port: int | None = None) -> None:
        """`port` is the port to listen on; None: 1883, or a free port if that is used."""
        self._wanted_port = port
        self.port = 0  # until `start`
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None

    def start(self) -> None:
        """Returns when the broker accepts connections.

        Raises:
            BrokerError: amqtt is not installed, the port is used, or the broker does not start.
        """
        try:
            from amqtt.broker import Broker
        except ImportError as error:
            raise BrokerError(
                "the embedded broker needs amqtt: pip install 'zsad-agent[embedded-broker]', or name a broker with "
                "--broker mqtt://host"
            ) from error
        self.port = _claim_port(self._wanted_port)
        for name in NOISY_LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._thread = threading.Thread(target=self._run, args=(Broker,), name="zsad-broker", daemon=True)
        self._thread.start()
        if not self._started.wait(START_S) or self._failure is not None:
            raise BrokerError(f"the embedded broker on port {self.port} does not start: {self._failure}")
        logger.info("embedded broker at %s", self.url)

    def stop(self, deadline_s: float) -> None:
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended already
                self._loop.call_soon_threadsafe(self._stop.set)
            self._wait(deadline_s)

    @property
    def url(self) -> str:
        """The URL for `mqtt.broker`."""
        return f"mqtt://{LOOPBACK}:{self.port}"

    def reached_by(self, config: MqttConfig) -> MqttConfig:
        """`config` with this broker's address and MQTT 3.1.1: it does not answer MQTT 5."""
        return config.model_copy(update={"broker": self.url, "protocol": "3.1.1"})

    def _run(self, make_broker: Callable[..., Any]) -> None:
        import asyncio  # 2 MB that an agent with another broker does not need

        try:
            asyncio.run(self._serve(make_broker))
        except Exception as error:
            if self._started.is_set():
                logger.exception("the embedded broker has failed")
            self._failure = error
            self._started.set()

    async def _serve(self, make_broker: Callable[..., Any]) -> None:
        import asyncio

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        settings: dict[str, Any] = {
            "listeners": {"default": {"type": "tcp", "bind": f"{LOOPBACK}:{self.port}"}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
        broker = make_broker(settings)
        await broker.start()
        self._started.set()
        await self._stop.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(broker.shutdown(), STOP_S)


def _claim_port(wanted: int | None) -> int:
    """`wanted`; if None 1883, or any free port if 1883 is used.

    Raises:
        BrokerError: `wanted` is used or not allowed.
    """
    for port in (wanted,) if wanted is not None else (DEFAULT_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                reason = error.strerror
                continue
            return int(probe.getsockname()[1])
    raise BrokerError(f"the embedded broker cannot listen on {LOOPBACK}:{wanted}: {reason}. Name another port.")
