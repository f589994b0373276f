"""Teach-in: state, actions and pictures."""

import threading
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from starlette.concurrency import run_in_threadpool

from zsad_agent.config import Threshold
from zsad_agent.learning import LessonPicture, LineLearner
from zsad_agent.teaching import why_not_given
from zsad_agent.web.access import ADMIN
from zsad_agent.web.hub import as_jpeg
from zsad_agent.web.live import JPEG, Camera, Width, station_of
from zsad_agent.web.ports import Body, ForAdmin, ForOperator, Parts, WebParts, check_role
from zsad_core.errors import ImageError, ZsadError
from zsad_core.picture import decode_image

NAME = "picture"  # of a file without a name
KEPT_S = 3600  # in the browser: a picture of an id does not change
OPERATORS = ("good", "bad")  # actions of an operator
UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary", "maxLength": 20_000_000}}},
    }
}
_decoding = threading.Lock()  # one at a time: the memory and the other cores are for the inspection

PictureId = Annotated[str, Path(max_length=200, description="`id` of the list.")]
FileName = Annotated[str, Query(max_length=300, description="Of the file.")]

router = APIRouter(tags=["teach"])


class TeachAction(Body):
    """As the value of the MQTT command `teach`."""

    action: Literal["start", "finish", "cancel", "commit", "roll_back", "good", "bad"]
    product: str | None = Field(default=None, description="Of start; default: that of the camera.")
    count: int | None = Field(default=None, description="Of start: pictures.")
    rate: float | None = Field(default=None, description="Of start: of false rejects.")
    threshold: Threshold | None = Field(default=None, description="Of commit; default: that of the offer, 0.5.")
    offer: str | None = Field(default=None, description="Of commit: `sha256` of the offer that the person saw.")
    id: str | None = Field(default=None, description="Of good and bad: of a result, or of a picture that was left out.")


class LeftOut(BaseModel):
    id: str
    reason: str


class OfferRecall(BaseModel):
    found: int
    total: int
    low: float = Field(description="With `high`, the 90 % interval.")
    high: float


class TeachOffer(BaseModel):
    """A profile that can be taken into use. Scores are in [0, 1], the threshold is at 0.5."""

    product: str
    sha256: str
    at: AwareDatetime
    pictures: int
    goods: int = Field(description="Pictures that set the threshold.")
    false_reject_rate: float = Field(description="Share of good parts that are rejected, in the mean.")
    false_reject_rate_90: float = Field(description="With 90 % confidence it is at most this.")
    needed: int = Field(description="Pictures for the rate that was asked for.")
    left_out: int
    named: list[LeftOut] = Field(description="The most different of those that were left out.")
    notes: list[str]
    recall: OfferRecall | None = Field(description="Bad parts that the threshold finds; null: none was given.")
    goods_scores: list[float]
    apart: int = Field(default=0, description="Good parts among those left out; the promise counts them as rejected.")
    bad_scores: list[float]


class TeachState(BaseModel):
    """As the MQTT state, with the scores of the offer. What a phase does not have is left out."""

    phase: Literal["idle", "gathering", "learning", "offered", "off"]
    text: str
    next: list[str] = Field(description="The actions that are possible now.")
    pictures_url: str
    mark: str | None = Field(default=None, description="What came of the last mark.")
    product: str = ""
    asked: bool = Field(default=False, description="A person started it; otherwise it learns from the line.")
    pictures: int = 0
    bad: int = Field(default=0, description="Pictures of bad parts.")
    needed: int = Field(default=0, description="Pictures until it learns by itself.")
    offer: TeachOffer | None = None


class TeachPicture(BaseModel):
    id: str
    kind: Literal["good", "bad"]
    state: Literal["gathered", "learned", "left_out"]
    reason: str | None = Field(description="Why it was left out.")
    score: float | None = Field(
        description="In [0, 1), the threshold is at 0.5. Of a good part that was left out: how different it is."
    )


class GivenPicture(BaseModel):
    id: str


@router.get("/cameras/{camera}/teach", response_model_exclude_unset=True)
def read_teach(camera: Camera, parts: Parts, visitor: ForOperator) -> TeachState:
    """Says what is being taught at a camera, and what is offered."""
    station_of(parts, camera)
    if parts.learner is None:
        state = parts.commands.state(camera, "teach")["value"]
    else:
        state = parts.learner.lesson(camera)
    return TeachState(**state, pictures_url=f"/api/v1/cameras/{quote(camera)}/teach/pictures")


@router.post("/cameras/{camera}/teach", response_model_exclude_unset=True)
def do_teach(camera: Camera, body: TeachAction, parts: Parts, visitor: ForOperator) -> TeachState:
    """Starts, finishes or cancels a teach-in, takes its offer into use, or marks a part as good or bad.

    After `commit` the camera inspects the product of the offer.
    """
    station_of(parts, camera)
    if body.action not in OPERATORS:
        check_role(visitor, ADMIN)
    value = body.model_dump(exclude_none=True)
    before = _in_use(parts, camera) if body.action == "commit" else None
    parts.commands.perform(camera, "teach", value, by=visitor.role)
    visitor.note(f"{camera} teach", before, value if before is None else value | _in_use(parts, camera))
    return read_teach(camera, parts, visitor)


def _in_use(parts: WebParts, camera: str) -> dict[str, Any]:
    """What a commit may change."""
    return {key: parts.commands.state(camera, key)["value"] for key in ("product", "threshold")}


@router.get("/cameras/{camera}/teach/pictures")
def list_pictures(camera: Camera, parts: Parts, visitor: ForOperator) -> list[TeachPicture]:
    """Lists the pictures of the teach-in."""
    station_of(parts, camera)
    return [_shown(picture) for picture in parts.learner.pictures(camera)] if parts.learner is not None else []


@router.get("/cameras/{camera}/teach/pictures/{picture_id}.jpg", response_class=Response, responses=JPEG)
def read_picture(
    camera: Camera, picture_id: PictureId, parts: Parts, visitor: ForOperator, width: Width = 160
) -> Response:
    """Gives a picture of the teach-in."""
    station_of(parts, camera)
    jpeg = parts.learner.picture(camera, picture_id) if parts.learner is not None else None
    if jpeg is None:
        raise _unknown(picture_id)
    image = decode_image(np.frombuffer(jpeg, np.uint8), picture_id)
    headers = {"Cache-Control": f"private, max-age={KEPT_S}"}
    return Response(as_jpeg(image, width), media_type="image/jpeg", headers=headers)


@router.delete("/cameras/{camera}/teach/pictures/{picture_id}", status_code=204)
def remove_picture(camera: Camera, picture_id: PictureId, parts: Parts, visitor: ForAdmin) -> None:
    """Removes a picture from the teach-in. Its offer is made again, in the background."""
    station_of(parts, camera)
    if not _learner(parts, camera).remove_picture(camera, picture_id):
        raise _unknown(picture_id)
    visitor.note(f"{camera} teach: picture removed", picture_id)


@router.post("/cameras/{camera}/teach/pictures", status_code=201, openapi_extra=UPLOAD)
async def give_picture(
    camera: Camera,
    parts: Parts,
    visitor: ForAdmin,
    request: Request,
    kind: Literal["good", "bad"] = "good",
    name: FileName = NAME,
) -> GivenPicture:
    """Takes an image file into the teach-in: the body is the file. The region of the camera applies.

    Good parts need a teach-in that was started. Bad parts are not learned: they measure how many the threshold finds.
    """
    station_of(parts, camera)
    learner = _learner(parts, camera)
    encoded = await request.body()

    def take() -> str:
        with _decoding:
            file_name = PurePath(name).name or NAME
            image = _decoded(parts, camera, file_name, encoded, good=kind == "good")
            return learner.give_picture(camera, file_name, image, good=kind == "good")

    picture_id = await run_in_threadpool(take)
    await run_in_threadpool(visitor.note, f"{camera} teach: {kind} picture given", None, picture_id)
    return GivenPicture(id=picture_id)


def _decoded(parts: WebParts, camera: str, name: str, encoded: bytes, *, good: bool) -> np.ndarray:
    """uint8 [H, W, 3] of a file, read as one of the camera.

    Raises:
        ImageError: it is no picture of a part.
    """
    if (reason := why_not_given(name, encoded, good=good)) is not None:
        raise ImageError(f"{name}: {reason}")
    bits = next(config.used_bits for config in parts.config.every_camera if config.name == camera)
    return decode_image(np.frombuffer(encoded, np.uint8), name, bits, strict=True)


def _learner(parts: WebParts, camera: str) -> LineLearner:
    if parts.learner is None:
        raise ZsadError(str(parts.commands.state(camera, "teach")["value"]["text"]))
    return parts.learner


def _shown(picture: LessonPicture) -> TeachPicture:
    return TeachPicture(
        id=picture.id, kind=picture.kind, state=picture.state, reason=picture.reason, score=picture.score
    )


def _unknown(picture_id: str) -> HTTPException:
    return HTTPException(404, f"the teach-in has no picture {picture_id!r}. It was removed, or the teach-in has ended")
