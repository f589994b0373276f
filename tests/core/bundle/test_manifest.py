"""The manifests that this version reads (its own format, older and newer ones), and the committed schema."""

import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tiny_bundle_maker import make_tiny_bundle

from zsad_core.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    RESIZE_RULE,
    Manifest,
    installed_version,
    load_bundle,
    parse_manifest,
)
from zsad_core.bundle import manifest_schema as schema_module
from zsad_core.bundle.format import NEEDS_AGENT
from zsad_core.bundle.manifest_schema import manifest_schema
from zsad_core.errors import BundleError

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "agent" / "bundles").iterdir())
FORMAT_1 = Path(__file__).with_name("manifest-format-1.json")  # from zsad-tiny 3.0.0, as shipped


def shipped() -> dict[str, Any]:
    """A manifest of this format in which every section is present."""
    values = json.loads((SHIPPED[0] / MANIFEST).read_text())
    wording = {"names": ["cap"], "normal_states": None, "anomalous_states": None, "templates": None}
    variant = {key: values[key] for key in ("parity", "gate", "accepted_loss")} | {"precision": "int8"}
    variant["calibration"] = {"source": "x", "images": 3, "seed": 0}
    return values | {"added_products": {"cap": {"made_by": "x", "wording": wording}}, "variant": variant}


def parsed(values: Any) -> Manifest:
    return parse_manifest(json.dumps(values).encode(), "m.json")


def sections(values: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, mapping) of every mapping with keys that the format defines."""
    if isinstance(values, dict):
        if at not in (".files", ".added_products"):
            yield at, values
        for key, value in values.items():
            yield from sections(value, f"{at}.{key}")
    elif isinstance(values, list):
        for index, value in enumerate(values):
            yield from sections(value, f"{at}.{index}")


SECTIONS = [at for at, _ in sections(shipped())]


def test_format_1_is_read_as_this_format_with_the_resize_rule():
    manifest = parse_manifest(FORMAT_1.read_bytes(), "m.json")
    assert (manifest.format_version, manifest.resize) == (FORMAT_VERSION, RESIZE_RULE)
    assert (manifest.version, len(manifest.products), manifest.threshold.value) == ("3.0.0", 90, 0.12425345182418823)
    assert (manifest.built_at, manifest.built_with) == (None, None)


def test_a_complete_bundle_of_format_1_loads(tmp_path):
    folder = make_tiny_bundle(tmp_path / "bundle")
    values = json.loads((folder / MANIFEST).read_text())
    for key in ("needs_agent", "resize", "built_at", "built_with"):
        del values[key]
    (folder / MANIFEST).write_text(json.dumps(values | {"format_version": 1}))
    assert load_bundle(folder).manifest.products == ("bottle", "object")


@pytest.mark.parametrize("at", SECTIONS)
def test_an_unknown_key_is_ignored_in_every_section(at):
    values = shipped()
    dict(sections(values))[at]["a_newer_programs_key"] = {"deep": [1, None]}
    assert parsed(values) == parsed(shipped())


def test_the_tested_sections_are_complete():
    assert {"", ".model.score", ".resize", ".built_with", ".gate.rows.1", ".added_products.cap.wording"} <= set(
        SECTIONS
    )


@pytest.mark.parametrize("needs_agent", [NEEDS_AGENT, "9.8.7"])
def test_a_newer_manifest_of_the_same_format_is_read(tmp_path, needs_agent):
    """The same format version from a newer program, with more keys and one more file."""
    folder = Path(shutil.copytree(make_tiny_bundle(tmp_path / "bundle"), tmp_path / "copy"))
    values = json.loads((folder / MANIFEST).read_text())
    (folder / "extra.json").write_bytes(b"")
    values["files"]["extra.json"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    values |= {"needs_agent": needs_agent, "profiles": ["x"]}
    (folder / MANIFEST).write_text(json.dumps(values))
    assert load_bundle(folder).manifest.files["extra.json"] == values["files"]["extra.json"]
    (folder / "extra.json").write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"extra\.json: sha256 is .* was changed"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"needs_agent": "1.4.0"}, "It needs zsad-agent 1.4.0 or newer: update the agent."),
        ({}, "It needs a newer zsad-agent: update the agent."),
        ({"needs_agent": 7}, "It needs a newer zsad-agent: update the agent."),
        ({"needs_agent": "\x1b[2J" * 1000}, "It needs a newer zsad-agent: update the agent."),
    ],
)
def test_a_newer_format_is_refused_with_the_agent_that_it_needs(more, said):
    version = installed_version("zsad-agent")
    with pytest.raises(BundleError) as refused:
        parsed({"format_version": FORMAT_VERSION + 1} | more)
    assert str(refused.value) == f"m.json: bundle format 3, this agent ({version}) reads 1 to 2. {said}"


@pytest.mark.parametrize("found", [0, -1, "2", 2.0, True, None, [2]])
def test_an_invalid_format_version_is_refused(found):
    with pytest.raises(BundleError, match=r"reads 1 to 2\. Re-export it with zsad-convert\."):
        parsed(shipped() | {"format_version": found})


@pytest.mark.parametrize(
    ("section", "changes", "said"),
    [
        ("threshold", {"value": 1.5}, "threshold.value: Input should be less than or equal to 1"),
        ("model", {"input_hw": [320, 320.5]}, "model.input_hw.1"),
        ("model", {"colour_order": "RGB"}, "model.colour_order"),
        ("resize", {"halve_from": 2}, "resize.halve_from: Input should be 4"),
        ("resize", {"keep_aspect": True}, "resize.keep_aspect: Input should be False"),
        ("built_with", {"torch": 2}, "built_with.torch"),
        ("files", {"../secret": "0" * 64}, r"files\.\.\./secret"),
        ("files", {"model.xml": "0" * 63}, "files.model.xml"),
    ],
)
def test_a_known_key_is_checked_strictly(section, changes, said):
    values = shipped()
    values[section] |= changes
    with pytest.raises(BundleError, match=said):
        parsed(values)


@pytest.mark.parametrize("key", sorted(name for name, field in Manifest.model_fields.items() if field.is_required()))
def test_a_required_key_is_required(key):
    values = shipped()
    del values[key]
    with pytest.raises(BundleError, match=key):
        parsed(values)


@pytest.mark.parametrize("changes", [{"built_at": "yesterday"}, {"built_at": 5}, {"needs_agent": "new"}])
def test_a_new_key_of_the_wrong_type_is_refused(changes):
    with pytest.raises(BundleError, match=next(iter(changes))):
        parsed(shipped() | changes)


def test_this_agent_version_reads_the_bundles_that_it_writes():
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert [int(part) for part in ours.split(".")] >= [int(part) for part in NEEDS_AGENT.split(".")]


def test_the_committed_schema_is_up_to_date():
    committed = Path(schema_module.__file__).with_name("manifest.schema.json")
    assert committed.read_text() == manifest_schema(), "python -m zsad_core.bundle.manifest_schema prints it anew"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(manifest_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_bundle_is_valid_under_the_schema(bundle, validator):
    values = json.loads((bundle / MANIFEST).read_text())
    validator.validate(values)
    validator.validate(values | {"a_newer_programs_key": 1})


@pytest.mark.parametrize(
    "changes",
    [{"format_version": 3}, {"region_level": 2}, {"resize": {}}, {"files": {"model.xml": "short"}}, {"products": "x"}],
)
def test_the_schema_refuses_the_same_manifests_as_the_agent(changes, validator):
    assert not validator.is_valid(shipped() | changes)
    with pytest.raises(BundleError):
        parsed(shipped() | changes)


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_bundle_records_only_known_facts_of_its_export(bundle):
    manifest = load_bundle(bundle).manifest
    stated = re.search(r'Runtime_version value="([^"]+)"', (bundle / "model.xml").read_text())
    assert stated is not None
    assert manifest.built_with is not None
    assert (manifest.built_with.openvino, manifest.built_with.zsad_agent) == (stated[1], NEEDS_AGENT)
    assert manifest.built_at == date(2026, 11, 30)
    assert (manifest.format_version, manifest.needs_agent, manifest.resize) == (2, NEEDS_AGENT, RESIZE_RULE)


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda path: path.name)
def test_training_textures_are_not_products(bundle):
    products = set(load_bundle(bundle).manifest.products)
    textures = {name for name in json.loads(FORMAT_1.read_text())["products"] if name[0].isupper()}
    assert len(textures) == 54
    assert not products & textures
    assert {"object", "bottle", "pcb", "cookie", "tile"} <= products
