"""A store of bundles for tests: a real HTTPS server on loopback that also misbehaves on request."""

import contextlib
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

from certificate_maker import Authority, Pair

ENDLESS_S = 30.0


class BundleStoreServer:
    """Serves the files of `folder`, with Range. The first part of the path may ask for a fault:

    `/redirect/<url>`, `/endless/<file>` (more bytes than the file), `/cut/<file>` (each answer ends after 10 kB),
    `/busy/<file>` (503 twice, then the file), `/drip/<file>` (a header that never ends), `/slow/<file>` (100 kB a
    second), `/zeros/<file>` (the right size).
    """

    def __init__(self, folder: Path, pair: Pair | None = None) -> None:
        """`pair`: None for plain HTTP."""
        self.folder = folder
        self.asked: list[str] = []  # path and Range of each request
        outer = self

        class Handler(_Handler):
            store = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.cert, pair.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.url = f"{'https' if pair else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def https_store(folder: Path, authority: Authority) -> BundleStoreServer:
    """A store with a certificate of the authority."""
    return BundleStoreServer(folder, authority.sign("store"))


class _Handler(BaseHTTPRequestHandler):
    store: BundleStoreServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        ranged = self.headers.get("Range")
        self.store.asked.append(f"{self.path} {ranged or ''}".strip())
        self.close_connection = True
        fault, _, rest = self.path.lstrip("/").partition("/")
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", rest)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked_before = sum(one.split()[0] == self.path for one in self.store.asked) - 1
        if fault == "busy" and asked_before < 2:
            self.send_error(503)
            return
        with contextlib.suppress(OSError):  # the client may leave at any time
            self._send(fault, self.store.folder / (rest or fault), ranged)

    def _send(self, fault: str, file: Path, ranged: str | None) -> None:
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        start = int(re.fullmatch(r"bytes=(\d+)-", ranged)[1]) if ranged else 0  # type: ignore[index]
        if fault == "zeros":
            content = bytes(len(content))
        self.send_response(206 if start else 200)
        if fault == "drip":
            end_s = time.monotonic() + ENDLESS_S
            while time.monotonic() < end_s:
                self.wfile.write(b"X-Drip: 1\r\n")
                time.sleep(0.1)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if fault != "endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if fault == "cut":
            self.wfile.write(content[start : start + 10_000])
        elif fault == "slow":
            for at in range(start, len(content), 5000):
                self.wfile.write(content[at : at + 5000])
                time.sleep(0.05)
        else:
            self.wfile.write(content[start:])
        end_s = time.monotonic() + ENDLESS_S
        while fault == "endless" and time.monotonic() < end_s:
            self.wfile.write(bytes(100_000))
