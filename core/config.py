"""Strict config: reads a YAML file, or any mapping, into a frozen typed object. An error names every fault.

Pydantic checks the values. PyYAML's node marks give the line of each fault.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from zsad_core.errors import ConfigError
from zsad_core.redaction import redacted_values

Location = tuple[int | str, ...]
_NO_LINES: dict[Location, int] = {}
MAX_FILE_BYTES = 250_000  # PyYAML reads about 100 kB a second
MAX_DEPTH = 32  # levels of nested sections
MAX_NODES = 50_000  # keys and values with aliases expanded: a few lines of aliases can expand to billions
MAX_FAULTS = 50  # listed in one error
MAX_VALUE_CHARACTERS = 300  # of a value in a message


class StrictModel(BaseModel):
    """Base of every config class: frozen, no unknown keys, no silent conversion of types, no NaN or infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, defer_build=True)


class RecordModel(StrictModel):
    """Base of data that a newer program may have written: as `StrictModel`, but it ignores unknown keys."""

    model_config = ConfigDict(extra="ignore")


class FaultyKeyError(ValueError):
    """A rule between several keys is broken. Raised by a validator, it names the one of them that is to be changed."""

    def __init__(self, location: Location, value: object, why: str) -> None:
        """`location`: below the model of the validator."""
        super().__init__(why)
        self.location, self.value = location, value


ModelT = TypeVar("ModelT", bound=BaseModel)
# PyYAML's constructors raise these for a scalar that does not fit its tag, such as `2026-99-99`, `!!int ""`, `!!bool x`
_BAD_SCALAR = (ValueError, LookupError, AttributeError, TypeError, OverflowError)


class _ExcessError(Exception):
    pass


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys (PyYAML silently keeps the last) and keys that are lists or mappings."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "expected a word as key, got a list or mapping", key_node.start_mark
                )
            if key_node.value in seen:
                problem = f"key {key_node.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    """Reads a YAML file: its mapping, and the 1-based line of every key. An empty file gives an empty mapping.

    Raises:
        ConfigError: the file cannot be read, is not YAML, holds no mapping, or exceeds a size limit.
    """
    try:
        with path.open("rb") as file:
            encoded = file.read(MAX_FILE_BYTES + 1)
        text = encoded.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(encoded) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes, too large for a config file")
    try:
        loader = _UniqueKeyLoader(text)
        node = loader.get_single_node()
        if node is not None and (fault := _find_excess(node)):
            raise ConfigError(f"{path}:{fault}")
        values = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: {error.problem or error.context}") from error
    except (yaml.YAMLError, RecursionError, *_BAD_SCALAR) as error:  # YAMLError: a control character
        raise ConfigError(f"{path}:1: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}:1: expected keys and values, got {type(values).__name__}")
    lines: dict[Location, int] = {}
    if node is not None:
        _collect_lines(node, (), lines)
    return values, lines


def _find_excess(top: yaml.Node) -> str | None:
    """`line: fault` if building the document would take minutes, use all memory or never end; else None."""
    sizes: dict[int, int] = {}  # id of a visited node -> its size; a node with many aliases is visited once
    above: set[int] = set()

    def measure(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        line = node.start_mark.line + 1
        if id(node) in above:
            raise _ExcessError(f"{line}: an alias to a section that contains it")
        if len(above) >= MAX_DEPTH:
            raise _ExcessError(f"{line}: more than {MAX_DEPTH} levels deep")
        above.add(id(node))
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        size = 1 + sum(sum(map(measure, child)) if pairs else measure(child) for child in children)
        if size > MAX_NODES:
            raise _ExcessError(f"{line}: more than {MAX_NODES} keys and values, with aliases expanded")
        above.remove(id(node))
        sizes[id(node)] = size
        return size

    try:
        measure(top)
    except _ExcessError as error:
        return str(error)
    return None


def _collect_lines(node: yaml.Node, at: Location, lines: dict[Location, int]) -> None:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            lines[(*at, key_node.value)] = key_node.start_mark.line + 1
            _collect_lines(value_node, (*at, key_node.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*at, index)] = item.start_mark.line + 1
            _collect_lines(item, (*at, index), lines)


def validate(
    model: type[ModelT], values: dict[str, Any], source: str, lines: dict[Location, int] = _NO_LINES
) -> ModelT:
    """An instance of `model`, or a ConfigError with one line per fault: `source:line: key.path: what, value, allowed`.

    Pydantic's JSON mode checks the values. It accepts a list for a tuple, and a string for a path or an enum; it
    converts nothing else. An empty section counts as left out.
    """
    try:
        encoded = json.dumps(_without_empty_sections(model, values), default=str)
        unusable = _unusable_texts(values)
        faults = [f"{_where(source, lines, at)}: got {_shown(text)}. {what}" for at, text, what in unusable]
        if faults:
            raise ConfigError(_joined(faults))
        return model.model_validate_json(encoded, strict=True)
    except ValidationError as error:
        caused = "default_factory_not_called"  # this default depends on another key, which has its own fault
        faults = [_fault_text(model, fault, source, lines) for fault in error.errors() if fault["type"] != caused]
        raise ConfigError(_joined(list(dict.fromkeys(faults)))) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source}: holds a value that no setting accepts: {error}") from error


def _without_empty_sections(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        section = _model_in(model.model_fields[key].annotation) if key in model.model_fields else None
        if section is not None and isinstance(value, dict):
            value = _without_empty_sections(section, value)
        if section is None or value is not None:
            kept[key] = value
    return kept


def _unusable_texts(value: Any, at: Location = ()) -> Iterator[tuple[Location, str, str]]:
    """(location, text, fault) of every text that cannot be in a file name or message."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unusable_texts(inner, (*at, key))
    elif isinstance(value, str | Path):
        text = str(value)
        if "\0" in text:
            yield at, text, "A text must not hold the character NUL"
        elif any("\ud800" <= character <= "\udfff" for character in text):
            yield at, text, "A text must be UTF-8"


def _fault_text(model: type[BaseModel], fault: Any, source: str, lines: dict[Location, int]) -> str:
    location: Location = tuple(fault["loc"])
    value = fault["input"]
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, FaultyKeyError):
        location, value = (*location, *cause.location), cause.value
    where = _where(source, lines, location)
    if fault["type"] == "extra_forbidden":
        return f"{where}: unknown key. Known here: {', '.join(_keys_at(model, location[:-1]))}"
    if fault["type"] == "missing":
        return f"{where}: missing, and it has no default"
    why = fault["msg"].removeprefix("Value error, ")
    if value is None:
        return f"{where}: has no value. Give it one or leave the key out. {why}"
    if not location:  # a rule between sections: the value would be the whole file
        return f"{where}: {why}"
    return f"{where}: got {_shown(redacted_values(value))}. {why}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"


def _joined(faults: list[str]) -> str:
    more = [f"and {len(faults) - MAX_FAULTS} faults more"] if len(faults) > MAX_FAULTS else []
    return "\n".join(faults[:MAX_FAULTS] + more)


def _where(source: str, lines: dict[Location, int], location: Location) -> str:
    """`source:line: key.path`. The line is that of the key, or of its nearest parent with a known line."""
    known = location
    while known and known not in lines:
        known = known[:-1]
    key = ".".join(str(part) for part in location) or "(top level)"
    return f"{source}:{lines[known]}: {key}" if known else f"{source}: {key}"


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    fields: Any = model
    for part in location:
        if not isinstance(part, str) or not hasattr(fields, "model_fields") or part not in fields.model_fields:
            continue  # an index into a list; the field already led to the item's model
        fields = _model_in(fields.model_fields[part].annotation)
    return sorted(fields.model_fields) if hasattr(fields, "model_fields") else []


def _model_in(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
