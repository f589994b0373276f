"""Files of a folder, read once: what is not in it at the start is not served, so no path leads outside."""

import hashlib
from pathlib import Path

from zsad_agent.serving.asgi import Receive, Scope, Send, header, send_error, send_whole

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".txt": "text/plain; charset=utf-8",
}


class Files:
    """Answers GET and HEAD of `/` with `index.html`, and of `/<name>` with the file of this name. Lists nothing."""

    def __init__(self, folder: Path) -> None:
        """Reads the files whose type is known, also those in folders inside."""
        self._files: dict[str, tuple[str, bytes, bytes]] = {}  # path -> content type, content, ETag
        for path in sorted(folder.rglob("*")):
            content_type = TYPES.get(path.suffix)
            if content_type is not None and path.is_file():
                content = path.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'.encode()
                self._files[f"/{path.relative_to(folder).as_posix()}"] = (content_type, content, etag)
        if "/index.html" in self._files:
            self._files["/"] = self._files["/index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._files.get(scope["path"])
        if found is None:
            await send_error(send, 404, "there is no such page. The page is at /, the API at /api/v1/")
        elif scope["method"] not in ("GET", "HEAD"):
            await send_error(send, 405, "only GET is allowed here", [(b"allow", b"GET, HEAD")])
        else:
            content_type, content, etag = found
            headers = [(b"etag", etag), (b"cache-control", b"no-cache")]  # the browser asks each time, and gets 304
            if etag.decode() in (header(scope, b"if-none-match") or ""):
                await send({"type": "http.response.start", "status": 304, "headers": headers})
                await send({"type": "http.response.body", "body": b""})
            else:
                await send_whole(send, 200, content_type, content, headers)
