"""The losses of distillation."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from small_model import write_pictures
from small_run import HW, make_data

torch = pytest.importorskip("torch")

from small_distillation import distil_config, small_pictures, small_student, small_teacher, texts

from zsad_training.distil import DistilBatch, DistilObjective, collate_distil
from zsad_training.distil.objective import divergence
from zsad_training.run import stacked_text

ALL = {"features", "maps", "scores", "task"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = make_data(tmp_path_factory.mktemp("data"))
    write_pictures(root / "raw")
    return root


def objective_of(config):
    """(objective, student)"""
    student = small_student(config)
    teacher = small_teacher(config)
    return DistilObjective(student, texts(), teacher, config, device=torch.device("cpu")), student


def batch_of(config, labelled: tuple[bool, ...] | None = None) -> DistilBatch:
    """Four images; the given ones are marked as labelled."""
    batch = collate_distil([small_pictures(config)[index] for index in range(4)])
    if labelled is None:
        return batch
    chosen = torch.tensor(labelled)
    return replace(batch, is_labelled=chosen, has_pixel_truth=batch.has_pixel_truth & chosen)


def terms(objective: DistilObjective, batch: DistilBatch) -> dict[str, torch.Tensor]:
    return objective.terms(batch, objective.counts(batch))


@pytest.mark.parametrize("off", sorted(ALL))
def test_a_loss_with_weight_0_is_not_in_the_total(data, off):
    weights = {"features": 2.0, "maps": 3.0, "scores": 0.5, "task": 0.25, off: 0.0}
    config = distil_config(data, data / "out", **{name: {"weight": weight} for name, weight in weights.items()})
    objective, _ = objective_of(config)
    found = {name: term.item() for name, term in terms(objective, batch_of(config)).items()}
    assert found.keys() - {"total"} == ALL - {off}
    expected = sum(weights[name] * found[name] for name in ALL - {off})
    assert found["total"] == pytest.approx(expected, rel=1e-5)


def test_outputs_only_for_a_loss_with_weight_0_are_not_computed(data):
    off = {"weight": 0.0}
    config = distil_config(data, data / "out", features=off, task=off)
    objective, student = objective_of(config)
    assert not list(objective.extra.parameters())
    student.head.forward = None  # computes the task's outputs
    assert terms(objective, batch_of(config)).keys() == {"total", "maps", "scores"}
    config = distil_config(data, data / "out", maps=off, scores=off, task=off)
    objective, student = objective_of(config)
    student.head.prompt_vectors = None  # computes the map
    assert terms(objective, batch_of(config)).keys() == {"total", "features"}


def test_unlabelled_images_count_in_all_losses_but_the_tasks(data):
    config = distil_config(data, data / "out")
    objective, _ = objective_of(config)
    objective._detector.eval()
    with torch.no_grad():
        none = terms(objective, batch_of(config, (False,) * 4))
        half = terms(objective, batch_of(config, (True, False, True, False)))
        chosen = collate_distil([small_pictures(config)[index] for index in (0, 2)])
        alone = terms(objective, chosen)
    assert float(none["task"]) == 0
    assert float(none["features"]) == pytest.approx(float(half["features"]), rel=1e-5)
    assert float(none["maps"]) == pytest.approx(float(half["maps"]), rel=1e-5)
    assert float(half["task"]) == pytest.approx(float(alone["task"]), rel=1e-4)
    assert float(alone["task"]) > 0


def test_a_batch_without_labels_still_trains(data):
    config = distil_config(data, data / "out")
    objective, student = objective_of(config)
    terms(objective, batch_of(config, (False,) * 4))["total"].backward()
    assert student.head.text_projection.weight.grad.abs().sum() > 0


def test_parts_of_a_batch_add_up_to_the_whole(data):
    config = distil_config(data, data / "out", scores={"weight": 1.0})
    objective, student = objective_of(config)
    student.eval()
    labelled = (True, True, False, True)
    items = [small_pictures(config)[index] for index in range(4)]
    whole = batch_of(config, labelled)
    halves = []
    for part in (slice(0, 2), slice(2, 4)):
        half, chosen = collate_distil(items[part]), torch.tensor(labelled[part])
        halves.append(replace(half, is_labelled=chosen, has_pixel_truth=half.has_pixel_truth & chosen))
    totals = objective.counts(whole)
    assert totals == [sum(column) for column in zip(*map(objective.counts, halves), strict=True)]
    with torch.no_grad():
        expected = objective.terms(whole, totals)
        found = [objective.terms(half, totals) for half in halves]
    for name, value in expected.items():
        # Dice is a mean over images; each part counts by its share of the images.
        assert sum(float(part[name]) for part in found) == pytest.approx(float(value), rel=1e-3), name


@pytest.mark.parametrize(
    ("model", "within"),
    [
        ({}, 1e-5),
        ({"method": "ad_dinov3"}, 1e-5),
        ({"score": {"temperature": 8.0}}, 1e-5),
        ({"decoder": {}, "score": {"temperature": 8.0}}, 5e-3),  # logits are enlarged, not probabilities
    ],
)
def test_the_compared_map_equals_the_students_prediction(data, model, within):
    config = distil_config(data, data / "out", model=model)
    objective, student = objective_of(config)
    student.eval()
    map_hw = objective._teacher.layout.map_hw
    batch = batch_of(config)
    text = stacked_text(texts(), batch.products, torch.device("cpu"))
    with torch.no_grad():
        tokens = student.tokens(batch.images_bgr)
        found = torch.sigmoid(objective._map_logits(tokens, text, None))
        expected, _ = student.head.predict(
            tokens, student.head.prompt_vectors(text), map_hw=map_hw, score=student.config.score
        )
        output = student.head(tokens, text, map_hw=HW)
        again = torch.sigmoid(objective._map_logits(tokens, text, output.decoded))
    torch.testing.assert_close(found, expected, rtol=0, atol=within)
    torch.testing.assert_close(again, found, rtol=0, atol=1e-6)


def test_divergence_equals_the_kl_divergence_of_two_coins():
    p, q = 0.2, 0.6  # probabilities of teacher and student
    logits = torch.tensor([math.log(q / (1 - q))])
    teachers = torch.tensor([math.log(p / (1 - p))])
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert float(divergence(logits, teachers)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(2 * logits, 2 * teachers, temperature=2.0)) == pytest.approx(4 * expected, rel=1e-5)
    assert float(divergence(teachers, teachers)) == pytest.approx(0, abs=1e-7)
    assert math.isfinite(float(divergence(torch.tensor([1e4]), torch.tensor([-13.8]))))


@pytest.mark.parametrize(("distance", "bound"), [("cosine", 2.0), ("smooth_l1", 10.0)])
def test_the_feature_loss_ignores_rotation_and_scale(data, distance, bound):
    config = distil_config(data, data / "out", features={"distance": distance, "grid_hw": (4, 6)})
    objective, student = objective_of(config)
    batch = batch_of(config)
    answers = objective._teacher.layout.unpack(objective._teacher.rows(batch))
    tokens = student.tokens(batch.images_bgr)  # also on a grid of 4 x 6
    with torch.no_grad():
        far = float(objective._feature_loss(tokens, answers))
        for projection in objective.extra:
            projection.weight.copy_(-3 * torch.eye(192))
        theirs = replace(tokens, patch_tokens=[-answers.features[:, tap] for tap in range(4)])
        near = float(objective._feature_loss(theirs, answers))
    assert 0.3 < far < bound
    assert near < 1e-3


def test_taps_meet_at_the_same_relative_depth(data):
    config = distil_config(data, data / "out", model={"taps": (6, 12)})
    assert objective_of(config)[0]._teachers_tap == [1, 3]
    config = distil_config(data, data / "out", model={"taps": (1, 2, 3, 4, 5, 6, 7, 8)})
    assert objective_of(config)[0]._teachers_tap == [0, 0, 1, 1, 2, 2, 3, 3]
