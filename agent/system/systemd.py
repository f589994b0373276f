"""The sd_notify protocol: datagrams to the socket that systemd names. Does nothing without systemd."""

import contextlib
import logging
import os
import socket
from collections.abc import Mapping

logger = logging.getLogger(__name__)


class Notifier:
    """Sends states to systemd. Every method does nothing without it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID of `environment`."""
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @ is an abstract socket
        self._status = ""
        self.watchdog_s: float | None = None  # interval of systemd's watchdog for this process; None: no watchdog
        with contextlib.suppress(KeyError, ValueError):
            interval_s = int(environment["WATCHDOG_USEC"]) / 1e6
            if interval_s > 0 and int(environment.get("WATCHDOG_PID", os.getpid())) == os.getpid():
                self.watchdog_s = interval_s

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`. A text that has not changed is not sent again."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.split()))

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode("utf-8", "replace"), self._address)
        except OSError as error:
            logger.debug("systemd cannot be notified: %s", error)
