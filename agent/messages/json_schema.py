"""The JSON Schemas of the messages, for programs that read them.

They are generated from the models and committed beside this module. This writes them:

    python -m zsad_agent.messages.json_schema
"""

import json
from pathlib import Path

from pydantic import BaseModel

from zsad_agent.messages.result import Result
from zsad_agent.messages.stats import Stats
from zsad_agent.messages.update import UpdateState

SCHEMA_FILES: dict[str, type[BaseModel]] = {
    "result.schema.json": Result,
    "stats.schema.json": Stats,
    "update.schema.json": UpdateState,
}


def schema_text(message: type[BaseModel]) -> str:
    """The text of the file: JSON Schema of draft 2020-12. Every published message is valid under it."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= message.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, message in SCHEMA_FILES.items():
        Path(__file__).with_name(name).write_text(schema_text(message), encoding="utf-8")
