"""The newest pictures, the event stream, the inspection of one part, and the signals of the PLC."""

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from zsad_agent.capture import CAMERA
from zsad_agent.inspection import Station
from zsad_agent.messages import Result
from zsad_agent.serving import is_on_loopback
from zsad_agent.web.access import COOKIE
from zsad_agent.web.hub import MAX_STREAMS, EventHub, Stream, as_jpeg
from zsad_agent.web.ports import Body, ForAdmin, ForOperator, Parts, Plc, WebParts
from zsad_core.types import Verdict

MAX_WAIT_S = 30.0
MAX_INSPECTIONS = 8  # requests that wait for their part at the same time; each takes a thread

OFF = "the handshake with a PLC is off. Set plant.modbus.listen or plant.opcua.listen"
MAX_TEXT = 4096
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, pattern=r"^[^\x00-\x1f\x7f]*$")]  # a path or an address
Camera = Annotated[str, Path(max_length=64, description="Name of a camera.")]
Width = Annotated[int, Query(ge=16, le=4096, description="Pixels; a smaller picture is not enlarged.")]
JPEG: dict[int | str, dict[str, Any]] = {200: {"content": {"image/jpeg": {}}, "description": "A JPEG."}}
_waiting = threading.BoundedSemaphore(MAX_INSPECTIONS)

router = APIRouter(tags=["live"])


class Inspection(Body):
    """What to inspect."""

    trigger_id: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=MAX_WAIT_S)] = 5.0


class PlcDoor(BaseModel):
    name: str = Field(description="modbus or opcua.")
    listen: str = Field(description="As in the config.")
    fault: str | None = Field(description="Why it does not listen.")
    silent_s: float | None = Field(description="Seconds since a client asked for something; null: none has.")


class PlcCamera(BaseModel):
    """The handshake of one camera. Signals have the names of `zsad-agent plant map`."""

    camera: str
    state: Literal["start", "ready", "busy", "results", "release", "dry_test"]
    from_plc: dict[str, dict[str, bool | int]] = Field(description="By the place where the PLC has set them.")
    to_plc: dict[str, bool | int | float]
    silent_s: dict[str, float] = Field(description="Seconds since a client asked for something, by door.")
    seen_s: dict[str, float] = Field(description="Seconds since Trigger, ResultsAck or Reset became 1; missing: never.")
    dry_test_left_s: float | None = Field(description="Seconds until the dry test ends by itself; null: there is none.")


class PlcBody(BaseModel):
    doors: list[PlcDoor] = Field(description="Empty: the handshake is off.")
    cameras: list[PlcCamera] = Field(description="Those with `trigger: plc` or `mqtt`.")


class DryTestBody(Body):
    verdict: Annotated[Verdict, Field(strict=False)]


def station_of(parts: WebParts, camera: str) -> Station:
    """The station of a camera.

    Raises:
        HTTPException: 404, there is none.
    """
    for station in parts.stations:
        if station.name == camera:
            return station
    names = ", ".join(station.name for station in parts.stations)
    raise HTTPException(404, f"there is no camera {camera!r}. There are: {names}")


class _EventStream(StreamingResponse):
    """The events of one page, until it is closed or its session ends."""

    def __init__(self, hub: EventHub, is_allowed: Callable[[], bool]) -> None:
        self._hub, self._is_allowed = hub, is_allowed
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__((), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._hub.open() as stream:
            if stream is None:
                raise HTTPException(503, f"{MAX_STREAMS} pages are open: close one and try again")
            self.body_iterator = self._read(stream)
            await super().__call__(scope, receive, send)

    async def _read(self, stream: Stream) -> AsyncIterator[bytes]:
        yield b": open\n\n"
        events = await stream.next()
        while self._is_allowed():
            yield events
            events = await stream.next()


@router.get(
    "/events",
    status_code=200,
    response_class=_EventStream,
    responses={200: {"content": {"text/event-stream": {}}}, 503: {"description": "Too many pages are open."}},
)
async def read_events(parts: Parts, visitor: ForOperator, request: Request) -> Response:
    """Sends results, health, settings and teach-in as server-sent events, one stream for each page."""
    token, address, on_loopback = request.cookies.get(COOKIE), visitor.address, is_on_loopback(request.scope)
    return _EventStream(parts.events, lambda: parts.access.visitor(token, address, on_loopback=on_loopback) is not None)


@router.get("/cameras/{camera}/live.jpg", response_class=Response, responses=JPEG)
async def read_live(
    camera: Camera,
    parts: Parts,
    visitor: ForOperator,
    request: Request,
    overlay: bool = False,
    width: Width = 640,
) -> Response:
    """Gives the newest inspected picture; `overlay`: with its heatmap. Header `X-Pause-Ms`: the wait for the next."""
    station_of(parts, camera)
    newest_id = parts.live.newest_id(camera)
    headers = {"ETag": f'"{newest_id}-{overlay:d}-{width}"', "X-Result-Id": str(newest_id), "Cache-Control": "no-cache"}
    headers["X-Pause-Ms"] = str(parts.events.picture_pause_ms())
    if newest_id is not None and request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    live = parts.live
    found = live.ready(camera, overlay=overlay, width=width) or await run_in_threadpool(
        live.jpeg, camera, overlay=overlay, width=width
    )
    if found is None:
        raise HTTPException(404, f"{camera} has not given a picture yet")
    headers |= {"ETag": f'"{found[0]}-{overlay:d}-{width}"', "X-Result-Id": found[0]}
    return Response(found[1], media_type="image/jpeg", headers=headers)


@router.get("/cameras/{camera}/frame.jpg", response_class=Response, responses=JPEG)
def read_frame(camera: Camera, parts: Parts, visitor: ForOperator, width: Width = 1280) -> Response:
    """Gives the newest whole frame, inspected or not. Header `X-Frame-Size`: its `WIDTHxHEIGHT` in pixels."""
    newest = newest_frame(station_of(parts, camera))
    if newest is None:
        raise HTTPException(404, f"{camera} has not given a picture yet")
    h, w = newest.shape[:2]
    headers = {"X-Frame-Size": f"{w}x{h}", "Cache-Control": "no-store"}
    return Response(as_jpeg(newest, width), media_type="image/jpeg", headers=headers)


def newest_frame(station: Station) -> np.ndarray | None:
    """The newest whole frame, uint8 [H, W, 3]; None: there is none yet.

    Raises:
        HTTPException: 409, the camera is lost: its last picture is old.
    """
    newest = station.capture.newest_images(1)
    if newest and (fault := station.status.fault_of(CAMERA)) is not None:
        raise HTTPException(409, fault)
    return newest[-1] if newest else None


@router.post(
    "/cameras/{camera}/inspect",
    response_model=Result,
    responses={503: {"description": "Too many wait already."}, 504: {"description": "No result in time."}},
)
async def inspect(camera: Camera, body: Inspection, parts: Parts, visitor: ForOperator) -> Response:
    """Inspects one part now, and answers with its result.

    A camera with `trigger: mqtt` or `plc` is triggered. One that runs free gives the result of the next picture.
    """
    visitor.noted = True  # it changes nothing, and a machine may ask for every part
    station = station_of(parts, camera)
    if body.trigger_id is not None and not station.capture.triggered:
        raise HTTPException(
            422, f"{camera} takes pictures without triggers: leave out trigger_id, or set trigger: mqtt or plc"
        )
    if not _waiting.acquire(blocking=False):
        raise HTTPException(503, f"{MAX_INSPECTIONS} inspections are waiting already: try again")
    try:
        found: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        trigger_id = body.trigger_id or f"page-{secrets.token_hex(6)}"
        with parts.events.next_result(camera, trigger_id if station.capture.triggered else None, found):
            if station.capture.triggered:
                await run_in_threadpool(station.capture.trigger, trigger_id)
            result = await asyncio.wait_for(found, body.timeout_s)
            return Response(result.encode(), media_type="application/json")
    except TimeoutError as error:
        reason = station.status.reason or "no part came"
        raise HTTPException(504, f"no result of {camera} within {body.timeout_s:g} s: {reason}") from error
    finally:
        _waiting.release()


@router.get("/plc")
def read_plc(parts: Parts, visitor: ForOperator) -> PlcBody:
    """Shows the signals between the PLC and each camera now, and the doors where a PLC connects."""
    plant = parts.config.plant
    if parts.plc is None:
        return PlcBody(doors=[], cameras=[])
    cameras = [PlcCamera(**one) for one in parts.plc.wiring()]
    faults = parts.snapshot().service_faults
    doors = [
        PlcDoor(
            name=name,
            listen=config.listen,
            fault=faults.get(name),
            silent_s=min((one.silent_s[name] for one in cameras if name in one.silent_s), default=None),
        )
        for name, config in (("modbus", plant.modbus), ("opcua", plant.opcua))
        if config.on
    ]
    return PlcBody(doors=doors, cameras=cameras)


@router.get("/plc/map", response_class=PlainTextResponse)
def read_plc_map(parts: Parts, visitor: ForOperator) -> str:
    """Gives the Modbus addresses and the rules for whoever programs the PLC, as text."""
    if parts.plc is None:
        raise HTTPException(409, OFF)
    modbus = parts.config.plant.modbus
    return parts.plc.printed_map(modbus.word_order, modbus.listen)


@router.post("/cameras/{camera}/plc/dry-test")
def start_dry_test(camera: Camera, body: DryTestBody, parts: Parts, visitor: ForAdmin) -> PlcBody:
    """Shows a verdict to the PLC without a part, to test the wiring. It ends by itself, and at once at a trigger.

    TriggerReady is 0 meanwhile and a trigger is missed. ErrorCode is 9 and PartIdOut 4294967295 until the next part.
    409 while a part may wait for its verdict.
    """
    _plc_of(parts, camera).start_dry_test(camera, body.verdict)
    visitor.note(f"{camera} PLC dry test", None, body.verdict)
    return read_plc(parts, visitor)


@router.delete("/cameras/{camera}/plc/dry-test")
def end_dry_test(camera: Camera, parts: Parts, visitor: ForAdmin) -> PlcBody:
    """Ends a dry test."""
    _plc_of(parts, camera).end_dry_test(camera)
    visitor.note(f"{camera} PLC dry test", None, "ended")
    return read_plc(parts, visitor)


def _plc_of(parts: WebParts, camera: str) -> Plc:
    """The handshakes, of which the camera has one.

    Raises:
        HTTPException: 404, there is no such camera; 409, it has none.
    """
    station = station_of(parts, camera)
    if parts.plc is None:
        raise HTTPException(409, OFF)
    if not station.capture.triggered:
        raise HTTPException(409, f"{camera} has no handshake with the PLC. Set trigger: plc")
    return parts.plc
