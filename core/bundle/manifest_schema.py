"""The JSON Schema of a bundle's manifest, for whoever reads bundles with other programs.

It is made from `zsad_core.bundle.format.Manifest` and committed beside this module; this prints it anew:

    python -m zsad_core.bundle.manifest_schema > core/bundle/manifest.schema.json
"""

import json
import sys

from zsad_core.bundle.format import Manifest

SCHEMA_FILE = "manifest.schema.json"


def manifest_schema() -> str:
    """The text of the file: JSON Schema of draft 2020-12. What a schema cannot say, `load_bundle` checks."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Manifest.model_json_schema()
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manifest_schema())
