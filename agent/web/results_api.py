"""Results of the past with their pictures, marks of people, reports, the plot of scores, and the CSV file."""

import contextlib
import csv
import io
import json
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from datetime import datetime
from datetime import time as time_of_day
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import simplejpeg
from fastapi import APIRouter, HTTPException, Path, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from zsad_agent.evidence import OVERLAY, PICTURE, is_kept, read_kept
from zsad_agent.history import By, HistoryStore, Report, Stored, Wanted, find, find_one, milliseconds, report, scores
from zsad_agent.history import ReportRow as HistoryRow
from zsad_agent.messages import Result
from zsad_agent.system import utc_text
from zsad_agent.web.hub import as_jpeg
from zsad_agent.web.live import Width
from zsad_agent.web.ports import Body, ForOperator, Parts, WebParts
from zsad_core.errors import HistoryError, ZsadError
from zsad_core.types import Verdict

CSV_PAGE = 500  # results that one query of the CSV file reads
KEPT_S = 3600  # in the browser; a picture of a result does not change
DAY_MS = 86_400_000
COLUMNS = (  # of the CSV file; the rest are parts of a result
    "id",
    "captured_at",
    "camera",
    "seq",
    "product",
    "verdict",
    "anomaly_score",
    "threshold",
    "reason",
    "source_name",
    "trigger_id",
    "provisional",
)
MORE_COLUMNS = ("regions", "latency_ms", "bundle", "profile", "mark")
MOST_SMALL, MOST_SMALL_BYTES = 64, 100_000  # small pictures in memory, and the size of one
_shrinking = threading.Lock()  # one at a time: the other cores are for the inspection
_small: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # by the hash of the whole picture, and the width

ResultId = Annotated[str, Path(max_length=300)]
Name = Annotated[str, Field(max_length=200)]
Mark = Literal["good", "bad"]

router = APIRouter(tags=["results"])


class Filter(Body):
    """Which results. All values are texts in the address."""

    model_config = ConfigDict(strict=False)

    from_: AwareDatetime | None = Field(default=None, alias="from", description="Captured at this time or later.")
    to: AwareDatetime | None = Field(default=None, description="Captured before this time.")
    camera: Name | None = None
    verdict: list[Verdict] = Field(default=[], max_length=3)
    product: Name | None = None
    name: Name = Field(default="", description="Part of the file's name or of the trigger's id.")
    mark: Mark | None = Field(default=None, description="What a person said.")
    before: int | None = Field(default=None, ge=1, lt=1 << 62, description="`next` of the page before this one.")

    @property
    def wanted(self) -> Wanted:
        return Wanted(
            from_ms=_to_ms(self.from_),
            to_ms=_to_ms(self.to),
            camera=self.camera,
            verdicts=frozenset(self.verdict),
            product=self.product,
            name=self.name,
            good=None if self.mark is None else self.mark == "good",
        )


class PageFilter(Filter):
    limit: int = Field(default=50, ge=1, le=500)


class CsvFilter(Filter):
    limit: int | None = Field(default=None, ge=1, lt=1 << 62, description="Without it, all results.")
    decimal: Literal["point", "comma"] = Field(
        default="point",
        description="comma: for a spreadsheet that writes numbers so. Semicolons separate the cells then, and the text "
        "begins with a byte order mark.",
    )


class ShownResult(Result, json_schema_extra={}):
    """The result as it was published, and what is known about it now."""

    mark: Mark | None = Field(description="What a person said.")
    has_picture: bool


class ResultPage(BaseModel):
    results: list[ShownResult]
    next: str | None = Field(description="`before` of the next page; null: no more. A page before it may be short.")


class GivenMark(Body):
    good: bool


class MarkBody(BaseModel):
    mark: Mark
    text: str = Field(description="What was learned from it, as text.")


class ReportCounts(BaseModel):
    ok: int
    anomalous: int
    unknown: int
    rate: float | None = Field(alias="yield", description="Share of ok among all; null without results.")
    overrides: int = Field(description="Results that a person disagreed with.")
    score_p50: float | None
    score_p95: float | None


class ReportRow(ReportCounts):
    start: str
    end: str
    camera: str


class ReportRegion(BaseModel):
    camera: str
    bbox_xywh: tuple[int, int, int, int] = Field(description="One of 8 x 8 cells of the frame.")
    count: int = Field(description="Regions of rejects whose centre is in the cell.")


class ReportBody(BaseModel):
    rows: list[ReportRow] = Field(description="Hours, days or shifts of local time with results, the oldest first.")
    total: ReportCounts
    regions: list[ReportRegion]
    shifts: list[str]


class Scores(BaseModel):
    """The four lists have the same length."""

    at: list[int] = Field(description="Milliseconds since 1970.")
    score: list[float | None]
    verdict: list[Verdict]
    threshold: list[float]


@router.get("/results", responses={200: {"model": ResultPage}})
def list_results(asked: Annotated[PageFilter, Query()], parts: Parts, visitor: ForOperator) -> Response:
    """Finds results, the newest first. A page may end early, so that it never takes long; `next` goes on."""
    with _reading(parts) as db:
        found = find(db, asked.wanted, before=asked.before, limit=asked.limit)
    shown = b",".join(_shown(stored, parts) for stored in found.results)
    end = json.dumps(None if found.next is None else str(found.next)).encode()
    return Response(b'{"results":[%b],"next":%b}' % (shown, end), media_type="application/json")


@router.get("/results.csv", response_class=StreamingResponse, responses={200: {"content": {"text/csv": {}}}})
def export_results(asked: Annotated[CsvFilter, Query()], parts: Parts, visitor: ForOperator) -> StreamingResponse:
    """All matching results as a table, the newest first."""
    with _reading(parts):  # a fault must be answered before the first line
        pass
    disposition = {"Content-Disposition": 'attachment; filename="results.csv"'}
    return StreamingResponse(_csv(parts, asked), media_type="text/csv; charset=utf-8", headers=disposition)


@router.get("/results/{result_id}", responses={200: {"model": ShownResult}})
def read_result(result_id: ResultId, parts: Parts, visitor: ForOperator) -> Response:
    """One result."""
    return Response(_shown(_find(parts, result_id), parts), media_type="application/json")


@router.get(
    "/results/{result_id}/picture.jpg", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}}
)
def read_picture(result_id: ResultId, parts: Parts, visitor: ForOperator, width: Width | None = None) -> Response:
    """The picture of a result, as far as `evidence` keeps it."""
    return _picture(parts, result_id, PICTURE, width)


@router.get(
    "/results/{result_id}/overlay.jpg", response_class=Response, responses={200: {"content": {"image/jpeg": {}}}}
)
def read_overlay(result_id: ResultId, parts: Parts, visitor: ForOperator, width: Width | None = None) -> Response:
    """The picture with its heatmap."""
    return _picture(parts, result_id, OVERLAY, width)


@router.post("/results/{result_id}/mark")
def mark_result(result_id: ResultId, given: GivenMark, parts: Parts, visitor: ForOperator) -> MarkBody:
    """A person says whether the part was good. The product's profile learns from it if it can."""
    stored = _find(parts, result_id)
    before, mark = _mark_of(stored.good), _mark_of(given.good)
    assert mark is not None
    with _available():
        if not _history(parts).mark(result_id, good=given.good, who=visitor.role):
            raise _unknown(result_id)
    visitor.note(f"mark of {result_id}", before, mark)
    value = {"action": mark, "id": result_id}
    try:
        answer = parts.commands.perform(stored.camera, "teach", value, by=visitor.role)
    except ZsadError as error:
        text = f"{result_id} is marked as {mark}. Learning from it: {error}"
    else:
        text = str(answer.get("error") or f"{result_id} is marked as {mark}, and its product learns from it")
    return MarkBody(mark=mark, text=text)


@router.get("/reports")
def read_report(
    parts: Parts,
    visitor: ForOperator,
    from_: Annotated[AwareDatetime | None, Query(alias="from", description="Default: 7 days before now.")] = None,
    to: AwareDatetime | None = None,
    camera: Annotated[str | None, Query(max_length=200)] = None,
    by: By = By.DAY,
) -> ReportBody:
    """Counts by hour, day or shift of local time. The first and the last are whole ones."""
    shifts = parts.config.history.shifts
    from_ms = int(time.time() * 1000) - 7 * DAY_MS if from_ is None else _to_ms(from_)
    starts = [time_of_day.fromisoformat(start) for start in shifts]
    try:
        with _reading(parts) as db:
            found = report(db, by=by, shifts=starts, from_ms=from_ms, to_ms=_to_ms(to), camera=camera)
    except ValueError as error:
        raise HTTPException(422, str(error)) from error
    return _report_body(found, shifts)


@router.get("/scores")
def read_scores(
    parts: Parts,
    visitor: ForOperator,
    camera: Annotated[str, Query(max_length=200)],
    minutes: Annotated[int, Query(ge=1, le=60 * 24 * 366)] = 60,
    points: Annotated[int, Query(ge=1, le=5000)] = 600,
) -> Scores:
    """Scores of a camera for a plot, in the order of inspection. Of several results per point, the worst one."""
    from_ms = int(time.time() * 1000) - minutes * 60_000
    with _reading(parts) as db:
        found = scores(db, camera, from_ms=from_ms, points=points)
    return Scores(
        at=[row[0] for row in found],
        score=[row[1] for row in found],
        verdict=[Verdict(row[2]) for row in found],
        threshold=[row[3] for row in found],
    )


def _history(parts: WebParts) -> HistoryStore:
    if parts.history is None:
        raise HTTPException(404, "the history is off: set history.enabled to true in the config")
    return parts.history


@contextlib.contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except HistoryError as error:
        raise HTTPException(503, str(error)) from error


@contextlib.contextmanager
def _reading(parts: WebParts) -> Iterator[sqlite3.Connection]:
    with _available(), _history(parts).reading() as db:
        yield db


def _find(parts: WebParts, result_id: str) -> Stored:
    with _reading(parts) as db:
        stored = find_one(db, result_id)
    if stored is None and _history(parts).waiting:
        _history(parts).is_copied()  # the result may be so new that it is not stored yet
        with _reading(parts) as db:
            stored = find_one(db, result_id)
    if stored is None:
        raise _unknown(result_id)
    return stored


def _unknown(result_id: str) -> HTTPException:
    return HTTPException(404, f"there is no result {result_id!r}, or it is older than the history")


def _shown(stored: Stored, parts: WebParts) -> bytes:
    """The published JSON with two more keys."""
    folder = parts.evidence_folder
    has_picture = folder is not None and is_kept(folder, stored)
    more = json.dumps({"mark": _mark_of(stored.good), "has_picture": has_picture})
    return stored.body.rstrip()[:-1] + b"," + more[1:].encode()


def _mark_of(good: bool | None) -> Mark | None:
    return None if good is None else "good" if good else "bad"


def _picture(parts: WebParts, result_id: str, suffix: str, width: int | None) -> Response:
    folder, evidence = parts.evidence_folder, parts.config.evidence
    stored = _find(parts, result_id)
    if folder is None:
        raise HTTPException(404, "no pictures are kept: set evidence.enabled to true in the config")
    jpeg = read_kept(folder, stored, suffix)
    if jpeg is None:
        passes = f"every {evidence.passes_every}th pass" if evidence.passes_every else "no pass (evidence.passes_every)"
        raise HTTPException(
            404,
            f"no such picture of {result_id}: evidence keeps rejects and unknown parts and {passes}, for "
            f"{evidence.max_days:g} days at most. A result of a camera fault has no picture",
        )
    if width is not None:
        jpeg = _made_small(jpeg, width)
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={KEPT_S}"})


def _made_small(jpeg: bytes, width: int) -> bytes:
    """As `shrunk`. Every open page asks for the same pictures: each is made once."""
    key = (hash(jpeg), width)
    with _shrinking:
        small = _small.get(key) or shrunk(jpeg, width)
        if len(small) <= MOST_SMALL_BYTES:
            _small[key] = small
        if len(_small) > MOST_SMALL:
            _small.popitem(last=False)
        return small


def shrunk(jpeg: bytes, width: int) -> bytes:
    """The JPEG at most `width` pixels wide. One that cannot be decoded is returned as it is."""
    try:
        full_width = simplejpeg.decode_jpeg_header(jpeg)[1]
    except ValueError:
        return jpeg
    if full_width <= width:
        return jpeg
    reduced = [
        flag
        for factor, flag in (
            (8, cv2.IMREAD_REDUCED_COLOR_8),
            (4, cv2.IMREAD_REDUCED_COLOR_4),
            (2, cv2.IMREAD_REDUCED_COLOR_2),
        )
        if full_width // factor >= width
    ]
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), reduced[0] if reduced else cv2.IMREAD_COLOR)
    if image is None:
        return jpeg
    return as_jpeg(image, width)


def _csv(parts: WebParts, asked: CsvFilter) -> Iterator[str]:
    """Lines of the table. Each query is short, however slowly the client reads."""
    comma = asked.decimal == "comma"
    yield ("\ufeff" if comma else "") + _line([*COLUMNS, *MORE_COLUMNS], comma)
    before, left = asked.before, asked.limit if asked.limit is not None else 1 << 62
    while left > 0:
        with _history(parts).reading() as db:
            found = find(db, asked.wanted, before=before, limit=min(CSV_PAGE, left))
        yield "".join(_line(_cells(stored), comma) for stored in found.results)
        left -= len(found.results)
        if found.next is None:
            return
        before = found.next


def _cells(stored: Stored) -> list[Any]:
    result = stored.message
    more = (
        " ".join("x".join(map(str, region["bbox_xywh"])) for region in result["regions"]),
        result["latency_ms"]["capture_to_result"],
        "{name} {version}".format(**result["bundle"]),
        (result.get("profile") or {}).get("sha256"),
        _mark_of(stored.good),
    )
    return [*(result.get(column) for column in COLUMNS), *more]


def _line(cells: Sequence[Any], comma: bool) -> str:
    """A line of CSV. Text that a spreadsheet would calculate gets an apostrophe: a file's name may hold anything."""
    text = io.StringIO()
    safe = [f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell for cell in cells]
    if comma:
        safe = [str(cell).replace(".", ",") if isinstance(cell, float) else cell for cell in safe]
    csv.writer(text, delimiter=";" if comma else ",").writerow(safe)
    return text.getvalue()


def _report_body(found: Report, shifts: Sequence[str]) -> ReportBody:
    def counts(row: Any) -> dict[str, Any]:
        p50, p95 = row.quantiles(0.5, 0.95)
        sums = {name: getattr(row, name) for name in ("ok", "anomalous", "unknown", "overrides")}
        return {**sums, "yield": row.rate, "score_p50": p50, "score_p95": p95}

    def whole(row: HistoryRow) -> ReportRow:
        start, end = utc_text(row.start), utc_text(row.end)
        return ReportRow(start=start, end=end, camera=row.camera, **counts(row.counts))

    return ReportBody(
        rows=[whole(row) for row in found.rows],
        total=ReportCounts(**counts(found.total)),
        regions=[
            ReportRegion(camera=cell.camera, bbox_xywh=cell.bbox_xywh, count=cell.count) for cell in found.regions
        ],
        shifts=list(shifts),
    )


def _to_ms(moment: datetime | None) -> int | None:
    return None if moment is None else milliseconds(moment)
