"""The page in a real headless Chromium: cold load, time from frame to screen, and a minute at many results a second."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from zsad_agent.system import status_mb

WINDOW = {"width": 1280, "height": 900}  # CSS pixels
TIMEOUT_MS = 30_000
THIRDS = 3
# Runs before the page's own scripts. `usable`: the buttons of Inspect are there. `seen`: the first picture is painted.
# A picture is on the screen when the frame after its drawing begins.
SPY = """
(() => {
  const none = () => ({toEvent: [], toScreen: [], byPage: [], long: [], frames: 0, late: 0});
  const spy = (window.spy = {usable: null, seen: null, ...none()});
  window.taken = () => {
    const found = {...spy};
    Object.assign(spy, none());
    return found;
  };
  const captured = {}; // by the result's id
  const painted = {}; // the same; a picture may come before its result
  let fetched = null, shown = null;
  const now = () => performance.timeOrigin + performance.now();
  const note = (id) => {
    if (!(id in captured) || !(id in painted)) return;
    const {ms, inspected} = captured[id];
    spy.toScreen.push(painted[id] - ms);
    spy.byPage.push(painted[id] - ms - inspected);
    for (const old in captured) if (captured[old].ms <= ms) delete captured[old];
    for (const old in painted) if (painted[old] <= painted[id]) delete painted[old];
  };
  const listen = EventSource.prototype.addEventListener;
  EventSource.prototype.addEventListener = function (kind, listener, ...more) {
    if (kind !== "result") return listen.call(this, kind, listener, ...more);
    return listen.call(this, kind, (event) => {
      const {id, captured_at, latency_ms} = JSON.parse(event.data);
      captured[id] = {ms: Date.parse(captured_at), inspected: latency_ms.capture_to_result};
      spy.toEvent.push(now() - captured[id].ms);
      note(id);
      listener(event);
    }, ...more);
  };
  const ask = window.fetch;
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    if (String(given[0]).includes("/live.jpg")) fetched = answer.headers.get("X-Result-Id");
    return answer;
  };
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...given) {
    draw.apply(this, given);
    const id = fetched;
    if (id === shown) return;
    shown = id;
    requestAnimationFrame(() => {
      spy.seen ??= performance.now();
      painted[id] = now();
      note(id);
    });
  };
  new MutationObserver(() => {
    if (spy.usable === null && document.querySelector("main .area-verdict") && document.querySelector("main button"))
      requestAnimationFrame(() => (spy.usable ??= performance.now()));
  }).observe(document, {childList: true, subtree: true});
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) spy.long.push(entry.duration);
  }).observe({type: "longtask"});
  let last = null;
  const tick = (ms) => {
    if (last !== null && ms - last > 50) spy.late += 1;
    last = ms;
    spy.frames += 1;
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
})();
"""
TAKE = "taken()"


@dataclass(frozen=True, kw_only=True)
class Third:
    """A third of the time that a tab was open."""

    results: int
    long_tasks: int  # of the main thread, longer than 50 ms
    late_frames: int  # more than 50 ms after the one before
    frames: int
    heap_mb: float  # of JavaScript, after a collection
    rss_mb: float  # of the tab's process


class Chromium:
    """Opens the page of one agent."""

    def __init__(self, browser: Browser, port: int) -> None:
        self._browser, self._origin = browser, f"http://127.0.0.1:{port}"

    def cold_load_ms(self) -> tuple[float, float]:
        """With an empty cache: until the buttons can be used, and until the first picture is seen."""
        with self._context() as context:
            page = self._open(context)
            page.wait_for_function("spy.usable !== null && spy.seen !== null")
            return page.evaluate("[spy.usable, spy.seen]")  # type: ignore[no-any-return]

    def to_screen_ms(self, seconds: float) -> tuple[list[float], list[float]]:
        """From each frame to its picture on the screen, and the part of it after the inspection."""
        with self._context() as context:
            page = self._open(context)
            page.wait_for_function("spy.seen !== null")
            page.wait_for_timeout(1000)
            page.evaluate(TAKE)
            page.wait_for_timeout(1000 * seconds)
            found = page.evaluate(TAKE)
            return found["toScreen"], found["byPage"]

    def watch(self, seconds: float) -> list[Third]:
        """A tab that stays open."""
        with self._context() as context:
            page = self._open(context)
            page.wait_for_function("spy.seen !== null")
            page.wait_for_timeout(2000)
            inspector = context.new_cdp_session(page)
            inspector.send("Performance.enable")
            page.evaluate(TAKE)
            return [self._third(page, inspector, seconds / THIRDS) for _ in range(THIRDS)]

    def _third(self, page: Page, inspector: Any, seconds: float) -> Third:
        page.wait_for_timeout(1000 * seconds)
        found = page.evaluate(TAKE)
        inspector.send("HeapProfiler.collectGarbage")
        metrics = {one["name"]: one["value"] for one in inspector.send("Performance.getMetrics")["metrics"]}
        page.evaluate(TAKE)  # what the collection itself delayed does not count
        return Third(
            results=len(found["toEvent"]),
            long_tasks=len(found["long"]),
            late_frames=found["late"],
            frames=found["frames"],
            heap_mb=metrics["JSHeapUsedSize"] / 2**20,
            rss_mb=largest_renderer_mb(),
        )

    def _open(self, context: BrowserContext) -> Page:
        page = context.new_page()
        page.goto(f"{self._origin}/#inspect")
        return page

    @contextmanager
    def _context(self) -> Iterator[BrowserContext]:
        # Playwright's waiting evaluates text, which the page's policy forbids
        context = self._browser.new_context(viewport=WINDOW, locale="en-GB", bypass_csp=True)  # type: ignore[arg-type]
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(SPY)
        try:
            yield context
        finally:
            context.close()


def executable() -> str | None:
    """The path of the browser; None: it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def chromium(path: str, port: int) -> Iterator[Chromium]:
    """A browser without network beyond this machine."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=path, args=arguments)
        try:
            yield Chromium(browser, port)
        finally:
            browser.close()


def largest_renderer_mb() -> float:
    """Memory of the tab: the largest of this program's renderer processes. NaN if there is none."""
    parents, renderers = {}, []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"--type=renderer" in (folder / "cmdline").read_bytes():
                renderers.append(int(folder.name))
        except OSError:  # it has just ended
            continue

    def is_ours(pid: int) -> bool:
        while pid > 1 and pid != os.getpid():
            pid = parents.get(pid, 0)
        return pid == os.getpid()

    return max((status_mb("VmRSS", pid) for pid in renderers if is_ours(pid)), default=float("nan"))
