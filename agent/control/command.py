"""One command from MQTT: parsing, and checks of its time and id. No clock, no thread, no file.

    {"value": 0.4, "id": "5f2c…", "sent_at": "2026-11-22T10:28:03Z"}

`sent_at` may be epoch seconds. All three are needed, but for the value of `snapshot` and `reload`, which have none.
With `control.plain` a bare value is taken too: `0.4`, `bottle`, `true`, `ON`, `OFF`, `PRESS`.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from zsad_agent.system import printable, shortened
from zsad_core.errors import ZsadError

MAX_PAYLOAD_BYTES = 4096
MAX_ID_CHARACTERS = 64
MAX_NAME_CHARACTERS = 200
MAX_SHOWN_CHARACTERS = 200  # part of a payload that is shown in an answer or a log line
MAX_SEEN_IDS = 2000
_FIELDS = frozenset({"value", "id", "sent_at"})
_SWITCH = {"on": True, "true": True, "off": False, "false": False}
_PRESSED = ("press", "on", "true", "null")

Value = float | str | bool | None


class Key(StrEnum):
    """The keys of commands; the topic is `…/<key>/set`."""

    THRESHOLD = "threshold"
    PRODUCT = "product"
    PAUSED = "paused"
    SNAPSHOT = "snapshot"
    BUNDLE = "bundle"
    RELOAD = "reload"


class CommandError(ZsadError):
    """A command is refused."""

    def __init__(self, reason: str, command_id: str | None = None) -> None:
        super().__init__(reason)
        self.command_id = command_id


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    value: Value  # None: use the config's value again
    id: str | None  # None for a bare value, like `sent_at_s`
    sent_at_s: float | None  # seconds since the epoch by the sender's clock


class SeenIds:
    """The ids of accepted commands, so that none is carried out twice.

    An id may be forgotten, for its age or for want of room; every command that is not younger than the youngest
    forgotten one is then refused, so that a replay stays one whatever the clock was set to meanwhile.
    """

    def __init__(self, sent_at_s: Mapping[str, float], *, forgotten_up_to_s: float) -> None:
        self.sent_at_s = dict(sent_at_s)  # id -> when it was sent
        self.forgotten_up_to_s = forgotten_up_to_s

    def add(self, command_id: str, sent_at_s: float, *, now_s: float, keep_s: float) -> None:
        """Stores one id. Deletes ids older than `keep_s`, and the oldest above `MAX_SEEN_IDS`."""
        self.sent_at_s[command_id] = sent_at_s
        by_age = sorted(self.sent_at_s.items(), key=lambda entry: entry[1])
        excess = len(by_age) - MAX_SEEN_IDS
        for index, (old_id, old_s) in enumerate(by_age):
            if index >= excess and old_s >= now_s - keep_s:
                break
            del self.sent_at_s[old_id]
            self.forgotten_up_to_s = max(self.forgotten_up_to_s, old_s)


def parse_command(payload: bytes, key: Key, *, plain: bool) -> Command:
    """The command in `payload`.

    Args:
        payload: as it arrived.
        key: what the topic is for.
        plain: whether a bare value is taken too.

    Raises:
        CommandError: it commands nothing; the text says why, and holds at most `MAX_SHOWN_CHARACTERS` of the payload.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise CommandError(f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are taken")
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise CommandError(f"not UTF-8: {shown(payload)}") from error
    if not text:  # also arrives when somebody clears a retained message
        raise CommandError("an empty message commands nothing. To go back to the config's value, send null as value")
    if plain and not text.startswith("{"):
        return Command(value=_checked(KINDS[key].bare(text), key), id=None, sent_at_s=None)
    return _parse_object(text, key)


def _parse_object(text: str, key: Key) -> Command:
    fields = _json(text)
    if not isinstance(fields, dict):
        raise CommandError(f'expected {{"value": …, "id": …, "sent_at": …}}, got {shown(text)}')
    command_id = _checked_id(fields.get("id"))
    try:
        if unknown := sorted(fields.keys() - _FIELDS):
            raise CommandError(f"unknown key {shown(unknown[0])}. Known: id, sent_at, value")
        if "value" not in fields and KINDS[key].has_value:
            raise CommandError("value is missing")
        return Command(
            value=_checked(fields.get("value"), key), id=command_id, sent_at_s=_sent_at_s(fields.get("sent_at"))
        )
    except CommandError as error:
        raise CommandError(str(error), command_id) from error


def check_fresh(command: Command, *, now_s: float, max_age_s: float, seen: SeenIds) -> None:
    """Refuses old, future and repeated commands. A bare value has neither time nor id and is accepted.

    Args:
        command: parsed.
        now_s: seconds since the epoch at its arrival, by this device's clock.
        max_age_s: greatest difference between `now_s` and the time of sending, either way.
        seen: of the commands before.

    Raises:
        CommandError: too old, from the future, or a replay.
    """
    if command.id is None or command.sent_at_s is None:
        return
    age_s = now_s - command.sent_at_s
    if abs(age_s) > max_age_s:
        when = f"{abs(age_s):.6g} s {'ago' if age_s > 0 else 'in the future'}"
        raise CommandError(
            f"sent {when} by this device's clock, at most {max_age_s:g} s either way are taken. "
            "The clocks of sender and device may differ: compare them",
            command.id,
        )
    if command.id in seen.sent_at_s:
        raise CommandError("this id came before: a replay. Every command needs an id of its own", command.id)
    if command.sent_at_s <= seen.forgotten_up_to_s:
        raise CommandError(
            f"sent {seen.forgotten_up_to_s - command.sent_at_s:.6g} s before what this device remembers of earlier "
            "commands: it may be a replay. Send it again with a new id and time",
            command.id,
        )


def shown(text: str | bytes) -> str:
    """In quotes, one line of printable characters, at most `MAX_SHOWN_CHARACTERS` of them."""
    if isinstance(text, bytes):
        text = text[: 4 * MAX_SHOWN_CHARACTERS].decode("utf-8", "replace")
    return f"'{shortened(printable(text[: MAX_SHOWN_CHARACTERS + 1]), MAX_SHOWN_CHARACTERS)}'"


def _json(text: str) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise CommandError(f"{name} is no number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise CommandError("a key is given twice")
        return fields

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"not JSON: {shown(text)}") from error


def _checked(value: Any, key: Key) -> Value:
    """The value if it is one of `key`'s; "" stands for None.

    Raises:
        CommandError: it is none.
    """
    if value is None or value == "":
        return None
    kind = KINDS[key]
    try:
        checked: Value = kind.value.validate_python(value, strict=True)
    except ValidationError as error:
        raise CommandError(f"value: expected {kind.expected}, got {_got(value)}") from error
    return checked if kind.has_value else None


def _checked_id(command_id: Any) -> str:
    if isinstance(command_id, str) and 1 <= len(command_id) <= MAX_ID_CHARACTERS and command_id.isprintable():
        return command_id
    raise CommandError(f"id: expected a text of 1 to {MAX_ID_CHARACTERS} printable characters, got {_got(command_id)}")


def _sent_at_s(sent_at: Any) -> float:
    expected = 'sent_at: expected a time such as "2026-11-22T10:28:03Z", or seconds since 1970'
    try:
        if isinstance(sent_at, str):
            moment = datetime.fromisoformat(sent_at)
            if moment.tzinfo is None:
                raise CommandError(f"sent_at has no time zone: write {shown(sent_at + 'Z')}")
            return moment.timestamp()
        if isinstance(sent_at, int | float) and not isinstance(sent_at, bool) and math.isfinite(sent_at):
            return float(sent_at)
    except (ValueError, OverflowError):
        pass
    raise CommandError(f"{expected}, got {_got(sent_at)}")


def _got(value: Any) -> str:
    """A value of JSON, for an error; `json.dumps` would fail at a list that is as deep as `json.loads` just takes."""
    if value is None:
        return "none"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shown(json.dumps(value, ensure_ascii=False))


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


def _bare_name(text: str) -> Any:
    return _json(text) if text == "null" or text.startswith('"') else text


def _bare_switch(text: str) -> Any:
    return None if text == "null" else _SWITCH.get(text.lower(), text)


def _bare_press(text: str) -> Any:
    return None if text.lower() in _PRESSED else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a command takes."""

    of_camera: bool  # its topic is below a camera's; False: below the device's
    has_value: bool
    value: TypeAdapter[Any]  # null is accepted too: the config's value
    expected: str  # the same in words
    bare: Callable[[str], Any]  # the value of a message that is nothing but a value


_NUMBER: TypeAdapter[Any] = TypeAdapter(Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)])
_NAME: TypeAdapter[Any] = TypeAdapter(Annotated[str, Field(max_length=MAX_NAME_CHARACTERS), AfterValidator(_printable)])
_NAME_EXPECTED = f"a name of at most {MAX_NAME_CHARACTERS} printable characters, or null"
_TRUE: TypeAdapter[Any] = TypeAdapter(Literal[True])
_PRESS_EXPECTED = "no value, null or true"

KINDS: dict[Key, Kind] = {
    Key.THRESHOLD: Kind(
        of_camera=True, has_value=True, value=_NUMBER, expected="a number from 0 to 1, or null", bare=_json
    ),
    Key.PRODUCT: Kind(of_camera=True, has_value=True, value=_NAME, expected=_NAME_EXPECTED, bare=_bare_name),
    Key.PAUSED: Kind(
        of_camera=True, has_value=True, value=TypeAdapter(bool), expected="true, false or null", bare=_bare_switch
    ),
    Key.SNAPSHOT: Kind(of_camera=True, has_value=False, value=_TRUE, expected=_PRESS_EXPECTED, bare=_bare_press),
    Key.BUNDLE: Kind(of_camera=False, has_value=True, value=_NAME, expected=_NAME_EXPECTED, bare=_bare_name),
    Key.RELOAD: Kind(of_camera=False, has_value=False, value=_TRUE, expected=_PRESS_EXPECTED, bare=_bare_press),
}
CAMERA_KEYS = tuple(key for key, kind in KINDS.items() if kind.of_camera)
DEVICE_KEYS = tuple(key for key, kind in KINDS.items() if not kind.of_camera)
