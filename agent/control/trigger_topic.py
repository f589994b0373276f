"""Triggers over MQTT: one message on `<camera>/trigger`, one result."""

import json
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from zsad_agent.capture import MAX_ID_CHARACTERS
from zsad_agent.messages import Topics

logger = logging.getLogger(__name__)


class Triggered(Protocol):
    """A camera that takes a picture on request, for example `zsad_agent.capture.Capture`."""

    def trigger(self, trigger_id: str | None) -> None: ...


class Subscriber(Protocol):
    """`zsad_agent.mqtt.Publisher` is one."""

    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None: ...


def listen_for_triggers(subscriber: Subscriber, topics: Topics, cameras: Mapping[str, Triggered]) -> None:
    """Subscribes to the trigger topic of each camera."""
    without_id: set[str] = set()
    for name, camera in cameras.items():
        subscriber.subscribe(topics.below(f"{name}/trigger"), partial(_take, name, camera, without_id))


def trigger_id(payload: bytes) -> str | None:
    """The id in a trigger's payload: `{"id": "…"}`, or the text itself; None for an empty one.

    Raises:
        ValueError: neither, an id of more than `MAX_ID_CHARACTERS`, or one that cannot be sent back.
    """
    text = payload.decode().strip()
    if text.startswith("{"):
        values = json.loads(text)
        if set(values) - {"id"}:
            raise ValueError(f"unknown keys {sorted(set(values) - {'id'})}: expected id alone")
        found = values.get("id")
        if not (found is None or isinstance(found, str)):
            raise ValueError(f"id is {type(found).__name__}, expected a text")
        text = found or ""
    if len(text) > MAX_ID_CHARACTERS:
        raise ValueError(f"an id of {len(text)} characters, at most {MAX_ID_CHARACTERS} are taken")
    text.encode()  # JSON can hold half a surrogate pair, which no UTF-8 message can
    return text or None


def _take(name: str, camera: Triggered, without_id: set[str], payload: bytes) -> None:
    """A part is there whatever the message holds: without an id that can be used it is inspected without one.

    Said once, until a message of the camera is as it should be: `without_id` has those of which it was said.
    """
    try:
        wanted = trigger_id(payload)
    except (ValueError, RecursionError) as error:  # UnicodeError and JSONDecodeError are ValueErrors
        if name not in without_id:
            logger.warning("%s/trigger: the result will have no trigger_id: %s", name, str(error)[:200])
        without_id.add(name)
        wanted = None
    else:
        without_id.discard(name)
    camera.trigger(wanted)
