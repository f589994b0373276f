"""A real Chromium, without network, and a real agent whose page it opens."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

WH = (1080, 760)  # CSS pixels of the window
TIMEOUT_MS = 20_000  # of each step, on a machine that is busy
expect.set_options(timeout=TIMEOUT_MS)


def chromium() -> str:
    """The path of the browser. If it is missing, the test is skipped; in CI it fails."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is not None:
        return found
    reason = "needs a real browser: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Knows no host but this one."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    arguments += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    executable = chromium()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


class Visit:
    """A tab, and what its page did wrong: errors in scripts, requests to other hosts, refused loads."""

    def __init__(self, context: BrowserContext) -> None:
        context.set_default_timeout(TIMEOUT_MS)
        self.asked: list[str] = []  # address of every request
        self.errors: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        self.page: Page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console", lambda said: self.errors.append(said.text) if "Content Security Policy" in said.text else None
        )

    def check(self, origin: str) -> None:
        """Nothing went wrong, and nothing but `origin` was asked."""
        assert self.errors == []
        elsewhere = [url for url in self.asked if not url.startswith((f"{origin}/", "blob:", "data:"))]
        assert len(self.asked) > 20 and elsewhere == []


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(
        viewport={"width": WH[0], "height": WH[1]}, locale="en-GB", reduced_motion="reduce", accept_downloads=False
    )
    yield Visit(context)
    context.close()


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    """The folder for the screenshots of docs/operator.md. None: nobody asked for them with ZSAD_SCREENSHOTS=FOLDER."""
    folder = os.environ.get("ZSAD_SCREENSHOTS")
    if not folder:
        return None
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
