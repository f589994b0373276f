"""The JSON Schema of a bundle's manifest, for other programs that read bundles.

It is generated from `zsad_core.bundle.format.Manifest` and committed beside this module. This command generates it:

    python -m zsad_core.bundle.manifest_schema > core/bundle/manifest.schema.json
"""

import json
import sys

from zsad_core.bundle.format import Manifest


def manifest_schema() -> str:
    """The text of the file: JSON Schema, draft 2020-12. `load_bundle` also checks what a schema cannot express."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Manifest.model_json_schema()
    return json.dumps(schema, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manifest_schema())
