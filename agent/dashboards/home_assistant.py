"""Home Assistant finds the agent over MQTT discovery: one retained message describes the device and its entities.

Source: Home Assistant's documentation of MQTT, sections "Device discovery" and "Single component discovery".
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from zsad_agent.config import AgentConfig
from zsad_agent.messages import Topics
from zsad_agent.mqtt import Publisher

ORIGIN = "zsad-agent"
BIRTH = b"online"  # on <prefix>/status, when Home Assistant has started
_COMMAND = '{{"value": {value}, "id": "ha-{{{{ now().timestamp() }}}}", "sent_at": {{{{ now().timestamp() }}}}}}'


def announce(config: AgentConfig, publisher: Publisher) -> None:
    """Publishes the discovery, and again whenever Home Assistant starts.

    `Publisher.clear_all_but` removes it at the first start without it.
    """
    messages = discovery_messages(config, version(ORIGIN))

    def publish(payload: bytes = BIRTH) -> None:
        if payload.strip() == BIRTH:
            for topic, message in messages.items():
                publisher.set_retained_at(topic, message)

    publish()
    publisher.subscribe(f"{config.home_assistant.prefix}/status", publish)


def discovery_messages(config: AgentConfig, agent_version: str) -> dict[str, bytes]:
    """Topics and payloads: one for the device, or one for each entity with `format: components`."""
    topics = Topics(config.mqtt.topic_prefix, config.device_id)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", f"{config.mqtt.topic_prefix}_{config.device_id}")
    prefix = config.home_assistant.prefix
    device = {
        "identifiers": [name],
        "name": config.device_id,
        "manufacturer": ORIGIN,
        "model": "visual inspection",
        "sw_version": agent_version,
    }
    origin = {"name": ORIGIN, "sw_version": agent_version}
    available = {"availability_topic": topics.available}
    entities = {key: {**entity, "unique_id": f"{name}_{key}"} for key, entity in _entities(config, topics)}
    if config.home_assistant.format == "device":
        content = {"device": device, "origin": origin, "components": entities, "qos": 1, **available}
        return {f"{prefix}/device/{name}/config": _encode(content)}
    return {
        f"{prefix}/{entity.pop('platform')}/{name}/{key}/config": _encode(
            {"device": device, "origin": origin, **available, **entity}
        )
        for key, entity in entities.items()
    }


def _entities(config: AgentConfig, topics: Topics) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key, unique in the device, and description of each entity."""
    for camera in config.every_camera:
        for key, entity in _of_camera(camera.name, topics, heatmap=config.heatmap.enabled):
            yield f"{_slug(camera.name)}_{key}", {**entity, "name": f"{camera.name} {entity['name']}"}
        if config.control.enabled:
            for key, entity in _controls(camera.name, topics):
                yield f"{_slug(camera.name)}_{key}", {**entity, "name": f"{camera.name} {entity['name']}"}
    stats = topics.below("stats")
    yield (
        "waiting",
        {
            "platform": "sensor",
            "name": "results waiting for the broker",
            "state_topic": stats,
            "value_template": "{{ value_json.spool.entries }}",
            "state_class": "measurement",
            "entity_category": "diagnostic",
        },
    )
    yield (
        "faults",
        {
            "platform": "binary_sensor",
            "name": "faults",
            "device_class": "problem",
            "state_topic": stats,
            "value_template": "{{ 'ON' if value_json.faults else 'OFF' }}",
            "json_attributes_topic": stats,
            "json_attributes_template": "{{ {'faults': value_json.faults} | tojson }}",
            "entity_category": "diagnostic",
        },
    )


def _of_camera(camera: str, topics: Topics, *, heatmap: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    result, status, stats = topics.result(camera), topics.below(f"{camera}/status"), topics.below("stats")
    yield (
        "score",
        {
            "platform": "sensor",
            "name": "anomaly score",
            "state_topic": result,
            "value_template": "{{ value_json.anomaly_score }}",
            "state_class": "measurement",
            "suggested_display_precision": 3,
            "json_attributes_topic": result,
        },
    )
    yield (
        "verdict",
        {
            "platform": "sensor",
            "name": "verdict",
            "device_class": "enum",
            "options": ["ok", "anomalous", "unknown"],
            "state_topic": result,
            "value_template": "{{ value_json.verdict }}",
        },
    )
    yield (
        "defect",
        {
            "platform": "binary_sensor",
            "name": "defect",
            "device_class": "problem",
            "state_topic": result,
            "value_template": "{{ {'ok': 'OFF', 'anomalous': 'ON'}.get(value_json.verdict, 'None') }}",
        },
    )
    if heatmap:
        yield (
            "heatmap",
            {
                "platform": "image",
                "name": "heatmap",
                "image_topic": topics.heatmap(camera),
                "content_type": "image/jpeg",
            },
        )
    yield (
        "health",
        {
            "platform": "sensor",
            "name": "health",
            "device_class": "enum",
            "options": ["ok", "degraded", "paused"],
            "state_topic": status,
            "value_template": "{{ value_json.state }}",
            "json_attributes_topic": status,
            "entity_category": "diagnostic",
        },
    )
    for verdict in ("ok", "anomalous", "unknown"):
        yield (
            f"count_{verdict}",
            {
                "platform": "sensor",
                "name": f"parts {verdict}",
                "state_topic": stats,
                "value_template": f"{{{{ value_json.cameras[{json.dumps(camera)}].results.{verdict} }}}}",
                "state_class": "total_increasing",
                "entity_category": "diagnostic",
            },
        )


def _controls(camera: str, topics: Topics) -> Iterator[tuple[str, dict[str, Any]]]:
    def of(key: str, value: str) -> dict[str, Any]:
        return {
            "command_topic": topics.below(f"{camera}/{key}/set"),
            "command_template": _COMMAND.format(value=value),
            "state_topic": topics.below(f"{camera}/{key}/state"),
            "entity_category": "config",
        }

    yield (
        "threshold",
        {
            "platform": "number",
            "name": "threshold",
            **of("threshold", "{{ value }}"),
            "value_template": "{{ value_json.value }}",
            "min": 0,
            "max": 1,
            "step": 0.001,
            "mode": "box",
        },
    )
    yield (
        "product",
        {
            "platform": "text",
            "name": "product",
            **of("product", "{{ value | tojson }}"),
            "value_template": "{{ value_json.value }}",
            "max": 200,
        },
    )
    yield (
        "paused",
        {
            "platform": "select",  # a switch has no template for its commands in older versions
            "name": "inspection",
            **of("paused", "{{ 'true' if value == 'paused' else 'false' }}"),
            "options": ["running", "paused"],
            "value_template": "{{ 'paused' if value_json.value else 'running' }}",
        },
    )


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def _encode(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
