"""A model card says what the manifest says, and nothing that is not there."""

from datetime import date
from pathlib import Path

import pytest

from zsad_convert.bundle import MODEL_CARD, model_card
from zsad_convert.cli import main
from zsad_core.bundle import RESIZE_RULE, BuiltWith, Evaluation, Gate, GateRow, Manifest, Variant, load_bundle
from zsad_core.facts import EvaluationRow

SHIPPED = sorted((Path(__file__).parents[3] / "agent" / "bundles").iterdir())


@pytest.fixture
def manifest() -> Manifest:
    return load_bundle(SHIPPED[0]).manifest


def row(dataset: str, **changes) -> EvaluationRow:
    metrics = dict.fromkeys(set(EvaluationRow.model_fields) - {"dataset", "seen_in_training", "images"})
    return EvaluationRow(**{"dataset": dataset, "seen_in_training": False, "images": 7, **metrics, **changes})


@pytest.mark.parametrize("bundle", SHIPPED, ids=lambda path: path.name)
def test_a_bundle_that_ships_has_the_card_of_its_manifest(bundle, capsys):
    assert main(["card", str(bundle)]) == 0
    card = capsys.readouterr().out
    assert (bundle / MODEL_CARD).read_text() == card
    for licence in load_bundle(bundle).manifest.licences:
        assert licence.source in card


def test_the_worst_of_what_was_not_trained_on_is_named(manifest):
    rows = (
        row("easy", image_auroc=0.99, recall=0.8, false_reject_rate=0.01),
        row("hard", image_auroc=0.612, false_reject_rate=0.345),
        row("known", image_auroc=0.1, false_reject_rate=1.0, seen_in_training=True),
    )
    card = model_card(manifest.model_copy(update={"evaluation": Evaluation(protocol="how", rows=rows)}))
    assert "In percent; how." in card
    assert "Lowest image auroc on data not trained on: 61.2, hard." in card
    assert "Lowest recall on data not trained on: 80.0, easy." in card
    assert "Most good parts rejected at the threshold that ships: 34.5 %, hard." in card
    assert "Lowest pixel ap" not in card
    assert "| known | yes | 7 | 10.0 | - |" in card


def test_what_was_let_through_is_said_of_each_model(manifest):
    fault = GateRow(
        dataset="tiles",
        images=9,
        image_auroc_torch=0.9,
        image_auroc_ir=0.8,
        pixel_ap_torch=None,
        pixel_ap_ir=None,
        changed_verdicts=3,
    )
    gate = Gate(image_auroc_tolerance=0.005, pixel_ap_tolerance=0.05, rows=(fault,))
    variant = Variant(precision="int8", parity=manifest.parity, gate=gate, accepted_loss=("tiles: 0.1 lower",))
    card = model_card(manifest.model_copy(update={"variant": variant, "evaluation": None, "gate": "left out"}))
    assert "int8: on 9 pictures of tiles image AUROC 0.8000 for torch's 0.9000; 3 verdicts change." in card
    assert "int8: **above its tolerance, and accepted: tiles: 0.1 lower**" in card
    assert f"{manifest.model.precision}: **metrics were not compared with torch's.**" in card
    assert "**None is in the bundle.**" in card


def test_what_exported_the_models_is_said_as_far_as_it_is_known(manifest):
    known = BuiltWith(openvino="2026.1", zsad_agent="0.2.0")
    card = model_card(manifest.model_copy(update={"built_at": date(2026, 11, 27), "built_with": known}))
    assert "| exported | on 2026-11-27 (UTC), with openvino 2026.1, zsad-agent 0.2.0 |" in card
    card = model_card(manifest.model_copy(update={"built_at": None, "built_with": None}))
    assert "| exported | on a day that was not recorded, with versions that were not recorded |" in card
    assert f"{RESIZE_RULE.words} (keep_aspect = False, crop = False, halve_from = 4, " in card


def test_a_cell_keeps_to_itself(manifest):
    assert "a\\|b" in model_card(manifest.model_copy(update={"made_by": "a|b"}))
