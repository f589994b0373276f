"""A tab of the browser that notes what its page does wrong."""

from playwright.sync_api import BrowserContext, Page

TIMEOUT_MS = 60_000  # of each step, on a machine that is busy


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
