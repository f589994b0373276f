"""A real Chromium, without network, and a real agent whose page it opens."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_visit import TIMEOUT_MS, Visit
from playwright.sync_api import Browser, expect, sync_playwright

WH = (1080, 760)  # CSS pixels of the window
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


@pytest.fixture(scope="module")  # while it is open, other tests in this process could not use asyncio
def browser() -> Iterator[Browser]:
    """Knows no host but this one."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    arguments += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    executable = chromium()
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        browser.close()


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
