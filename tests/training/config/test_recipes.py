"""The recipes of the shipped bundles equal the settings in their manifests."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from zsad_core.bundle import Manifest, load_bundle
from zsad_training.config import TrainConfig
from zsad_training.config import load as settings
from zsad_training.distil import settings as distil_settings

ROOT = Path(__file__).parents[3]


# bundle -> recipe and its required flags
SHIPPED = {"zsad-small": ("zsad-small.yaml", []), "zsad-tiny": ("distil-tiny.yaml", ["--teacher", "best.safetensors"])}


def read(command: str, flags: list[str]) -> TrainConfig:
    if command == "training/distill.py":
        return distil_settings.read_distil_config(distil_settings.parser().parse_args(flags))
    return settings.read_config(settings.parser().parse_args(flags))


@pytest.fixture(params=SHIPPED, scope="module")
def shipped(request) -> tuple[Manifest, TrainConfig, TrainConfig]:
    """(manifest, settings of its training command, settings of the recipe now)."""
    recipe, needed = SHIPPED[request.param]
    manifest = load_bundle(ROOT / "agent" / "bundles" / request.param).manifest
    _, command, *flags = shlex.split(manifest.made_by.partition(" (seed ")[0])
    assert flags[:2] == ["--config", f"training/recipes/{recipe}"]
    config = ["--config", str(ROOT / "training" / "recipes" / recipe)]
    return manifest, read(command, [*config, *flags[2:]]), read(command, [*config, *needed])


def of_the_run(config: TrainConfig) -> dict[str, Any]:
    """The settings without paths and devices of a machine."""
    values = config.model_dump(mode="json", exclude={"out", "device", "workers", "feature_cache"})
    del values["model"]["weights"]
    for spec in [*values["datasets"], values["textures"]]:
        spec["path"] = Path(spec["path"]).name
    for key in ("teacher", "cache"):
        values.get("distillation", {}).pop(key, None)
    return values


def test_the_recipe_is_the_command_that_made_the_bundle(shipped):
    manifest, recorded, recipe = shipped
    assert of_the_run(recorded) == of_the_run(recipe)
    assert f"(seed {recipe.seed}, epoch" in manifest.made_by


def test_the_manifest_describes_the_recipes_model(shipped):
    manifest, _, recipe = shipped
    facts, model = manifest.model, recipe.model
    assert facts.backbone.startswith(f"{model.backbone} from ")
    assert (facts.method, facts.text_encoder) == (model.method, model.text_encoder)
    assert (facts.input_hw, facts.taps) == (model.input_hw, model.taps)
    assert facts.map_hw == tuple(side // model.map_stride for side in model.input_hw)
    assert facts.score is not None
    assert facts.score.model_dump() == model.score.model_dump(include={"top_fraction", "pool", "power"})


def test_the_manifest_has_the_licence_of_each_training_set(shipped):
    manifest, _, recipe = shipped
    assert recipe.textures is not None
    stated = {(one.what, one.licence, one.source) for one in manifest.licences if one.what.startswith("training data")}
    specs = [*recipe.datasets, recipe.textures]
    assert stated == {(f"training data {spec.path.name}", spec.licence, spec.source) for spec in specs}
    trained_on = {spec.path.name for spec in specs}
    assert manifest.evaluation is not None
    for row in manifest.evaluation.rows:
        assert row.seen_in_training == (row.dataset.partition("/")[0] in trained_on)
