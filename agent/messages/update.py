"""How far an update is: the `value` on `<prefix>/<device_id>/update/state`, schema `zsad.update/1`."""

from typing import Any, Literal

from pydantic import Field

from zsad_agent.messages.result import Sha256, Text
from zsad_core.config import StrictModel

Phase = Literal["off", "idle", "downloading", "trying", "probation", "done", "failed"]


def _complete_schema(schema: dict[str, Any]) -> None:
    schema |= {"title": "zsad.update/1", "$id": "urn:zsad:update:1", "required": sorted(schema["properties"])}


class UpdateState(StrictModel, json_schema_extra=_complete_schema):
    """The last update of the device, published, retained, whenever it changes."""

    schema_name: Literal["zsad.update/1"] = Field(default="zsad.update/1", alias="schema")
    phase: Phase = Field(description="`done` and `failed` are final; after `failed` the earlier one is in use.")
    id: Text | None = Field(default=None, description="Of the command that began it; null: there was none.")
    action: Literal["fetch", "rollback"] | None = None
    kind: Literal["bundle", "profile"] | None = None
    sha256: Sha256 | None = Field(default=None, description="Of the command.")
    text: Text | None = Field(default=None, description="The progress, or why it failed.")
    bundle: Sha256 | None = Field(default=None, description="Hash of the manifest of the bundle in use.")
    tags: tuple[Text, ...] = Field(default=(), description="Groups of devices that this one belongs to.")
