"""/metrics, /healthz and /readyz over HTTP."""

import json
import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from zsad_agent.config import split_listen
from zsad_agent.monitoring.metrics import CONTENT_TYPE
from zsad_agent.serving import (
    CLOSE,
    MAX_HEAD_BYTES,
    App,
    Guard,
    HttpServer,
    Limits,
    Receive,
    Scope,
    Send,
    send_error,
    send_whole,
)
from zsad_agent.system import in_thread

logger = logging.getLogger(__name__)

HEAD_S = 2.0  # from the connection to a complete request; a normal client needs milliseconds
ANSWER_S = 5.0  # from a complete request to the end of its answer
MAX_CONNECTIONS = 32  # at once


class _Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


class HealthApp:
    """Answers GET and HEAD of three paths, each in a thread, because what it asks may hang."""

    def __init__(
        self, *, metrics: Callable[[], bytes], stuck: Callable[[], str | None], missing: Callable[[], list[str]]
    ) -> None:
        """Takes what it asks.

        Args:
            metrics: the body of /metrics.
            stuck: why inference or publishing hangs, for /healthz; None if they work.
            missing: every reason why the agent does not work at present, for /readyz.
        """
        self.stuck, self.missing = stuck, missing
        self._answers: Mapping[str, Callable[[], _Answer]] = {
            "/metrics": lambda: _Answer(200, CONTENT_TYPE, metrics()),
            "/healthz": lambda: _verdict([reason] if (reason := stuck()) is not None else []),
            "/readyz": lambda: _verdict(missing()),
        }

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._answers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from asyncio import wrap_future  # imported by uvicorn already

        make = self._answers.get(scope["path"])
        if scope["method"] not in ("GET", "HEAD"):
            await send_error(send, 405, "only GET is allowed here", [(b"allow", b"GET, HEAD"), *CLOSE])
        elif make is None:
            await send_error(send, 404, f"there is only {', '.join(self._answers)}", CLOSE)
        else:
            try:
                answer = await wrap_future(in_thread("health", make))
            except Exception as error:  # a failed check means not healthy
                logger.error("a health request cannot be answered: %s: %s", type(error).__name__, error)
                await send_error(send, 503, "the check failed: the log of zsad-agent says more", CLOSE)
            else:
                await send_whole(send, *answer, CLOSE)


class HealthServer(HttpServer):
    """Serves `HealthApp` to programs on this machine, one request a connection."""

    name, title = "health server", "metrics and health"

    def __init__(self, listen: str, app: HealthApp, *, head_s: float = HEAD_S) -> None:
        """`listen`: `127.0.0.1:port`, 0 for any free one. `head_s`: limit for a complete request."""
        limits = Limits(connections=MAX_CONNECTIONS, head_s=head_s, body_s=head_s, answer_s=ANSWER_S)

        def make_app() -> App:
            return Guard(app, names=frozenset, body_limit=lambda scope: MAX_HEAD_BYTES)

        super().__init__(make_app, lambda: split_listen(listen), limits)


def _verdict(reasons: list[str]) -> _Answer:
    body = {"status": "unavailable" if reasons else "ok", "reasons": reasons}
    return _Answer(503 if reasons else 200, "application/json", json.dumps(body).encode() + b"\n")
