"""A camera on the network: motion JPEG over HTTP."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2

from zsad_core.picture import read_image

FRAMES_PER_S = 30.0


@contextmanager
def network_camera(folder: Path) -> Iterator[str]:
    """Shows the pictures of a folder again and again until the end of the block. Gives its URL."""
    pictures = [cv2.imencode(".jpg", read_image(path))[1].tobytes() for path in sorted(folder.glob("*.jpg"))]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            next_s = time.monotonic()
            while True:
                for jpeg in pictures:
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    try:
                        self.wfile.write(head.encode() + jpeg + b"\r\n")
                    except OSError:  # the agent has ended
                        return
                    next_s += 1 / FRAMES_PER_S
                    time.sleep(max(0.0, next_s - time.monotonic()))

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/camera.mjpg"
        server.shutdown()
