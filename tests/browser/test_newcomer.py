"""A newcomer's whole way in a real browser against a real agent: first visit, region, teach-in, threshold, reject."""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser_visit import Visit
from mosquitto_broker import MosquittoBroker
from playwright.sync_api import Error, FloatRect, Locator, expect
from station import BORDER, FPS, ROOT, START_S, Parts, Station, until

PASSWORD = "correct horse"
LEARN_MS = 180_000  # a few seconds on a machine without other work: learning has a low priority
COUNT = {"commutator": 20, "alien": 16}
KSDD = ROOT.parent / "shared/datasets/ksdd/commutator"
CRACKS = ("kos27_Part0_1", "kos29_Part0_2", "kos34_Part0_1", "kos47_Part2_1")  # large ones
DEMO = ROOT / "demo/teach"


def parts_of(product: str) -> Parts:
    if product == "alien":
        tests = sorted((DEMO / "test").glob("*.jpg"))
        return Parts(product=product, goods=sorted((DEMO / "good").glob("*.jpg")), line=tests, as_files=True)
    if not KSDD.is_dir():
        pytest.skip(f"needs the data set KolektorSDD in {KSDD}")
    goods = sorted((KSDD / "train/good").glob("*.jpg"))
    bads = [KSDD / f"test/crack/{name}.jpg" for name in CRACKS]
    return Parts(product=product, goods=goods[:20], line=[*goods[20:26], *bads])


@pytest.fixture(params=["alien", pytest.param("commutator", marks=pytest.mark.chaos)])
def station(
    request: pytest.FixtureRequest, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> Iterator[Station]:
    with Station(tmp_path, parts_of(request.param), mosquitto()) as station:
        yield station


class Newcomer:
    """What a person does on the page, step by step."""

    def __init__(self, visit: Visit, station: Station, screenshots: Path | None) -> None:
        self._page, self._station = visit.page, station
        self._screenshots = screenshots if station.parts.product == "alien" else None

    def get(self, path: str) -> Any:
        """What the API says to this browser."""
        return self._page.context.request.get(f"{self._station.origin}/api/v1/{path}").json()

    def keep(self, name: str) -> None:
        """A screenshot for the documents."""
        if self._screenshots is not None:
            picture = cv2.imdecode(np.frombuffer(self._page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            assert picture is not None
            cv2.imwrite(str(self._screenshots / f"{name}.webp"), picture, [cv2.IMWRITE_WEBP_QUALITY, 60])

    def card(self, heading: str) -> Locator:
        return self._page.locator(".card").filter(has=self._page.get_by_role("heading", name=heading, exact=True))

    def go(self, place: str) -> None:
        self._page.get_by_role("navigation").get_by_role("link", name=place).click()
        expect(self._page.get_by_role("heading", name=place, level=1)).to_be_attached()

    def sets_the_password(self) -> None:
        page = self._page
        page.goto(f"{self._station.origin}/")
        page.get_by_role("alert").get_by_role("link", name="Passwords").click()
        page.get_by_label("New password", exact=True).fill(PASSWORD)
        page.get_by_label("New password again").fill(PASSWORD)
        self.keep("password")
        page.get_by_role("button", name="Set the password").click()
        expect(page.get_by_role("heading", name="Log in", level=1)).to_be_visible()
        page.get_by_label("Administrator").check()
        page.get_by_label("Password", exact=True).fill("wrong guess")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_text("wrong password for admin")).to_be_visible()
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("navigation")).to_be_visible()

    def draws_the_region(self) -> None:
        self.go("Set up")
        card = self.card("2. Region")
        canvas = card.locator("canvas")
        canvas.scroll_into_view_if_needed()
        frame_w, frame_h = self.get("cameras")[0]["frame_wh"]
        while self._drag_over(canvas, frame_w) != canvas.bounding_box():  # the page has grown meanwhile
            card.get_by_role("button", name="Whole picture").click()
        self.keep("region")
        card.get_by_role("button", name="Save").click()
        wanted = [BORDER, BORDER, frame_w - 2 * BORDER, frame_h - 2 * BORDER]

        def is_taken() -> bool:
            with contextlib.suppress(Error):
                found = self.get("cameras")[0]["region_xywh"]
                return found is not None and all(abs(a - b) <= 3 for a, b in zip(found, wanted, strict=True))
            return False

        until(is_taken, START_S)  # the agent starts again
        assert "region_xywh" in self._station.config and "# above the belt" in self._station.config
        expect(self._page.get_by_text("loads the new settings")).to_have_count(0, timeout=1000 * START_S)
        left = card.get_by_label("Left", exact=True)
        card.get_by_role("button", name="New picture").click()
        until(lambda: abs(int(left.input_value() or 0) - BORDER) <= 3, START_S)  # the region stays

    def _drag_over(self, canvas: Locator, frame_w: int) -> FloatRect:
        """Drags the mouse over the picture without its border; gives the place where the canvas was before."""
        box = canvas.bounding_box()
        assert box is not None
        border = BORDER * box["width"] / frame_w
        left, top = box["x"] + border, box["y"] + border
        mouse = self._page.mouse
        mouse.move(left, top)
        mouse.down()
        mouse.move(left + 40, top + 40)
        mouse.move(box["x"] + box["width"] - border, box["y"] + box["height"] - border, steps=4)
        mouse.up()
        return box

    def teaches(self) -> None:
        self.go("Teach")
        product, count = self._station.parts.product, COUNT[self._station.parts.product]
        self._page.get_by_label("Product").fill(product)
        self._page.get_by_label("Number of parts").fill(str(count))
        self._page.get_by_role("button", name="Start", exact=True).click()
        expect(self._page.get_by_text(re.compile(rf"\d+ of {count} parts"))).to_be_visible()
        expect(self._page.get_by_text(f"{count} of {count} parts")).to_be_visible(timeout=LEARN_MS)
        self._station.camera.every_s = 1.0  # time to learn
        expect(self._page.get_by_text(re.compile(rf"Ready: {product}, learned from \d+ parts"))).to_be_visible(
            timeout=LEARN_MS
        )
        until(lambda: len(self.get("cameras/cam0/teach/pictures")) >= count)
        assert self.get("cameras/cam0/teach")["offer"]["goods"] >= count - 3

    def drags_the_threshold(self) -> None:
        """To the left with the mouse, and one step back with a key."""
        page = self._page
        handle = page.get_by_role("slider", name="Threshold")
        handle.scroll_into_view_if_needed()
        box = page.locator(".histogram .area").bounding_box()
        assert box is not None
        expect(handle).to_have_attribute("aria-valuenow", "0.5")  # of the offer
        x, y = box["x"] + 0.5 * box["width"], box["y"] + 60
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(box["x"] + 0.44 * box["width"], y, steps=5)
        page.mouse.up()
        expect(handle).to_have_attribute("aria-valuenow", re.compile(r"0\.4[34]\d*"))
        expect(page.get_by_text(re.compile(r"Measured on \d+ good parts, [1-9]\d* of them"))).to_be_visible()
        page.locator(".histogram").scroll_into_view_if_needed()
        self.keep("teach")
        dragged = handle.get_attribute("aria-valuenow") or ""
        page.keyboard.press("ArrowLeft")
        expect(handle).not_to_have_attribute("aria-valuenow", dragged)
        wanted = float(handle.get_attribute("aria-valuenow") or 0)
        assert 0.42 < wanted < 0.44
        expect(page.get_by_role("button", name="Use this threshold")).to_be_hidden()  # it is set with the offer
        self.threshold = wanted

    def takes_it_into_use(self) -> None:
        self._page.get_by_role("button", name="Take it into use").click()
        expect(self._page.get_by_text("In use from the next part on.")).to_be_visible()
        expect(self._page.get_by_role("button", name="Back to the one before")).to_be_disabled()  # it is the first
        self._station.camera.every_s = 1 / FPS
        self._station.show(self._station.parts.line)

    def finds_a_reject(self) -> str:
        """In the gallery, and marks it good. Gives its id."""
        product, page = self._station.parts.product, self._page
        until(lambda: self.get(f"results?product={product}&verdict=anomalous")["results"])
        self.go("Inspect")
        expect(page.locator(".verdict .about")).to_contain_text(product)
        expect(page.get_by_text("Nothing was taught about this product")).to_be_hidden()
        reject = page.locator(".gallery-card li.result").first
        expect(reject.locator("img.thumbnail")).to_be_visible()
        expect(page.locator(".verdict .word")).to_have_text(re.compile("OK|Reject"))
        until(lambda: reject.locator("img").evaluate("picture => picture.complete && picture.naturalWidth > 0"))
        expect(page.locator(".verdict.anomalous")).to_be_visible()
        self.keep("inspect")
        reject.hover()
        good = reject.get_by_role("button", name="This was good")
        good.click()
        expect(good).to_have_attribute("aria-pressed", "true")
        marked = until(lambda: self.get("results?mark=good")["results"])
        assert [one["verdict"] for one in marked] == ["anomalous"]
        assert marked[0]["threshold"] == pytest.approx(self.threshold) and not marked[0]["provisional"]
        return str(marked[0]["id"])

    def looks_back(self, reject: str) -> None:
        self.go("Look back")
        page = self._page
        page.get_by_label("Marked by people").select_option("good")
        page.get_by_role("button", name="Show", exact=True).click()
        row = page.locator("table.results tbody tr")
        expect(row).to_have_count(1)
        page.get_by_label("Marked by people").select_option("")
        page.get_by_role("button", name="Show", exact=True).click()
        expect(row.nth(2)).to_be_visible()
        self.keep("look-back")
        row.filter(has_text="Marked good").get_by_role("button", name=re.compile("show details")).click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text(reject)).to_be_visible()
        expect(dialog.locator("img.large")).to_be_visible()
        page.keyboard.press("Escape")


def test_newcomer_sets_up_teaches_and_finds_a_reject(visit: Visit, station: Station, screenshots: Path | None) -> None:
    person = Newcomer(visit, station, screenshots)
    person.sets_the_password()
    person.draws_the_region()
    person.teaches()
    person.drags_the_threshold()
    person.takes_it_into_use()
    person.looks_back(person.finds_a_reject())
    changes = [line["after"] for line in person.get("audit") if line["what"] == "cam0 teach"]
    assert [one["threshold"] for one in changes if one["action"] == "commit"] == [person.threshold], changes
    visit.check(station.origin)
    station.agent.terminate()
    with station.agent:
        until(station.answers, START_S)
        assert person.get("cameras")[0]["threshold"] == pytest.approx(person.threshold)
        assert person.get("session")["role"] == "admin"
    assert PASSWORD not in station.agent.output and "Traceback" not in station.agent.output
