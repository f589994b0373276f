"""The page in a real browser: accessible, narrow, by keyboard alone, in German, and quick to say what has failed."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser_visit import Visit
from mosquitto_broker import MosquittoBroker
from playwright.sync_api import Page, Route, expect
from station import ROOT, Parts, Station

PICTURES = sorted((ROOT / "demo/teach/test").glob("*.jpg"))  # good and bad ones
PLACES = {
    "inspect": "Inspect",
    "teach": "Teach",
    "setup": "Set up",
    "lookback": "Look back",
    "passwords": "Passwords",
    "config": "Configuration",
    "audit": "List of changes",
}
LIMIT_S = 2.0  # until a failure is seen
SLACK_S = 18.0  # more, because other tests run at the same time
NARROW = {"width": 320, "height": 640}
FOCUSABLE = "a[href], button, input:not([type=radio], [type=hidden]), select, textarea, summary, [tabindex='0']"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MosquittoBroker]:
    with MosquittoBroker(tmp_path_factory.mktemp("mosquitto")) as broker:
        yield broker


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory, broker: MosquittoBroker) -> Iterator[Station]:
    parts = Parts(product="alien", goods=PICTURES, line=PICTURES)
    with Station(tmp_path_factory.mktemp("agent"), parts, broker) as station:
        yield station


def opened(visit: Visit, station: Station, place: str) -> Page:
    """The page at a place, with its content."""
    visit.page.goto(f"{station.origin}/#{place}")
    expect(visit.page.get_by_role("heading", name=PLACES[place], level=1)).to_be_attached()
    if place == "inspect":
        expect(visit.page.locator(".gallery-card li.result").nth(2)).to_be_attached()
    visit.page.wait_for_timeout(300)  # its parts arrive
    return visit.page


def faults(page: Page, rule: str | None = None) -> list[str]:
    """What axe-core calls serious or critical. `rule`: no other is checked."""
    options = {"resultTypes": ["violations"], **({"runOnly": [rule]} if rule else {})}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {node['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("scheme", "rule"), [("light", None), ("dark", "color-contrast")])
def test_no_place_has_a_serious_fault_for_people_with_disabilities(
    scheme: Literal["light", "dark"], rule: str | None, visit: Visit, station: Station
) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    found = {}
    for place in PLACES:
        page = opened(visit, station, place)
        found[place] = faults(page, rule)
        if place == "inspect":
            page.locator(".gallery-card button.open").first.click()
            expect(page.get_by_role("dialog")).to_be_visible()
            found["detail"] = faults(page, rule)
            page.keyboard.press("Escape")
    assert not any(found.values()), found
    visit.check(station.origin)
    page.evaluate("document.body.style.color = '#888'; document.querySelector('h1').style.color = '#888'")
    assert any(fault.startswith("color-contrast") for fault in faults(page, "color-contrast"))  # the audit works


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_cut_off_at_320_pixels(place: str, visit: Visit, station: Station) -> None:
    visit.page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    page = opened(visit, station, place)
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    outside = page.evaluate(
        """width => [...document.querySelectorAll("main button, main input, main select, nav a")]
            .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > width + 1)
            .map((element) => element.outerHTML.slice(0, 200))""",
        NARROW["width"],
    )
    assert outside == []


@pytest.mark.parametrize("place", ["inspect", "teach", "setup", "lookback"])
def test_every_control_is_reached_with_the_tab_key(place: str, visit: Visit, station: Station) -> None:
    page = opened(visit, station, place)
    page.wait_for_function(
        "selector => [...document.querySelectorAll(selector)].filter((one) => one.checkVisibility()).length > 8",
        arg=FOCUSABLE,
    )
    if place == "inspect":
        page.get_by_role("button", name="Pause").click()  # new rejects would add buttons meanwhile
        expect(page.locator(".verdict .word")).to_have_text("Paused")
    page.evaluate(
        """selector => {
            window.missing = new Set([...document.querySelectorAll(selector)].filter((element) =>
                element.checkVisibility({visibilityProperty: true}) && !element.disabled));
            window.hidden = [];
            document.addEventListener("focusin", ({target}) => {
                window.missing.delete(target);
                const {outlineStyle, boxShadow} = getComputedStyle(target);
                if (outlineStyle === "none" && boxShadow === "none") window.hidden.push(target.outerHTML.slice(0, 200));
            });
            document.activeElement.blur();
        }""",
        FOCUSABLE,
    )
    count = page.evaluate("window.missing.size")
    for _ in range(2 * count):
        page.keyboard.press("Tab")
    assert page.evaluate("[...window.missing].map((element) => element.outerHTML.slice(0, 200))") == []
    assert page.evaluate("window.hidden") == []
    if place == "inspect":
        page.get_by_role("button", name="Go on").click()


def test_german_texts_come_with_one_click_and_stay(visit: Visit, station: Station) -> None:
    page = opened(visit, station, "inspect")
    page.locator("summary").first.click()
    page.get_by_role("button", name="Deutsch").click()
    expect(page.get_by_role("link", name="Einrichten")).to_be_visible()
    page.reload()
    expect(page.get_by_role("link", name="Einrichten")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "de"


def test_set_up_shows_the_product_in_use(visit: Visit, station: Station) -> None:
    """Otherwise the next press of Save would change it."""
    page = opened(visit, station, "setup")
    product = page.get_by_label("Product", exact=True)
    expect(product.locator("option").nth(1)).to_be_attached()
    expect(product).to_have_value("object")


def test_a_late_answer_does_not_replace_the_one_to_a_newer_question(visit: Visit, station: Station) -> None:
    page, held = visit.page, list[Route]()

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/api/v1/results?*limit=50*", hold_the_first)
    page.goto(f"{station.origin}/#lookback")
    page.get_by_label("Product").fill("nobody has taught this")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("0 results", exact=True)).to_be_visible()
    with page.expect_response(lambda answer: "limit=50" in answer.url):
        held[0].continue_()
    page.wait_for_timeout(500)
    expect(page.locator("table.results tbody tr")).to_have_count(0)
    expect(page.get_by_text("0 results", exact=True)).to_be_visible()


def test_page_is_there_within_a_second(visit: Visit, station: Station) -> None:
    started_s = time.monotonic()
    visit.page.goto(f"{station.origin}/#inspect")
    visit.page.locator(".verdict .word").wait_for()
    assert time.monotonic() - started_s < LIMIT_S + SLACK_S
    visit.check(station.origin)


def seconds_until_seen(page: Page, text: str) -> float:
    started_s = time.monotonic()
    expect(page.get_by_role("alert").get_by_text(text)).to_be_visible()
    spent_s = time.monotonic() - started_s
    print(f"{text}: seen after {spent_s:.2f} s")
    return spent_s


@pytest.mark.parametrize("limit_s", [LIMIT_S + SLACK_S, pytest.param(LIMIT_S, marks=pytest.mark.chaos)])
def test_dead_camera_disk_broker_and_agent_are_seen_at_once_with_what_to_do(
    limit_s: float, visit: Visit, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    broker = mosquitto()
    with Station(tmp_path, Parts(product="alien", goods=PICTURES, line=PICTURES), broker) as station:
        page = opened(visit, station, "inspect")
        alert = page.get_by_role("alert")
        expect(alert.locator(".banner.fail")).to_have_count(0)
        station.camera.stalled = True
        assert seconds_until_seen(page, "no new picture for more than") < limit_s
        station.camera.stalled = False
        expect(alert.get_by_text("no new picture for more than")).to_have_count(0)
        with full_disk(station.agent.pid):
            assert seconds_until_seen(page, "results wait in memory. Free space on the disk") < limit_s
        expect(alert.get_by_text("Free space on the disk")).to_have_count(0, timeout=60_000)
        station.camera.refusing = True
        station.camera.cut()
        assert seconds_until_seen(page, "Check its cable, power, lens, light and product.") < limit_s
        station.camera.refusing = False
        broker.kill()
        assert seconds_until_seen(page, "for the broker. Test the broker") < limit_s
        station.agent.kill()
        assert seconds_until_seen(page, "The agent does not answer.") < limit_s


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """The process cannot write to any file."""
    process = psutil.Process(pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        process.rlimit(psutil.RLIMIT_FSIZE, before)
