"""Results, pictures, marks, reports, scores and the CSV file, over real sockets with a real history and evidence."""

import csv
import io
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import jsonschema
import numpy as np
import pytest
from mqtt_listener import wait_until
from page_server import Client, make_server
from result_maker import START, make_result

from zsad_agent.config import EvidenceConfig
from zsad_agent.evidence import EvidenceStore
from zsad_agent.history import HistoryStore
from zsad_agent.messages import Result
from zsad_agent.web import results_api
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

PICTURE = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
OVERLAY = cv2.imencode(".jpg", PICTURE[::2, ::2])[1].tobytes()


@dataclass
class TeachCommands:
    """Takes every command, or refuses it with `refusal`."""

    taken: list[tuple[str | None, str, Any, str]] = field(default_factory=list)
    refusal: str | None = None

    def perform(self, camera: str | None, key: str, value: Any, *, by: str) -> dict[str, Any]:
        if self.refusal is not None:
            raise ZsadError(self.refusal)
        self.taken.append((camera, key, value, by))
        return {"value": value, "source": "command"}


@dataclass
class Page:
    client: Client
    history: HistoryStore
    evidence: EvidenceStore
    commands: TeachCommands
    folder: Path

    def put(self, *results: Result, image: np.ndarray | None = None) -> None:
        for result in results:
            self.history.accept(result)
            if image is not None:
                self.evidence.keep(result, image, OVERLAY)
        wait_until(lambda: not self.history.waiting)
        if image is not None:
            wait_until(lambda: self.evidence.stats.kept == len(results))

    def seqs(self, query: str = "") -> list[int]:
        answer = self.client.ask("GET", f"/results{query}")
        assert answer.status == 200, answer.body
        return [result["seq"] for result in answer.json["results"]]


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    folder = tmp_path / "evidence"
    commands = TeachCommands()
    with (
        HistoryStore(tmp_path / "history.sqlite3") as history,
        EvidenceStore(EvidenceConfig(min_free_bytes=0), folder) as evidence,
        make_server(tmp_path, history=history, evidence_folder=folder, commands=commands) as server,
    ):
        assert server.port is not None
        yield Page(Client(server.port).open(), history, evidence, commands, folder)


def test_small_picture_is_made_once_for_all_pages(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [make_result(seq) for seq in range(2)]
    rng = np.random.default_rng()
    page.put(results[0], image=rng.integers(0, 255, PICTURE.shape, dtype=np.uint8))
    made: list[int] = []
    shrink = results_api.shrunk
    monkeypatch.setattr(results_api, "shrunk", lambda jpeg, width: made.append(width) or shrink(jpeg, width))
    path = f"/results/{results[0].id}/picture.jpg?width="
    first, again, other = (page.client.ask("GET", f"{path}{width}").body for width in (64, 64, 32))
    assert first == again and len(other) < len(first) and made == [64, 32]
    wide = [page.client.ask("GET", f"{path}630").body for _ in range(2)]
    assert wide[0] == wide[1] and made == [64, 32, 630, 630]  # too large to keep
    assert len(results_api._small) <= results_api.MOST_SMALL


def test_question_for_a_stored_result_does_not_hurry_the_disk(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.put(make_result(1))
    urged: list[bool] = []
    monkeypatch.setattr(HistoryStore, "waiting", property(lambda history: 1))
    monkeypatch.setattr(HistoryStore, "is_copied", lambda history: urged.append(True) or True)
    assert page.client.ask("GET", f"/results/{make_result(1).id}").status == 200 and urged == []
    assert page.client.ask("GET", "/results/unknown").status == 404 and urged == [True]


def test_empty_history_answers_empty(page: Page) -> None:
    assert page.client.ask("GET", "/results").json == {"results": [], "next": None}
    found = page.client.ask("GET", "/reports").json
    assert (found["rows"], found["regions"], found["total"]["yield"]) == ([], [], None)
    assert found["shifts"] == ["06:00", "14:00", "22:00"]
    assert page.client.ask("GET", "/scores?camera=cam0").json == {"at": [], "score": [], "verdict": [], "threshold": []}
    assert len(page.client.ask("GET", "/results.csv").body.splitlines()) == 1


def test_results_come_as_published_with_mark_and_whether_there_is_a_picture(page: Page) -> None:
    result = make_result(1, source_name='na"me, ü.png')
    page.put(result, image=PICTURE)
    page.put(make_result(2, verdict=Verdict.OK))
    newest, first = page.client.ask("GET", "/results").json["results"]
    published = json.loads(result.encode())
    assert first == published | {"mark": None, "has_picture": True}
    assert newest["has_picture"] is False
    assert page.client.ask("GET", f"/results/{result.id}").json == first


def test_pages_follow_each_other_and_filters_apply(page: Page) -> None:
    page.put(
        *(
            make_result(
                seq,
                verdict=list(Verdict)[seq % 3],
                camera=f"cam{seq % 2}",
                captured_at=START + timedelta(minutes=seq),
                trigger_id=f"T-{seq:03}",
            )
            for seq in range(30)
        )
    )
    first = page.client.ask("GET", "/results?limit=20").json
    assert [result["seq"] for result in first["results"]] == list(range(29, 9, -1))
    assert page.seqs(f"?limit=20&before={first['next']}") == list(range(9, -1, -1))
    assert page.seqs("?verdict=anomalous&verdict=unknown&camera=cam1&limit=3") == [29, 25, 23]
    since, until = quote("2026-11-25T10:33:03Z"), quote("2026-11-25T11:35:03+01:00")
    assert page.seqs(f"?from={since}&to={until}") == [6, 5]
    assert page.seqs("?name=t-01&limit=2") == [19, 18]
    assert page.seqs("?product=other") == []


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/results?limit=0", 422, "limit"),
        ("/results?limit=501", 422, "501"),
        ("/results?from=yesterday", 422, "yesterday"),
        ("/results?from=2026-11-25T10:00:00", 422, "time zone"),
        ("/results?verdict=bad", 422, "bad"),
        ("/results?mark=1", 422, "mark"),
        ("/results?before=x", 422, "before"),
        ("/results?before=99999999999999999999", 422, "before"),
        ("/results?camara=cam0", 422, "camara"),
        (f"/results?name={'x' * 201}", 422, "name"),
        ("/results/none", 404, "no result 'none'"),
        ("/results/none/picture.jpg", 404, "no result"),
        ("/results/%2e%2e%2fhistory.sqlite3", 404, ""),
        ("/results/..%2f..%2fetc%2fpasswd/picture.jpg", 404, ""),
        ("/reports?by=week", 422, "week"),
        ("/scores", 422, "camera"),
        ("/scores?camera=cam0&minutes=0", 422, "minutes"),
        ("/scores?camera=cam0&points=99999", 422, "points"),
    ],
)
def test_wrong_questions_are_refused_with_the_reason(page: Page, path: str, status: int, words: str) -> None:
    answer = page.client.ask("GET", path)
    assert answer.status == status, answer.body
    assert words in answer.error


def test_extreme_times_are_answered(page: Page) -> None:
    page.put(make_result(1))
    for text in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        for route in ("results?", "reports?by=hour&", "reports?by=day&", "reports?by=shift&", "results.csv?"):
            for key in ("from", "to"):
                answer = page.client.ask("GET", f"/{route}{key}={text}")
                assert answer.status in (200, 422), (route, key, text, answer.body)


def test_picture_and_overlay_come_from_evidence_in_the_asked_width(page: Page) -> None:
    result = make_result(1, id="line3-..-odd id.overlay")
    page.put(result, image=PICTURE)
    below = f"/results/{quote(result.id)}"
    whole = page.client.ask("GET", f"{below}/picture.jpg")
    assert whole.headers["Content-Type"] == "image/jpeg"
    assert cv2.imdecode(np.frombuffer(whole.body, np.uint8), 1).shape == (480, 640, 3)
    for width, shape in ((160, (120, 160, 3)), (100, (75, 100, 3)), (639, (479, 639, 3)), (4096, (480, 640, 3))):
        small = page.client.ask("GET", f"{below}/picture.jpg?width={width}").body
        assert cv2.imdecode(np.frombuffer(small, np.uint8), 1).shape == shape
    assert page.client.ask("GET", f"{below}/overlay.jpg").body == OVERLAY


def test_missing_picture_is_404_with_the_reason(page: Page) -> None:
    page.put(make_result(1, verdict=Verdict.OK))
    answer = page.client.ask("GET", "/results/line3-b1-1/picture.jpg")
    assert answer.status == 404 and "no pass (evidence.passes_every)" in answer.error


def test_link_in_the_evidence_is_not_followed(page: Page, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(OVERLAY)
    page.put(make_result(1))
    day = page.folder / "cam0" / "2026-11-25"
    day.mkdir(parents=True)
    (day / "102803.001-line3-b1-1.jpg").symlink_to(secret)
    assert page.client.ask("GET", "/results/line3-b1-1").json["has_picture"] is False
    assert page.client.ask("GET", "/results/line3-b1-1/picture.jpg").status == 404


def test_mark_is_stored_learned_audited_and_counted(page: Page, tmp_path: Path) -> None:
    page.put(make_result(1), make_result(2, verdict=Verdict.OK))
    answer = page.client.ask("POST", "/results/line3-b1-1/mark", {"good": True})
    assert answer.status == 200 and answer.json["mark"] == "good"
    assert page.commands.taken == [("cam0", "teach", {"action": "good", "id": "line3-b1-1"}, "admin")]
    assert page.seqs("?mark=good") == [1]
    assert page.client.ask("GET", "/results/line3-b1-1").json["mark"] == "good"
    assert page.client.ask("GET", "/reports?from=2026-11-01T00:00:00Z").json["total"]["overrides"] == 1
    (line,) = page.client.ask("GET", "/audit").json
    assert (line["what"], line["before"], line["after"]) == ("mark of line3-b1-1", None, "good")


def test_mark_stays_if_nothing_can_be_learned_from_it(page: Page) -> None:
    page.put(make_result(1))
    page.commands.refusal = "the picture of result line3-b1-1 is no longer there"
    answer = page.client.ask("POST", "/results/line3-b1-1/mark", {"good": False})
    assert answer.status == 200 and "no longer there" in answer.json["text"]
    assert page.seqs("?mark=bad") == [1]


@pytest.mark.parametrize("body", [None, {}, {"good": "perhaps"}, {"good": True, "more": 1}, b"{"])
def test_wrong_marks_are_refused(page: Page, body: Any) -> None:
    page.put(make_result(1))
    assert page.client.ask("POST", "/results/line3-b1-1/mark", body).status == 422
    assert page.client.ask("POST", "/results/line3-b1-9/mark", {"good": True}).status == 404
    assert page.seqs("?mark=good") == []


def test_report_by_hour(page: Page) -> None:
    page.put(
        make_result(1, verdict=Verdict.OK, anomaly_score=0.1),
        make_result(2, verdict=Verdict.ANOMALOUS, anomaly_score=0.9),
        make_result(3, verdict=Verdict.UNKNOWN),
        make_result(4, verdict=Verdict.OK, camera="cam1", captured_at=START + timedelta(hours=1)),
    )
    found = page.client.ask("GET", "/reports?by=hour&from=2026-11-25T00:00:00Z&to=2026-11-26T00:00:00Z").json
    first = found["rows"][0]
    assert {**first, "score_p50": None, "score_p95": None} == {
        "start": "2026-11-25T10:00:00.000Z",
        "end": "2026-11-25T11:00:00.000Z",
        "camera": "cam0",
        "ok": 1,
        "anomalous": 1,
        "unknown": 1,
        "yield": 1 / 3,
        "overrides": 0,
        "score_p50": None,
        "score_p95": None,
    }
    assert first["score_p50"] == pytest.approx(0.1, abs=0.003) and first["score_p95"] == pytest.approx(0.9, abs=0.003)
    assert found["total"]["ok"] == 2 and len(found["rows"]) == 2
    assert found["regions"] == [{"camera": "cam0", "bbox_xywh": [0, 0, 80, 60], "count": 1}]
    alone = page.client.ask("GET", "/reports?by=hour&from=2026-11-25T00:00:00Z&camera=cam1").json
    assert [row["camera"] for row in alone["rows"]] == ["cam1"]


def test_scores_of_the_last_minutes(page: Page) -> None:
    now = datetime.now(UTC)
    page.put(
        make_result(1, captured_at=now - timedelta(minutes=90)),
        make_result(2, captured_at=now - timedelta(minutes=30), verdict=Verdict.UNKNOWN),
        make_result(3, captured_at=now),
    )
    found = page.client.ask("GET", "/scores?camera=cam0&minutes=60").json
    assert found["score"] == [None, 0.9]
    assert found["verdict"] == ["unknown", "anomalous"]
    assert found["threshold"] == [0.5, 0.5]
    assert found["at"][1] == pytest.approx(time.time() * 1000, abs=60_000)


def test_csv_has_every_result_and_no_formula(page: Page) -> None:
    odd = '=HYPERLINK("http://x")\n, ü'
    page.put(*(make_result(seq, source_name=odd if seq == 7 else None) for seq in range(1200)))
    answer = page.client.ask("GET", "/results.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert "results.csv" in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
    assert [int(row["seq"]) for row in rows] == list(range(1199, -1, -1))
    assert rows[-8]["source_name"] == f"'{odd}"
    assert (rows[0]["regions"], rows[0]["bundle"], rows[0]["mark"]) == ("1x2x3x4", "test 1", "")
    assert len(page.client.ask("GET", "/results.csv?limit=3&verdict=anomalous").body.splitlines()) == 4


def test_csv_for_a_spreadsheet_with_decimal_commas(page: Page) -> None:
    page.put(make_result(1, source_name="a;b, 1.5 ü.png"))
    text = page.client.ask("GET", "/results.csv?decimal=comma").body.decode()
    assert text.startswith("\ufeffid;")
    (row,) = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""), delimiter=";")
    assert (row["anomaly_score"], row["source_name"], row["seq"]) == ("0,9", "a;b, 1.5 ü.png", "1")


def test_history_that_is_off_or_broken_is_said(page: Page, tmp_path: Path) -> None:
    with make_server(tmp_path / "other") as server:
        assert server.port is not None
        other = Client(server.port).open()
        for path in ("/results", "/results.csv", "/results/x", "/reports", "/scores?camera=a"):
            answer = other.ask("GET", path)
            assert answer.status == 404 and "history.enabled" in answer.error
    foreign = tmp_path / "not-made"
    foreign.write_text("")
    with HistoryStore(foreign / "history.sqlite3") as history, make_server(tmp_path, history=history) as server:
        assert server.port is not None
        wait_until(lambda: history.fault is not None)
        for path in ("/results", "/results.csv"):
            answer = Client(server.port).ask("GET", path)
            assert answer.status == 503 and str(foreign) in answer.error


def test_document_of_the_routes_describes_their_answers(page: Page) -> None:
    document = page.client.ask("GET", "/openapi.json").json
    below = {path.removeprefix("/api/v1"): routes for path, routes in document["paths"].items()}
    answers = {
        path: list(below[path]["get"]["responses"]["200"]["content"])
        for path in ("/results", "/results.csv", "/results/{result_id}", "/results/{result_id}/picture.jpg", "/reports")
    }
    assert answers == {
        "/results": ["application/json"],
        "/results.csv": ["text/csv"],
        "/results/{result_id}": ["application/json"],
        "/results/{result_id}/picture.jpg": ["image/jpeg"],
        "/reports": ["application/json"],
    }
    shown = document["components"]["schemas"]["ShownResult"]
    assert "$id" not in shown  # it would change what the references inside mean
    assert {"schema", "id", "anomaly_score", "mark", "has_picture"} <= set(shown["properties"])
    assert "yield" in document["components"]["schemas"]["ReportRow"]["properties"]
    page.put(make_result(1), make_result(2, verdict=Verdict.UNKNOWN), make_result(3, trigger_id="t", source_name="s"))
    for result in page.client.ask("GET", "/results").json["results"]:
        jsonschema.validate(result, {**shown, "components": document["components"]})
