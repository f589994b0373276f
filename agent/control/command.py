"""One command from MQTT: parsing. No clock, no thread, no file.

    {"value": 0.4, "id": "5f2c…", "sent_at": "2026-11-22T10:28:03Z"}

`sent_at` may also be seconds since 1970. `nonce` may replace it: see `freshness`. `snapshot` and `reload` need no value
and take any. With `control.plain` a bare value is accepted too: `0.4`, `bottle`, `true`, `ON`, `OFF`, and any payload
for `snapshot` and `reload`.
"""

import json
from enum import StrEnum
from typing import Annotated, Any, NoReturn, Self

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, ValidationError, model_validator

from zsad_agent.config import Threshold
from zsad_agent.system import printable, shortened
from zsad_agent.updating import UpdateRequest
from zsad_core.config import StrictModel
from zsad_core.errors import ZsadError

MAX_PAYLOAD_BYTES = 4096
MAX_ID_CHARACTERS = 64
MAX_NAME_CHARACTERS = 200
MAX_SHOWN_CHARACTERS = 200  # part of a payload that is shown in an answer or a log line


class Key(StrEnum):
    """The keys of commands; the topic is `…/<key>/set`."""

    THRESHOLD = "threshold"
    PRODUCT = "product"
    PAUSED = "paused"
    SNAPSHOT = "snapshot"
    BUNDLE = "bundle"
    RELOAD = "reload"
    TEACH = "teach"
    UPDATE = "update"


class CommandError(ZsadError):
    """A command is refused."""

    def __init__(self, reason: str, command_id: str | None = None) -> None:
        super().__init__(reason)
        self.command_id = command_id


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


_NONE_IF_EMPTY = BeforeValidator(lambda value: None if value == "" else value)
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS), AfterValidator(_printable)]
CommandId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS), AfterValidator(_printable)]


class TeachAction(StrEnum):
    START = "start"  # the next parts are good: learn them
    FINISH = "finish"  # learn what was gathered so far
    CANCEL = "cancel"
    COMMIT = "commit"  # take the offer into use
    ROLL_BACK = "roll_back"  # take the profile before the one in use into use
    GOOD = "good"  # the part of this result was good
    BAD = "bad"


_KEYS_OF = {
    TeachAction.START: {"product", "count", "rate"},
    TeachAction.COMMIT: {"threshold", "offer"},
    TeachAction.GOOD: {"id"},
    TeachAction.BAD: {"id"},
}


class TeachRequest(StrictModel):
    """`product`, `count` and `rate` belong to start, `threshold` and `offer` to commit, `id` to marks."""

    action: Annotated[TeachAction, Field(strict=False)]
    product: Name | None = None  # None: that of the camera
    count: Annotated[int, Field(ge=3, le=1000)] | None = None  # None: 30
    rate: Annotated[float, Field(ge=0.0001, lt=1)] | None = None  # of false rejects; None: 0.01
    threshold: Threshold | None = None  # used from the first part on; None: that of the offer
    offer: Name | None = None  # hash of the offer that the person saw; None: any
    id: Name | None = None  # of a result

    @model_validator(mode="after")
    def _fits_the_action(self) -> Self:
        allowed = _KEYS_OF.get(self.action, set())
        if odd := self.model_fields_set - allowed - {"action"}:
            raise ValueError(f"{min(odd)} does not belong to {self.action}")
        if allowed == {"id"} and self.id is None:
            raise ValueError(f"{self.action} needs the id of a result")
        return self


Value = float | str | bool | TeachRequest | UpdateRequest | None


def is_commit(value: Value) -> bool:
    """Whether a command takes an offer into use."""
    return isinstance(value, TeachRequest) and value.action is TeachAction.COMMIT


class Command(StrictModel):
    """The fields of every command. The description of a field says what is allowed."""

    value: Value  # None: use the config's value again
    id: CommandId | None = Field(description=f"a text of 1 to {MAX_ID_CHARACTERS} printable characters")
    sent_at: float | Annotated[AwareDatetime, Field(strict=False)] | None = Field(
        union_mode="left_to_right",
        description='a time with its zone such as "2026-11-22T10:28:03Z", or seconds since 1970',
    )  # None only for a bare value, like `id`, and with a nonce
    nonce: CommandId | None = Field(default=None, description="command_nonce of the last stats message")

    @property
    def sent_at_s(self) -> float | None:
        """Seconds since 1970 by the sender's clock."""
        return self.sent_at if self.sent_at is None or isinstance(self.sent_at, float) else self.sent_at.timestamp()


class NumberCommand(Command):
    value: Annotated[Threshold | None, _NONE_IF_EMPTY] = Field(description="a number from 0 to 1, or null")


class NameCommand(Command):
    value: Annotated[Name | None, _NONE_IF_EMPTY] = Field(
        description=f"a name of at most {MAX_NAME_CHARACTERS} printable characters, or null"
    )


class SwitchCommand(Command):
    value: Annotated[bool | None, _NONE_IF_EMPTY] = Field(description="true, false or null")


class PressCommand(Command):
    value: Annotated[None, BeforeValidator(lambda value: None)] = None  # any value means the same


class TeachCommand(Command):
    value: TeachRequest = Field(
        description=f'an object with "action": {", ".join(TeachAction)}, and what belongs to it'
    )


class UpdateCommand(Command):
    value: UpdateRequest = Field(description='an object with "action", "kind", "sha256", and what belongs to it')


CAMERA_COMMANDS: dict[Key, type[Command]] = {  # below a camera's topic
    Key.THRESHOLD: NumberCommand,
    Key.PRODUCT: NameCommand,
    Key.PAUSED: SwitchCommand,
    Key.SNAPSHOT: PressCommand,
    Key.TEACH: TeachCommand,
}
DEVICE_COMMANDS: dict[Key, type[Command]] = {
    Key.BUNDLE: NameCommand,
    Key.RELOAD: PressCommand,
    Key.UPDATE: UpdateCommand,
}
CAMERA_KEYS, DEVICE_KEYS = tuple(CAMERA_COMMANDS), tuple(DEVICE_COMMANDS)


def parse_command(payload: bytes, key: Key, *, plain: bool) -> Command:
    """The command in `payload`, which arrived on the topic of `key`. `plain`: a bare value is accepted too.

    Raises:
        CommandError: it is no command. The text says why, with at most `MAX_SHOWN_CHARACTERS` of the payload.
    """
    model = CAMERA_COMMANDS.get(key) or DEVICE_COMMANDS[key]
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise CommandError(f"the message has {len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are allowed")
    if plain and model is PressCommand and not payload.lstrip().startswith(b"{"):
        return PressCommand(id=None, sent_at=None)
    try:
        text = payload.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise CommandError(f"not UTF-8: {shown(payload)}") from error
    if not text:  # also arrives when somebody clears a retained message
        raise CommandError('the message is empty: expected {"value": …, "id": …, "sent_at": …}')
    if plain and not text.startswith("{"):
        value = _json(text) if text == "null" or text.startswith('"') else text
        return _validated(model, {"value": value, "id": None, "sent_at": None}, convert=True)
    fields = _json(text)
    if not isinstance(fields, dict):
        raise CommandError(f'expected {{"value": …, "id": …, "sent_at": …}}, got {shown(text)}')
    fields.setdefault("sent_at", None)
    for name in ("id", "sent_at" if fields.get("nonce") is None else "nonce"):
        if fields.get(name) is None:
            raise CommandError(f"{name} is missing: expected {_allowed(model, name)}")
    return _validated(model, fields)


def check_value(key: Key, value: Any) -> Value:
    """The value of a command without a message.

    Raises:
        CommandError: it is not allowed.
    """
    model = CAMERA_COMMANDS.get(key) or DEVICE_COMMANDS[key]
    return _validated(model, {"value": value, "id": None, "sent_at": None}).value


def shown(text: str | bytes) -> str:
    """In quotes, one line of printable characters, at most `MAX_SHOWN_CHARACTERS` of them."""
    if isinstance(text, bytes):
        text = text[: 4 * MAX_SHOWN_CHARACTERS].decode("utf-8", "replace")
    return f"'{shortened(printable(text[: MAX_SHOWN_CHARACTERS + 1]), MAX_SHOWN_CHARACTERS)}'"


def _json(text: str) -> Any:
    def refuse_constant(name: str) -> NoReturn:
        raise CommandError(f"{name} is not a number")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(fields := dict(pairs)) < len(pairs):
            raise CommandError("a key is given twice")
        return fields

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"not JSON: {shown(text)}") from error


def _validated(model: type[Command], fields: dict[str, Any], *, convert: bool = False) -> Command:
    """`convert`: a text such as `0.4` or `ON` is converted."""
    try:
        return model.model_validate(fields, strict=False if convert else None)
    except ValidationError as error:
        faults = error.errors()
        command_id = None if any(fault["loc"][0] == "id" for fault in faults) else fields["id"]
        name = str(faults[0]["loc"][0])
        if isinstance(fields.get(name), dict):  # the fault is inside
            inside = ".".join(str(part) for part in faults[0]["loc"])
            why = faults[0]["msg"].removeprefix("Value error, ")
            reason = f"{shortened(printable(inside), MAX_SHOWN_CHARACTERS)}: {why}"
        elif faults[0]["type"] == "extra_forbidden":
            reason = f"unknown key {shown(name)}. Known: id, nonce, sent_at, value"
        elif faults[0]["type"] == "missing":
            reason = f"{name} is missing: expected {_allowed(model, name)}"
        else:
            reason = f"{name}: expected {_allowed(model, name)}, got {_got(fields[name])}"
        raise CommandError(reason, command_id) from error


def _allowed(model: type[Command], name: str) -> str:
    return str(model.model_fields[name].description)


def _got(value: Any) -> str:
    """A value of JSON for an error. `json.dumps` fails for the deepest list that `json.loads` accepts."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    return shown(json.dumps(value, ensure_ascii=False))
