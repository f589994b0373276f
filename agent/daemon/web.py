"""Joins the page to the running agent. Imported only when `web.listen` is set."""

import contextlib
import itertools
import logging
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_agent.config import AgentConfig, is_loopback, split_listen
from zsad_agent.daemon.observer import Observer
from zsad_agent.history import HistoryStore
from zsad_agent.inspection import Evidence, Sink
from zsad_agent.monitoring import HealthApp, health_state
from zsad_agent.serving import (
    App,
    Guard,
    HttpServer,
    Limits,
    Webhooks,
    certificate_names,
    make_context,
    own_certificate,
)
from zsad_agent.system import Service
from zsad_agent.teaching import ProfileStore
from zsad_agent.web import HEALTH, SETTINGS, TEACH, Access, EventHub, EventWatch, LivePictures

if TYPE_CHECKING:
    from zsad_agent.web import Commands

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LIMITS = Limits(connections=256, head_s=5.0, body_s=60.0)
NICE = 5  # it works in the pauses of the inspection, also on a machine whose cores are all busy
BEGIN_S = 2.0  # the libraries are imported then, after the first verdicts, unless a browser comes earlier


class WebServer(HttpServer):
    """The page and its API. Off the loopback it listens only when a password is set."""

    name = title = "page"

    def __init__(self, config: AgentConfig, state_dir: Path, access: Access, make_app: Callable[[], App]) -> None:
        self._listen_at = split_listen(config.web.listen)
        self._web, self._state_dir, self._access = config.web, state_dir, access
        if self._web.certificate is not None or self._web.generate_certificate:
            self.scheme = "https"
        self._names = _names(self._listen_at[0], config.web.certificate)
        super().__init__(
            make_app, self._reachable_at, LIMITS, make_context=self._make_context, begin_s=BEGIN_S, nice=NICE
        )
        if not is_loopback(self._listen_at[0]):
            access.on_first_password = self.listen_again

    def start(self) -> None:
        super().start()
        if (closed_off := self._closed_off()) is not None:
            logger.warning("%s", closed_off)
        if self.scheme == "http" and not is_loopback(self._listen_at[0]):
            logger.warning(
                "web.listen is %s without TLS: passwords cross the network unencrypted. Set web.generate_certificate: "
                "true, or web.certificate and web.key",
                self._web.listen,
            )

    @property
    def fault(self) -> str | None:
        return super().fault or self._access.fault or self._closed_off()

    @property
    def names(self) -> frozenset[str]:
        return self._names

    def _reachable_at(self) -> tuple[str, int]:
        host, port = self._listen_at
        return (host if is_loopback(host) or self._access.passwords_set else LOOPBACK), port

    def _closed_off(self) -> str | None:
        if is_loopback(self._listen_at[0]) or self._access.passwords_set:
            return None
        return (
            f"page: web.listen is {self._web.listen}, but no password is set, so it answers on this machine only. Set "
            f"one at {self.scheme}://{LOOPBACK}:{self.port}, from another machine after: ssh -L {self.port}:{LOOPBACK}:"
            f"{self.port} THIS-MACHINE"
        )

    def _make_context(self) -> ssl.SSLContext | None:
        certificate, key = self._web.certificate, self._web.key
        if self._web.generate_certificate:
            names = {*self._names, *_outward_addresses(), "localhost", LOOPBACK, "::1"}
            certificate, key = own_certificate(self._state_dir, names)
        return None if certificate is None or key is None else make_context(certificate, key)


class Web:
    """What the page shows, gathered from the pipeline, and its server."""

    def __init__(self, config: AgentConfig, state_dir: Path, history: HistoryStore | None) -> None:
        """Starts nothing."""
        self._config, self._state_dir, self._history = config, state_dir, history
        self._events = EventHub()
        self._webhooks = Webhooks(config.web.webhooks) if config.web.webhooks else None
        self.sinks: Sequence[Sink] = (self._events,) if self._webhooks is None else (self._events, self._webhooks)
        self._live = LivePictures(None)

    def before(self, evidence: Evidence | None) -> LivePictures:
        """The live pictures, which pass everything on to the evidence."""
        self._live = LivePictures(evidence)
        return self._live

    def services(self, observer: Observer, health: HealthApp, commands: "Commands") -> list[Service]:
        """The services that report changes, not started yet. Teach-in has its own: reading its state may wait."""
        cameras = [station.name for station in observer.stations]

        def present() -> Iterator[tuple[str, dict[str, Any]]]:
            yield HEALTH, health_state(observer.snapshot(), health.missing()).model_dump(mode="json")
            for camera, key in itertools.product(cameras, ("threshold", "product", "paused")):
                yield SETTINGS, {"camera": camera, "key": key, **commands.state(camera, key)}

        def taught() -> Iterator[tuple[str, dict[str, Any]]]:
            for camera in cameras:
                yield TEACH, {"camera": camera, "state": commands.state(camera, "teach")["value"]}

        webhooks = [] if self._webhooks is None else [self._webhooks]
        return [*webhooks, EventWatch(self._events, present), EventWatch(self._events, taught)]

    def make_server(
        self,
        observer: Observer,
        *,
        health: HealthApp,
        commands: "Commands",
        profiles: ProfileStore | None,
        config_path: Path | None,
        check_config: Callable[[Path], Sequence[str]],
        reload: Callable[[], None],
    ) -> WebServer:
        """The server, which is not started yet."""
        config, state_dir = self._config, self._state_dir
        access = Access(state_dir, config.web.session_h)

        def make() -> App:
            from zsad_agent.web import WebParts, body_limit, make_app  # FastAPI: half a second

            evidence = config.evidence.path or state_dir / "evidence"
            parts = WebParts(
                config=config,
                config_path=config_path,
                check_config=check_config,
                reload=reload,
                state_dir=state_dir,
                version=observer.agent_version,
                snapshot=observer.snapshot,
                health=health,
                access=access,
                stations=observer.stations,
                models=observer.models,
                commands=commands,
                learner=observer.learner,
                profiles=profiles,
                evidence_folder=evidence if config.keeps_evidence else None,
                history=self._history,
                live=self._live,
                events=self._events,
                plc=observer.plant,
            )
            return Guard(make_app(parts), names=lambda: server.names, body_limit=body_limit)

        server = WebServer(config, state_dir, access, make)
        return server


def _names(host: str, certificate: Path | None) -> frozenset[str]:
    """The names by which a browser may call this machine, in lower case. No other site can point them to it."""
    own = socket.gethostname().lower()
    names = {own, f"{own}.local"} | ({host.lower()} - {"0.0.0.0", "::"})
    return frozenset(names | (certificate_names(certificate) if certificate is not None else set()))


def _outward_addresses() -> set[str]:
    """The addresses of this machine in its networks. Sends nothing: it only asks for the routes to two examples."""
    found = set()
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.add(str(probe.getsockname()[0]))
    return found
