"""The result message, schema `zsad.result/1`."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, Field, PlainSerializer, WithJsonSchema, model_validator
from pydantic.json_schema import SkipJsonSchema

from zsad_agent.system import utc_text
from zsad_core.config import StrictModel
from zsad_core.types import Verdict

NO_TRIGGER = {"trigger_id"}
# results in the spool of an older version lack them
OPTIONAL = NO_TRIGGER | {"source_name", "provisional", "provisional_frames", "profile"}

Text = Annotated[str, Field(min_length=1)]
TopicLevel = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(ge=0), AfterValidator(lambda milliseconds: round(milliseconds, 3))]
Offset = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1)]
UtcTime = Annotated[
    AwareDatetime,
    PlainSerializer(utc_text, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "format": "date-time",
            "pattern": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        }
    ),
]


class FoundRegion(StrictModel):
    bbox_xywh: tuple[Offset, Offset, Side, Side] = Field(description="x, y, width, height in pixels of the frame.")
    peak: Unit = Field(description="Highest value of the anomaly map inside.")


class BundleName(StrictModel):
    name: Text
    version: Text
    sha256: Sha256


class UsedProfile(StrictModel):
    """What was taught about the product."""

    product: Text
    sha256: Sha256


class Latency(StrictModel):
    """Milliseconds; null where unknown."""

    capture_to_result: Milliseconds | None
    inference: Milliseconds | None


def _complete_schema(schema: dict[str, Any]) -> None:
    """Adds to the generated schema what the types cannot say."""
    schema["title"] = "zsad.result/1"
    schema["$id"] = "urn:zsad:result:1"
    schema["required"] = sorted({*schema["properties"]} - OPTIONAL)
    schema["properties"]["trigger_id"].pop("default", None)
    schema["if"] = {"properties": {"verdict": {"const": "unknown"}}}
    schema["then"] = {"properties": {"reason": {"type": "string"}}}
    schema["else"] = {"properties": {"reason": {"type": "null"}, "anomaly_score": {"type": "number"}}}


class Result(StrictModel, json_schema_extra=_complete_schema):
    """The result of one inspected part, as published on <prefix>/<device_id>/<camera>/result."""

    schema_name: Literal["zsad.result/1"] = Field(default="zsad.result/1", alias="schema")
    id: Text = Field(description="<device>-<boot>-<seq>: unique across restarts, the same when a result is sent again.")
    device_id: TopicLevel
    camera: TopicLevel
    seq: int = Field(ge=0, description="Counts up over the life of the agent's process.")
    captured_at: UtcTime = Field(description="UTC, with milliseconds.")
    product: Text
    anomaly_score: Unit | None = Field(
        description="Higher is more anomalous. Null when there is no score, and then the verdict is unknown."
    )
    threshold: Unit
    verdict: Verdict = Field(description="unknown is never a pass.")
    reason: Text | None = Field(description="Why the verdict is unknown; null with every other verdict.")
    regions: tuple[FoundRegion, ...] = Field(
        description="Connected areas of the anomaly map above the region level, highest peak first."
    )
    frame_wh: tuple[Side, Side] | None = Field(
        description="Width and height of the frame in pixels; null when there was no frame."
    )
    bundle: BundleName
    latency_ms: Latency
    replayed: bool = Field(
        default=False,
        description="True when the result was accepted before the present connection to the broker was made.",
    )
    source_name: Text | None = Field(
        default=None, description="File name of a picture from a file or folder; null for a camera, stream or video."
    )
    provisional: bool = Field(default=False, description="True while nothing was taught for the product: teach it.")
    provisional_frames: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Unlabelled pictures of the product on whose scores the threshold rests; 0: it comes from other "
        "products; null: it was taught or set.",
    )
    profile: UsedProfile | None = Field(
        default=None, description="What was taught, if the result used it; null for a fault and while nothing was."
    )
    trigger_id: Text | SkipJsonSchema[None] = Field(
        default=None, description="The id of the trigger that this result answers; absent where there was none."
    )

    @model_validator(mode="before")
    @classmethod
    def _fail_closed(cls, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """A score that is NaN or outside [0, 1] makes the result `unknown`, whatever verdict was given."""
        score = values.get("anomaly_score")
        if score is None or 0 <= score <= 1:
            return values
        reason = values.get("reason") or f"the model's score is not a number in [0, 1]: {score}"
        return {**values, "anomaly_score": None, "verdict": Verdict.UNKNOWN, "reason": reason, "regions": ()}

    @model_validator(mode="after")
    def _check_verdict(self) -> Self:
        if self.verdict is Verdict.UNKNOWN:
            if self.reason is None:
                raise ValueError("an unknown verdict needs a reason")
        elif self.reason is not None:
            raise ValueError(f"verdict {self.verdict.value!r} must have no reason, got {self.reason!r}")
        elif self.anomaly_score is None:
            raise ValueError(f"verdict {self.verdict.value!r} without a score: it must be 'unknown'")
        return self

    def encode(self) -> bytes:
        """The message: UTF-8 JSON without spaces."""
        left_out = NO_TRIGGER if self.trigger_id is None else None
        return self.model_dump_json(by_alias=True, exclude=left_out).encode()

    @classmethod
    def decode(cls, body: bytes) -> Self:
        """The result of a message.

        Raises:
            ValidationError: the message is damaged or of another version.
        """
        return cls.model_validate_json(body, strict=False)  # strict, JSON's arrays and times would be refused


def encode(message: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON without spaces. A character that UTF-8 cannot encode becomes `?`.

    Raises:
        ValueError: the message has NaN or infinity, which JSON does not have.
    """
    return json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def mark_replayed(body: bytes) -> bytes:
    """The encoded result with `"replayed": true`."""
    return encode(json.loads(body) | {"replayed": True})
