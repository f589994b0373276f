"""Downloads from a hub, with a small real HTTP server."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("huggingface_hub")

from zsad_core.errors import WeightsError
from zsad_core.weights import fetch

FILES = {"/me/model/resolve/main/second.bin": b"weights"}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(FILES.get(self.path, b""))

    def answer(self, body):
        found = self.path in FILES
        self.send_response(200 if found else 404)
        self.send_header("X-Error-Code", "" if found else "EntryNotFound")
        self.send_header("X-Repo-Commit", "c0ffee")
        self.send_header("ETag", '"abc"')
        self.send_header("Content-Length", str(len(FILES.get(self.path, b""))))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # another test's environment may set it
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def get(endpoint, cache_dir, *filenames):
    return fetch("me/model", filenames, name_it_with="--weights", endpoint=endpoint, cache_dir=cache_dir)


def unused_endpoint():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{closed.getsockname()[1]}"


def test_the_first_available_file_is_downloaded_and_cached(endpoint, tmp_path):
    assert get(endpoint, tmp_path, "first.bin", "second.bin").read_bytes() == b"weights"
    assert get(unused_endpoint(), tmp_path, "first.bin", "second.bin").read_bytes() == b"weights"


def test_a_repository_without_the_file_is_named(endpoint, tmp_path):
    with pytest.raises(WeightsError, match=r"me/model has none of first\.bin, third\.bin"):
        get(endpoint, tmp_path, "first.bin", "third.bin")


def test_an_unreachable_hub_fails_at_once_and_names_the_file_to_download(tmp_path):
    nowhere = unused_endpoint()
    begun = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        get(nowhere, tmp_path, "first.bin", "second.bin")
    assert time.monotonic() - begun < 20  # the library's own retries take 30 s
    assert str(caught.value).startswith(f"{nowhere}/me/model/resolve/main/first.bin cannot be fetched: ")
    assert str(caught.value).endswith("Fetch it elsewhere and name the file with --weights.")
