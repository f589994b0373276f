"""The model card has the facts of the manifest and nothing else."""

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
def test_shipped_bundle_has_the_card_of_its_manifest(bundle, capsys):
    assert main(["card", str(bundle)]) == 0
    card = capsys.readouterr().out
    assert (bundle / MODEL_CARD).read_text() == card
    for licence in load_bundle(bundle).manifest.licences:
        assert licence.source in card


def test_card_names_the_worst_results_on_unseen_data(manifest):
    rows = (
        row("easy", image_auroc=0.99, recall=0.8, false_reject_rate=0.01),
        row("hard", image_auroc=0.612, false_reject_rate=0.345),
        row("known", image_auroc=0.1, false_reject_rate=1.0, seen_in_training=True),
    )
    card = model_card(manifest.model_copy(update={"evaluation": Evaluation(protocol="how", rows=rows)}))
    assert "In percent; how." in card
    assert "Lowest image auroc on data not trained on: 61.2, hard." in card
    assert "Lowest recall on data not trained on: 80.0, easy." in card
    assert "Highest share of good parts rejected at the shipped threshold: 34.5 %, hard." in card
    assert "Lowest pixel ap" not in card
    assert "| known | yes | 7 | 10.0 | - |" in card


def test_card_lists_accepted_losses_of_each_model(manifest):
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
    assert "int8: on 9 images of tiles, image AUROC 0.8000 (torch 0.9000); 3 verdicts change." in card
    assert "int8: **accepted although above its tolerance: tiles: 0.1 lower**" in card
    assert f"{manifest.model.precision}: **metrics were not compared with torch.**" in card
    assert "**The bundle has none.**" in card


def test_card_names_known_export_versions(manifest):
    known = BuiltWith(openvino="2026.1", zsad_agent="0.2.0")
    card = model_card(manifest.model_copy(update={"built_at": date(2026, 11, 27), "built_with": known}))
    assert "| exported | on 2026-11-27 (UTC), with openvino 2026.1, zsad-agent 0.2.0 |" in card
    card = model_card(manifest.model_copy(update={"built_at": None, "built_with": None}))
    assert "| exported | date not recorded, with versions not recorded |" in card
    assert f"{RESIZE_RULE.words} (keep_aspect = False, crop = False, halve_from = 4, " in card


def test_card_escapes_bars_in_table_cells(manifest):
    assert "a\\|b" in model_card(manifest.model_copy(update={"made_by": "a|b"}))
