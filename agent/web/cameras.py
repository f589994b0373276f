"""Cameras, their settings, health, products, devices and probes."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import AwareDatetime, BaseModel, Field, SecretStr, ValidationError

from zsad_agent.config import EMBEDDED_BROKER, CameraConfig, MqttConfig, SourceConfig, Threshold, TriggerMode
from zsad_agent.inspection import Station
from zsad_agent.messages import VerdictCounts
from zsad_agent.monitoring import HealthState, health_state
from zsad_agent.probing import list_devices, list_genicam, probe_broker, probe_source
from zsad_agent.teaching import ProfileStore
from zsad_agent.web.config_api import in_full
from zsad_agent.web.hub import as_jpeg
from zsad_agent.web.live import JPEG, MAX_TEXT, Camera, Text, newest_frame, station_of
from zsad_agent.web.ports import Body, ForAdmin, ForOperator, Parts, Visitor, WebParts
from zsad_core.errors import ProfileError
from zsad_core.memory import promise_at, recall_interval, to_unit
from zsad_core.redaction import redacted
from zsad_core.types import TAUGHT_THRESHOLD

PROBE_WIDTH = 1280  # pixels

router = APIRouter(tags=["cameras"])
Unit = Annotated[float, Field(ge=0, le=1)]


class HealthBody(HealthState):
    stats: dict[str, Any] = Field(description="As the MQTT message, schema zsad.stats/1.")


class CameraBody(BaseModel):
    name: str
    source: str = Field(description="Without credentials; empty: none is set.")
    product: str
    threshold: Unit
    taught: bool
    paused: bool
    up: bool
    reason: str | None = Field(description="Why it is not up.")
    trigger: TriggerMode
    region_xywh: tuple[int, int, int, int] | None
    ignore_mask: bool
    frame_wh: tuple[int, int] | None = Field(description="Null: no picture yet.")
    results: VerdictCounts


class NumberValue(Body):
    value: Threshold | None = Field(description="Null: that of the config.")


class NameValue(Body):
    value: Annotated[str, Field(min_length=1, max_length=200)] | None = Field(description="Null: that of the config.")


class SwitchValue(Body):
    value: bool


class Setting(BaseModel):
    value: float | str | bool | None
    source: Literal["config", "command"]
    error: str | None = Field(default=None, description="Why it does not survive a restart.")


class PromiseBody(BaseModel):
    rate: Unit = Field(description="Share of good parts that are rejected, in the mean.")
    rate_90: Unit = Field(description="With 90 % confidence it is at most this.")
    goods: int
    rejected: int


class RecallBody(BaseModel):
    found: int
    total: int
    low: Unit = Field(description="With `high`, the 90 % interval.")
    high: Unit


class ThresholdBody(BaseModel):
    value: Unit
    source: Literal["config", "command"]
    taught: bool
    goods_scores: list[Unit]
    promise: PromiseBody | None = Field(description="At `value`; null: nothing was taught.")
    recall: RecallBody | None = Field(description="Of the bad parts. Without an offer: at the taught threshold only.")


class TaughtBody(BaseModel):
    made_at: AwareDatetime
    goods: int
    false_reject_rate: Unit
    false_reject_rate_90: Unit
    sha256: str
    versions: list[int]


class ProductBody(BaseModel):
    name: str
    taught: TaughtBody | None
    in_bundle: bool
    fault: str | None = Field(description="Why what was taught cannot be used.")


class DeviceBody(BaseModel):
    key: Literal["camera", "aravis"] = Field(description="In the settings of a camera; its value is `id`.")
    id: str
    path: str
    by_id: str | None
    name: str
    used_by: str | None = Field(description="The camera of the config that uses it.")


class SourceProbe(Body):
    camera: Text | None = None
    source: Text | None = None
    aravis: Text | None = None


class BrokerProbe(Body):
    broker: Text | None = Field(default=None, description="Null: that of the config.")
    username: Text | None = None
    password: SecretStr | None = Field(default=None, max_length=MAX_TEXT)
    client_id: Text | None = None


class BrokerAnswer(BaseModel):
    ok: bool
    text: str


@router.get("/health")
def read_health(parts: Parts, visitor: ForOperator) -> HealthBody:
    """Says what works and what does not, with what to do."""
    snapshot = parts.snapshot()
    state = health_state(snapshot, parts.health.missing())
    return HealthBody(**dict(state), stats=snapshot.stats.model_dump(mode="json", by_alias=True))


@router.get("/cameras")
def list_cameras(parts: Parts, visitor: ForOperator) -> list[CameraBody]:
    """Lists the cameras with their settings and state."""
    stats = parts.snapshot().stats.cameras
    configs = {camera.name: camera for camera in parts.config.every_camera}
    return [_camera(parts, station, configs[station.name], stats[station.name].results) for station in parts.stations]


def _camera(parts: WebParts, station: Station, config: CameraConfig, results: VerdictCounts) -> CameraBody:
    newest = station.capture.newest_images(1)
    up = station.status.up
    product = station.inspector.product
    return CameraBody(
        name=station.name,
        source=redacted(config.origin or ""),
        product=product,
        threshold=parts.commands.state(station.name, "threshold")["value"],
        taught=parts.models.current.predictor.is_taught(product),
        paused=station.capture.paused,
        up=up,
        reason=None if up else station.status.reason,
        trigger=config.trigger,
        region_xywh=config.region_xywh,
        ignore_mask=config.ignore_mask is not None,
        frame_wh=(newest[-1].shape[1], newest[-1].shape[0]) if newest else None,
        results=results,
    )


@router.put("/cameras/{camera}/threshold")
def set_threshold(camera: Camera, body: NumberValue, parts: Parts, visitor: ForAdmin) -> Setting:
    """Sets the score from which a part is rejected, from the next picture on."""
    return _set(parts, visitor, camera, "threshold", body.value)


@router.put("/cameras/{camera}/product")
def set_product(camera: Camera, body: NameValue, parts: Parts, visitor: ForOperator) -> Setting:
    """Chooses the product, from the next picture on."""
    return _set(parts, visitor, camera, "product", body.value)


@router.put("/cameras/{camera}/paused")
def set_paused(camera: Camera, body: SwitchValue, parts: Parts, visitor: ForOperator) -> Setting:
    """Pauses the inspection, or ends the pause."""
    return _set(parts, visitor, camera, "paused", body.value)


def _set(parts: WebParts, visitor: Visitor, camera: str, key: str, value: float | str | bool | None) -> Setting:
    station_of(parts, camera)
    before = parts.commands.state(camera, key)["value"]
    after = parts.commands.perform(camera, key, value, by=visitor.role)
    visitor.note(f"{camera} {key}", before, after["value"])
    return Setting(**after)


@router.get("/cameras/{camera}/threshold")
def read_threshold(
    camera: Camera,
    parts: Parts,
    visitor: ForOperator,
    value: Annotated[Threshold | None, Query(description="Default: the one in use, or of the offer.")] = None,
) -> ThresholdBody:
    """Says what a threshold promises, from the scores of the goods of the offer, or else of those that were taught."""
    inspector = station_of(parts, camera).inspector
    product, now = inspector.product, parts.commands.state(camera, "threshold")
    is_taught = parts.models.current.predictor.is_taught(product)
    offer = parts.learner.lesson(camera).get("offer") if parts.learner is not None else None
    if value is None:
        value = now["value"] if offer is None else _of_offer(parts, camera)
    taught = _taught(parts.profiles, product) if is_taught else None
    goods: Sequence[float] = ()
    apart, recall = 0, None
    if offer is not None:
        goods, bads, apart = offer["goods_scores"], offer["bad_scores"], offer.get("apart", 0)
        recall = (sum(score >= value for score in bads), len(bads)) if bads else None
    elif taught is not None:
        goods, apart = taught.scores, taught.apart
        recall = taught.recall if value == TAUGHT_THRESHOLD else None
    return ThresholdBody(
        value=value,
        source=now["source"],
        taught=is_taught,
        goods_scores=list(goods),
        promise=_promise(goods, value, apart) if goods else None,
        recall=_recall(*recall) if recall is not None else None,
    )


def _of_offer(parts: WebParts, camera: str) -> float:
    """The threshold after a commit that names none: one of an earlier command no longer applies."""
    decision = next(one.decision for one in parts.config.every_camera if one.name == camera)
    return TAUGHT_THRESHOLD if decision is None or decision.threshold is None else decision.threshold


def _promise(goods: Sequence[float], value: float, apart: int) -> PromiseBody:
    kept = promise_at(goods, value, apart=apart)
    return PromiseBody(rate=kept.rate, rate_90=kept.rate_90, goods=kept.goods, rejected=kept.rejected)


def _recall(found: int, total: int) -> RecallBody:
    low, high = recall_interval(found, total)
    return RecallBody(found=found, total=total, low=low, high=high)


class _Taught(BaseModel):
    """What the routes need of a profile, which may have 20 MB."""

    body: TaughtBody
    scores: tuple[float, ...]  # of goods, in [0, 1]
    apart: int  # further goods, which the promise counts as rejected
    recall: tuple[int, int] | None  # found, of so many bad parts


def _taught(store: ProfileStore | None, product: str) -> _Taught | None:
    """None: nothing was taught.

    Raises:
        ProfileError: the profile is damaged.
    """
    stamp = store.stamp(product) if store is not None else None
    return None if store is None or stamp is None else _read_profile(store.folder, product, stamp)


@lru_cache(maxsize=32)
def _read_profile(folder: Path, product: str, stamp: tuple[int, int, int]) -> _Taught:
    """`stamp`: of the profile in use, so that each is read once."""
    entry = ProfileStore(folder).entry(product)
    profile = entry.profile
    if profile is None:
        raise ProfileError(entry.fault or f"what was taught for {product} was removed just now")
    level = profile.levels[-1]
    body = TaughtBody(
        made_at=profile.made_at,
        goods=len(profile.goods_scores),
        false_reject_rate=level.false_reject_rate,
        false_reject_rate_90=level.false_reject_rate_90,
        sha256=profile.sha256,
        versions=list(entry.numbers),
    )
    recall = None if level.recall is None else (level.recall.found, level.recall.total)
    scores = tuple(to_unit(np.array(profile.goods_scores), level.scale).tolist())
    return _Taught(body=body, scores=scores, apart=len(profile.apart), recall=recall)


@router.get("/products")
def list_products(parts: Parts, visitor: ForOperator) -> list[ProductBody]:
    """Lists the products that can be chosen: those of the bundle, and those that were taught."""
    in_bundle = set(parts.models.current.bundle.manifest.products)
    names = in_bundle | set(parts.profiles.products() if parts.profiles is not None else ())
    return [_product(parts.profiles, name, name in in_bundle) for name in sorted(names)]


def _product(store: ProfileStore | None, name: str, in_bundle: bool) -> ProductBody:
    try:
        found = _taught(store, name)
    except ProfileError as error:
        return ProductBody(name=name, taught=None, in_bundle=in_bundle, fault=str(error))
    return ProductBody(name=name, taught=None if found is None else found.body, in_bundle=in_bundle, fault=None)


@router.delete("/products/{product}", status_code=204)
def remove_product(product: str, parts: Parts, visitor: ForAdmin) -> None:
    """Removes what was taught about a product that no camera uses."""
    using = [station.name for station in parts.stations if station.inspector.product == product]
    if using:
        raise HTTPException(409, f"{', '.join(using)} inspects {product!r}: choose another product there first")
    if parts.profiles is None or product not in parts.profiles.products():
        raise HTTPException(404, f"nothing was taught for {product!r}")
    parts.profiles.remove(product)
    visitor.note(f"product {product} removed")


@router.get("/devices")
def read_devices(parts: Parts, visitor: ForAdmin) -> list[DeviceBody]:
    """Lists the cameras that are connected to this device."""
    return [
        DeviceBody(
            key=device.key,
            id=device.id,
            path=device.path,
            by_id=device.by_id,
            name=device.name,
            used_by=next((camera.name for camera in parts.config.every_camera if _path(camera) == device.path), None),
        )
        for device in (*list_devices(), *list_genicam())
    ]


def _path(config: SourceConfig) -> str | None:
    """The device file of a camera, or the id of a GenICam camera."""
    if config.camera is None:
        return config.aravis
    return os.path.realpath(f"/dev/video{int(config.camera)}" if config.camera.isdigit() else config.camera)


@router.post("/probe/source", response_class=Response, responses=JPEG)
def try_source(body: SourceProbe, parts: Parts, visitor: ForAdmin) -> Response:
    """Shows one picture of a source that is not in the config yet.

    An admin may name any address that this device can reach, as in the config. Only pictures and videos come back.
    """
    named = {key: value for key, value in body if value is not None}
    if len(named) != 1:
        raise HTTPException(422, "name either camera, source or aravis")
    if body.source is not None:  # the page shows addresses without their passwords
        named["source"] = in_full(body.source, parts)
    try:
        wanted = SourceConfig(**named)
    except ValidationError as error:
        raise _refused(error) from error
    visitor.note("source tried", after=redacted(*named.values()))
    for station, config in zip(parts.stations, parts.config.every_camera, strict=True):
        is_same = wanted.source == config.source if wanted.source else _path(wanted) == _path(config)
        if is_same and (newest := newest_frame(station)) is not None:  # a camera can be opened once
            return Response(as_jpeg(newest, PROBE_WIDTH), media_type="image/jpeg")
    return Response(probe_source(wanted), media_type="image/jpeg")


@router.post("/probe/broker")
def try_broker(body: BrokerProbe, parts: Parts, visitor: ForAdmin) -> BrokerAnswer:
    """Connects to a broker, and says in words what is wrong and what to do.

    An admin may name any address that this device can reach, as in the config. The password of the config is sent only
    to the broker of the config.
    """
    if body.password is not None and body.username is None:
        raise HTTPException(422, "password: MQTT needs a username with it")
    now = parts.config.mqtt
    broker = body.broker or now.broker
    if broker == now.broker == EMBEDDED_BROKER:
        return BrokerAnswer(ok=True, text="the broker runs inside the agent")
    changes: dict[str, Any] = {"broker": broker, "client_id": body.client_id}
    if not broker.startswith("mqtts:"):
        changes["tls"] = {}
    if body.username is not None or broker != now.broker:
        changes |= {"username": body.username, "password_file": None, "password_credential": None}
    try:
        wanted = MqttConfig.model_validate(now.model_dump() | changes, strict=False)
    except ValidationError as error:
        raise _refused(error) from error
    own_id = now.client_id or f"zsad-agent-{parts.config.device_id}"
    if body.client_id == own_id and wanted.broker == now.broker:
        wanted = wanted.model_copy(update={"client_id": None})  # it would end the agent's own connection
    visitor.note("broker tried", after=wanted.broker)
    password = body.password.get_secret_value() if body.password is not None else None
    ok, text = probe_broker(wanted, password=password)
    return BrokerAnswer(ok=ok, text=text)


def _refused(error: ValidationError) -> HTTPException:
    """Without the value, which may hold credentials."""
    fault = error.errors(include_input=False)[0]
    return HTTPException(422, f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}")
