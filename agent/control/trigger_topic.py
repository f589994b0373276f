"""Triggers over MQTT: one message on `<camera>/trigger`, one result."""

import logging
from collections.abc import Mapping
from functools import partial
from typing import Annotated

from pydantic import Field

from zsad_agent.capture import MAX_ID_CHARACTERS, Capture
from zsad_agent.control.command import shown
from zsad_agent.messages import Topics
from zsad_agent.mqtt import Publisher
from zsad_core.config import StrictModel

logger = logging.getLogger(__name__)


class Trigger(StrictModel):
    """The content of a message."""

    id: Annotated[str, Field(max_length=MAX_ID_CHARACTERS)] | None = None


def listen_for_triggers(publisher: Publisher, topics: Topics, cameras: Mapping[str, Capture]) -> None:
    """Subscribes to the trigger topic of each camera."""
    without_id: set[str] = set()
    for name, camera in cameras.items():
        publisher.subscribe(topics.below(f"{name}/trigger"), partial(_take, name, camera, without_id))


def trigger_id(payload: bytes) -> str | None:
    """The id in a trigger's payload: `{"id": "…"}`, or the text itself; None for an empty one.

    Raises:
        ValueError: neither, an id of more than `MAX_ID_CHARACTERS`, or an id that is not UTF-8.
    """
    text = payload.decode().strip()
    trigger = Trigger.model_validate_json(text) if text.startswith("{") else Trigger(id=text)
    return trigger.id or None


def _take(name: str, camera: Capture, without_id: set[str], payload: bytes) -> None:
    """Triggers the camera for every message, because each means a part. A wrong id is replaced by None.

    `without_id` has the cameras whose wrong id was logged. A camera with a correct id is removed from it.
    """
    try:
        wanted = trigger_id(payload)
    except ValueError:
        if name not in without_id:
            logger.warning(
                '%s/trigger: expected an id of at most %d characters or {"id": "…"}, got %s; the result will have '
                "no trigger_id",
                name,
                MAX_ID_CHARACTERS,
                shown(payload),
            )
        without_id.add(name)
        wanted = None
    else:
        without_id.discard(name)
    camera.trigger(wanted)
