"""The application: the routes below `/api/v1`, the page's files, access, and the answers to errors."""

import logging
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from zsad_agent.monitoring import HealthApp
from zsad_agent.serving import (
    INTERNAL,
    App,
    Files,
    Message,
    Receive,
    Scope,
    Send,
    address_of,
    header,
    is_on_loopback,
    send_error,
)
from zsad_agent.system import printable, shortened
from zsad_agent.web import cameras, config_api, live, results_api, teach_api
from zsad_agent.web.access import COOKIE, MAX_PASSWORD, Access, AccessError, Role, Visitor
from zsad_agent.web.ports import Body, ForAdmin, ForOperator, Parts, WebParts, visitor_of
from zsad_core.errors import ConflictError, ZsadError

logger = logging.getLogger(__name__)

API = "/api/v1"
SESSION = f"{API}/session"
STATIC = Path(__file__).with_name("static")
READS = ("GET", "HEAD")
# Most bytes of a body: JSON, the settings of a camera with a mask, a picture for teach-in
JSON_BYTES, SETTINGS_BYTES, PICTURE_BYTES = 64_000, 1_000_000, 20_000_000
MAX_SHOWN_CHARACTERS = 100  # of a wrong value in an error


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: str = Field(description="What is wrong, which value, what to do.")


class SessionBody(BaseModel):
    role: Role | None = Field(description="Null: log in first.")
    passwords_set: bool
    csrf: str | None = Field(description="Send it as header X-CSRF-Token with every request that changes something.")
    version: str
    device_id: str | None


class Credentials(Body):
    role: Role
    password: Annotated[str, Field(max_length=MAX_PASSWORD)]


class AuditLine(BaseModel):
    at: str
    who: Role
    address: str
    what: str
    before: Any
    after: Any


routes = APIRouter(tags=["access"])


@routes.get("/session")
def read_session(parts: Parts, visitor: Annotated[Visitor | None, Depends(visitor_of)]) -> SessionBody:
    """Says who is logged in."""
    return SessionBody(
        role=visitor.role if visitor is not None else None,
        passwords_set=parts.access.passwords_set,
        csrf=visitor.csrf if visitor is not None else None,
        version=parts.version,
        device_id=parts.config.device_id if visitor is not None else None,
    )


@routes.post("/session")
def log_in(credentials: Credentials, parts: Parts, request: Request, response: Response) -> SessionBody:
    """Begins a session."""
    address, earlier = address_of(request.scope), request.cookies.get(COOKIE)
    token = parts.access.log_in(credentials.role, credentials.password, address, earlier=earlier)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, path="/")
    visitor = parts.access.visitor(token, address, on_loopback=is_on_loopback(request.scope))
    return read_session(parts, visitor)


@routes.delete("/session", status_code=204)
def log_out(parts: Parts, request: Request, response: Response, visitor: ForOperator) -> None:
    """Ends the session."""
    parts.access.log_out(request.cookies.get(COOKIE))
    response.delete_cookie(COOKIE, path="/")
    visitor.note("log-out")


@routes.put("/passwords", status_code=204)
def set_password(credentials: Credentials, parts: Parts, request: Request, visitor: ForAdmin) -> None:
    """Sets a password. The first one can be set only on the device itself."""
    on_loopback, keep = is_on_loopback(request.scope), request.cookies.get(COOKIE)
    parts.access.set_password(credentials.role, credentials.password, keep=keep, on_loopback=on_loopback)
    visitor.note(f"password of {credentials.role}")


@routes.get("/audit")
def read_audit(parts: Parts, visitor: ForAdmin, limit: Annotated[int, Query(ge=1, le=5000)] = 200) -> list[AuditLine]:
    """Lists who changed what, the newest first."""
    return [AuditLine(**line) for line in parts.access.audit.read(limit)]


def make_app(parts: WebParts) -> App:
    """The page and its API, without the limits of `Guard`."""
    api = FastAPI(
        title="zsad-agent",
        version=parts.version,
        openapi_url=None,  # below, for those who are logged in
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.parts = parts
    errors: dict[int | str, dict[str, Any]] = {"4XX": {"model": ErrorBody, "description": "What is wrong."}}
    errors[422] = errors["4XX"]  # in place of FastAPI's own
    for part in (routes, live.router, cameras.router, config_api.router, teach_api.router, results_api.router):
        api.include_router(part, prefix=API, responses=errors)

    @api.get(f"{API}/openapi.json", include_in_schema=False)
    def read_openapi(visitor: ForOperator) -> dict[str, Any]:
        return api.openapi()

    api.add_exception_handler(HTTPException, _say_http)
    api.add_exception_handler(RequestValidationError, _say_invalid)
    api.add_exception_handler(AccessError, _say_access)
    api.add_exception_handler(ZsadError, _say_refused)
    api.add_exception_handler(OSError, _say_disk)
    api.add_exception_handler(Exception, _say_internal)
    return Gate(api, parts.health, Files(STATIC), parts.access)


def body_limit(scope: Scope) -> int:
    """Most bytes of the body of a request."""
    match scope["method"], scope["path"].rpartition("/")[2]:
        case "POST", "pictures":
            return PICTURE_BYTES
        case "PATCH", "settings":
            return SETTINGS_BYTES
    return JSON_BYTES


class Gate:
    """Checks the session. Without one, only the page's files and the log-in can be reached."""

    def __init__(self, api: App, health: HealthApp, files: App, access: Access) -> None:
        self._api, self._health, self._files, self._access = api, health, files, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        on_loopback = is_on_loopback(scope)
        if path in self._health.paths:
            if on_loopback or self._visitor(scope, on_loopback) is not None:
                await self._health(scope, receive, send)
            else:
                await send_error(send, 401, "log in first")
        elif path == API or path.startswith(f"{API}/"):
            await self._ask_api(scope, receive, send, self._visitor(scope, on_loopback))
        else:
            await self._files(scope, receive, send)

    def _visitor(self, scope: Scope, on_loopback: bool) -> Visitor | None:
        return self._access.visitor(_cookie(scope), address_of(scope), on_loopback=on_loopback)

    async def _ask_api(self, scope: Scope, receive: Receive, send: Send, visitor: Visitor | None) -> None:
        is_change = scope["method"] not in READS
        is_log_in = scope["path"] == SESSION and scope["method"] in ("GET", "POST")
        if is_change and not _is_same_origin(scope):
            await send_error(send, 403, "the request comes from another site (header Origin)")
            return
        if visitor is None and not is_log_in:
            await send_error(send, 401, "log in first")
            return
        if visitor is not None and is_change and not is_log_in and header(scope, b"x-csrf-token") != visitor.csrf:
            await send_error(send, 403, f"the header X-CSRF-Token must be the csrf of GET {SESSION}")
            return
        scope.setdefault("state", {})["visitor"] = visitor
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._api(scope, receive, send_on)
        if is_change and visitor is not None and not is_log_in and status < 400 and not visitor.noted:
            await run_in_threadpool(visitor.note, f"{scope['method']} {scope['path']}")


def _cookie(scope: Scope) -> str | None:
    """The token of the session."""
    for part in (header(scope, b"cookie") or "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return None


def _is_same_origin(scope: Scope) -> bool:
    """A browser sends the site that the request comes from; other programs need not."""
    origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
    return origins in ([], [f"{scope['scheme']}://{header(scope, b'host')}"])


async def _say_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    texts = {
        404: f"there is no {request.url.path}. See {API}/openapi.json",
        405: f"{request.method} is not allowed here",
    }
    text = texts.get(error.status_code, error.detail) if error.detail in _BARE else error.detail
    return JSONResponse({"error": printable(str(text))}, error.status_code, error.headers)


_BARE = ("Not Found", "Method Not Allowed")  # of the router


async def _say_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"error": "; ".join(map(_words, error.errors()[:5]))}, 422)


async def _say_access(request: Request, error: Exception) -> Response:
    assert isinstance(error, AccessError)
    headers = {"Retry-After": "60"} if error.status == 429 else None
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _say_refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, ConflictError) else 422)


async def _say_disk(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
    text = f"nothing was changed, because the device failed: {printable(str(what))}. See the light of the disk"
    return JSONResponse({"error": text}, 503)


async def _say_internal(request: Request, error: Exception) -> Response:
    """`Guard` logs it."""
    return JSONResponse({"error": INTERNAL}, 500)


_WHY = {  # in place of pydantic's words
    "missing": "is missing",
    "extra_forbidden": "is not known here: leave it out",
    "timezone_aware": "needs a time zone, such as 2026-11-22T10:28:03Z",
}


def _words(fault: Any) -> str:
    """One fault of a request; the value only if it is short and no password."""
    where = ".".join(str(part) for part in fault["loc"])
    text = f"{where}: {_WHY.get(fault['type']) or fault['msg'].removeprefix('Value error, ')}"
    value = fault.get("input")
    if isinstance(value, str | int | float | bool) and "password" not in where:
        text += f", got {value!r}"
    return shortened(printable(text), 3 * MAX_SHOWN_CHARACTERS)
