"""README.md and docs/*.md: each command runs, parses, or names its needs; links and paths exist."""

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from checkout import FOLDER_OF, PROJECT, ROOT

from zsad_agent.cli.main import COMMANDS
from zsad_agent.cli.main import main as agent_command
from zsad_core.errors import ConfigError
from zsad_training.config import read_configs

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAX_README_WORDS = 900
LANGUAGES = {"bash", "json", "text", "yaml"}
# Written as `# needs: camera, broker` after a command that a test cannot run.
NEEDS = {"broker", "camera", "data sets", "GPU", "hours", "idle machine", "network", "root", "weights", "wheels"}
# The test runs these commands, which take seconds at most. Others without a `needs` are only parsed.
CHEAP = {"init", "score", "teach", "profiles", "calibrate", "check", "keygen", "sign", "card"}
GOODS = 6
SCRIPTS: dict[str, str] = PROJECT["project"]["scripts"]  # command -> module:function
CODE_PATH = re.compile(r"(?:agent|core|training|convert|packaging|systemd|tests|benchmarks|demo|docs)/[\w./-]+")


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a fenced block.

    Attributes:
        where: `<file>:<line>`, for messages.
        words: split as by a shell, without leading variables.
        needs: the marker's text; empty without a marker.
    """

    where: str
    words: list[str]
    needs: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Block:
    language: str
    first_line: int
    text: str


def blocks_of(text: str) -> Iterator[Block]:
    """The fenced blocks of a document."""
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        yield Block(language=match[1], first_line=text.count("\n", 0, match.start()) + 2, text=match[2])


def prose_of(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def commands_of(document: Path) -> Iterator[Command]:
    """The commands of the `bash` blocks: continued lines are joined, `&&` separates two commands."""
    for block in blocks_of(document.read_text(encoding="utf-8")):
        if block.language != "bash":
            continue
        line_number = block.first_line
        for line in re.split(r"(?<!\\)\n", block.text):
            where, line_number = f"{document.name}:{line_number}", line_number + line.count("\n") + 1
            marker = re.search(r"#.*\bneeds: (.+)$", line)
            needs = frozenset(marker[1].split(", ")) if marker else frozenset()
            for words in split_at_and(shlex.split(line.replace("\\\n", " "), comments=True)):
                yield Command(where=where, words=words, needs=needs)


def split_at_and(words: list[str]) -> Iterator[list[str]]:
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        first, words = words[:end], words[end + 1 :]
        while first and re.match(r"\w+=", first[0]):
            first = first[1:]
        yield first


def console_script(name: str) -> Callable[[], Any]:
    module, _, function = SCRIPTS[name].partition(":")
    return getattr(importlib.import_module(module), function)


def entry_point(command: Command) -> tuple[Callable[[], Any], list[str]] | None:
    """The `main` of a command of this project, and its arguments; None for another program."""
    program, *arguments = command.words
    if program == "torchrun":
        arguments = arguments[next(index for index, word in enumerate(arguments) if word.endswith(".py")) :]
    if program in SCRIPTS:
        return console_script(program), arguments
    if Path(program).name not in ("python", "torchrun") or not arguments[0].endswith(".py"):
        return None
    file = Path(arguments[0])
    packages = {folder: package for package, folder in FOLDER_OF.items()}
    if file.parts[0] in packages:
        name = ".".join([packages[file.parts[0]], *file.with_suffix("").parts[1:]])
        return importlib.import_module(name).main, arguments[1:]
    return load_script(ROOT / file).main, arguments[1:]


@functools.cache
def load_script(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"script_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ParsedError(BaseException):
    """Ends a command after its arguments are parsed. It is no `Exception`, so that no command catches it."""


@pytest.fixture
def parse_fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command], str | None]:
    """The fault that the command's own parser, or the settings of a training, find in a command; None: no fault."""
    parse_known = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        self.allow_abbrev = False  # documents use full flag names
        return parse_known(self, args, namespace)

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown arguments: {unknown}")
        if self.prog == "zsad-train":
            try:
                read_configs(parsed)
            except ConfigError as error:
                self.error(str(error))
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.chdir(ROOT)

    def fault(command: Command) -> str | None:
        found = entry_point(command)
        assert found is not None
        main, arguments = found
        monkeypatch.setattr("sys.argv", [command.words[0], *arguments])
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
                main()
        except ParsedError:
            return None
        return (told.getvalue().strip() or "ends before its arguments are parsed").splitlines()[-1]

    return fault


def make_targets() -> set[str]:
    (listed,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return set(listed.split())


def fault_of(command: Command, parse_fault: Callable[[Command], str | None]) -> str | None:
    """The fault of a command in a document; None: no fault."""
    if unknown := command.needs - NEEDS:
        return f"needs {sorted(unknown)}: not one of {sorted(NEEDS)}"
    if entry_point(command) is not None:
        return parse_fault(command)
    words = command.words[1:] if command.words[0] == "sudo" else command.words
    if words[0] == "make" and not {word for word in words[1:] if "=" not in word} <= make_targets():
        return "no such target in the Makefile"
    if words[0].endswith(".sh") and not (ROOT / words[0]).is_file():
        return "no such script"
    if words[0] == "pytest" or words[1:3] == ["-m", "pytest"]:
        return next((f"{word}: not there" for word in words if "/" in word and not (ROOT / word).exists()), None)
    if words[0] == "export" or words[1:3] == ["-m", "venv"]:
        return None
    if words[0] == "curl" and command.where.startswith("integrator.md"):
        return None  # tests/agent/web/test_integrator_document.py runs it
    if words[0] in ("python3", "cp") and command.where.startswith("fleet.md"):
        return None  # tests/convert/fleet/test_fleet_document.py runs it
    return None if command.needs else "neither a command of this project nor marked with `# needs: …`"


def faults_of(document: Path, parse_fault: Callable[[Command], str | None]) -> list[str]:
    return [
        f"{command.where}: {shlex.join(command.words)}: {fault}"
        for command in commands_of(document)
        if (fault := fault_of(command, parse_fault)) is not None
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_is_parsed_or_names_what_it_needs(document: Path, parse_fault: Any) -> None:
    assert faults_of(document, parse_fault) == []


@pytest.mark.parametrize(
    ("line", "part_of_fault"),
    [
        ("zsad-agent score parts --jsn", "--jsn"),
        ("zsad-agent score parts --js", "--js"),
        ("zsad-agent --camera 0 --no-such-flag  # needs: camera", "--no-such-flag"),
        ("zsad-convert sign mine \\\n    --kei line.key", "--kei"),
        ("python training/train.py --data A --set optimisation.no_such_key=1", "no_such_key"),
        ("python benchmarks/speed.py --round 3", "--round"),
        ("make coffee", "no such target"),
        ("sudo systemd/no-such.sh  # needs: root", "no such script"),
        ("pytest tests/no_such_folder", "not there"),
        ("zsad-agent check && mosquitto_sub -t x", "neither"),
        ("mosquitto_sub -t x  # needs: luck", "luck"),
    ],
)
def test_a_wrong_command_is_found(line: str, part_of_fault: str, parse_fault: Any, tmp_path: Path) -> None:
    document = tmp_path / "wrong.md"
    document.write_text(f"Text.\n\n```bash\n# a comment\n{line}\n```\n")
    (fault,) = faults_of(document, parse_fault)
    assert fault.startswith("wrong.md:5: ")
    assert part_of_fault in fault


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_examples_in_the_help_are_parsed(name: str, parse_fault: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit, ParsedError):
        agent_command([*name.split(), "--help"])
    (listed,) = re.findall(r"^examples:\n((?:  .+\n)+)", capsys.readouterr().out, flags=re.MULTILINE)
    for line in listed.splitlines():
        assert parse_fault(Command(where=line, words=shlex.split(line), needs=frozenset())) is None, line


@pytest.fixture(scope="module")
def compiled_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all documents: they use the same bundles."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def workplace(tmp_path: Path, compiled_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reader's current folder: the checkout's images and example config, and a bundle called `mine`.

    There are only `GOODS` pictures of good parts to teach, because each of several commands teaches them.
    """
    good = tmp_path / "demo/teach/good"
    good.mkdir(parents=True)
    for picture in sorted((ROOT / "demo/teach/good").iterdir())[:GOODS]:
        (good / picture.name).symlink_to(picture)
    for name in ("demo/stream", "demo/teach/test", "systemd"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "agent/bundles/zsad-tiny", tmp_path / "mine")
    monkeypatch.setenv("CACHE_DIRECTORY", str(compiled_models))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cheap_commands(document: Path) -> list[Command]:
    return [
        command
        for command in commands_of(document)
        if command.words[0] in SCRIPTS and command.words[1] in CHEAP and not command.needs
    ]


def run_here(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a console script of this project, in this process and folder; globs are expanded."""
    expanded = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    monkeypatch.setattr("sys.argv", expanded)
    return console_script(words[0])()


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if cheap_commands(path)], ids=lambda path: path.name)
def test_fast_commands_run_in_the_order_of_the_document(
    document: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in cheap_commands(document):
        code = run_here(command.words, monkeypatch)
        told = capsys.readouterr()
        assert code == 0, f"{command.where}: {told.err}"
        assert told.out, command.where


@functools.cache
def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub makes from headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(document.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_anchors_and_named_paths_exist(document: Path) -> None:
    prose = prose_of(document.read_text(encoding="utf-8"))
    missing = [
        code for code in re.findall(r"`([^`\n]+)`", prose)
        if (path := CODE_PATH.fullmatch(code.split()[0])) and not (ROOT / path[0]).exists()
    ]  # fmt: skip
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose)):
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors_of(target))):
            missing.append(link)
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_code_is_fenced_and_names_its_language(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert {block.language for block in blocks_of(text)} <= LANGUAGES
    assert not re.findall(r"^    .+$|^\s*```.*$", prose_of(text), flags=re.MULTILINE)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MAX_README_WORDS  # with tables and commands


def test_example_result_is_valid_under_the_schema() -> None:
    (schema,) = (ROOT / "agent").rglob("result.schema.json")
    (example,) = (
        block.text for block in blocks_of((ROOT / "README.md").read_text(encoding="utf-8")) if block.language == "json"
    )
    jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(json.loads(example))


def test_example_configs_have_no_faults(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = [
        block
        for block in blocks_of((ROOT / "docs/operation.md").read_text(encoding="utf-8"))
        if block.language == "yaml"
    ]
    assert examples
    for example in examples:
        (workplace / "agent.yaml").write_text(example.text.replace("/srv/drop", str(workplace)))
        assert run_here(["zsad-agent", "check", "--config", "agent.yaml"], monkeypatch) == 0, example.text
