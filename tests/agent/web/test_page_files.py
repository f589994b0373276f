"""The page's files: small, nothing from elsewhere, complete texts, and their logic by `node --test`."""

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[3] / "agent"
STATIC = AGENT / "web" / "static"
LOGIC = Path(__file__).with_name("page_logic.test.mjs")
MAX_BYTES = 300_000
OURS = [
    path for path in sorted(STATIC.iterdir()) if path.suffix in {".js", ".html", ".css"} and "uPlot" not in path.name
]
LANGUAGES = ("en", "de")


def messages(language: str) -> dict[str, str | dict[str, str]]:
    found: dict[str, str | dict[str, str]] = json.loads((STATIC / f"messages.{language}.json").read_text())
    return found


def places(message: str | dict[str, str]) -> set[str]:
    """The names of the values that a message takes."""
    texts = [message] if isinstance(message, str) else list(message.values())
    return {name for text in texts for name in re.findall(r"\{(\w+)\}", text)}


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < MAX_BYTES


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline() -> None:
    for path in [*OURS, STATIC / "uPlot.min.css"]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(?:https?:)?//[\w.-]+\.\w+/|@import|url\(|data:image", text), path.name
    index = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", index)
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", "".join(map(Path.read_text, OURS))
    )


def test_every_file_that_is_named_exists_and_every_script_is_named() -> None:
    index = (STATIC / "index.html").read_text()
    named = set(re.findall(r'(?:href|src)="([^"#]+)"', index))
    imported = {name for path in OURS for name in re.findall(r'from "\./([\w.-]+)"', path.read_text())}
    assert all((STATIC / name).is_file() for name in named | imported)
    scripts = {path.name for path in STATIC.glob("*.js")}
    assert scripts == {name for name in named if name.endswith(".js")}  # all load at once, not one after the other


def test_both_languages_have_the_same_texts_and_values() -> None:
    first, second = (messages(language) for language in LANGUAGES)
    assert first.keys() == second.keys()
    for key in first:
        assert places(first[key]) == places(second[key]), key
        assert isinstance(first[key], str) == isinstance(second[key], str), key


def test_every_translated_reason_is_still_said_by_the_agent() -> None:
    """A text that is reworded in the code must be reworded there too. Texts of SQLite and of the system are known."""
    said = {"Connection refused", "No space left on device", "database or disk is full"}
    code = [*AGENT.rglob("*.py"), *(AGENT.parent / "core").rglob("*.py")]
    for path in code:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said.add(node.value)
    everything = "\n".join(said)
    reasons = json.loads((STATIC / "reasons.de.json").read_text())
    for english, german in reasons.items():
        assert places(german) <= places(english), english
        for fragment in re.split(r"\{\w+\}|\b\d+\b|[:.,] ", english):
            words = fragment.strip(" ,:;.")
            assert words in everything, (english, words)


def test_every_text_is_used_and_every_used_text_exists() -> None:
    known = messages("en").keys()
    code = "\n".join(path.read_text() for path in OURS)
    assert [key for key in known if f'"{key}"' not in code] == []
    rooms = {key.split(".")[0] for key in known if "." in key}
    used = set(re.findall(r'\bt\("([^"]+)"', code))
    used |= {name for name in re.findall(r'"([a-z_]+\.[a-z_0-9]+)"', code) if name.split(".")[0] in rooms}
    assert used - {path.name for path in STATIC.iterdir()} - {"results.csv"} <= known


def test_the_licence_of_the_plot_library_ships() -> None:
    assert "MIT License" in (STATIC / "uPlot.LICENSE.txt").read_text()


@pytest.mark.skipif(shutil.which("node") is None, reason="needs the package nodejs")
def test_the_logic_of_the_page(tmp_path: Path) -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.json"), LOGIC]:
        shutil.copy(path, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(["node", "--test", LOGIC.name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^# pass \d\d", done.stdout, re.MULTILINE), done.stdout
