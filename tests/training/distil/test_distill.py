"""Complete distillations: the student becomes similar to its teacher, also after interruptions."""

import csv
import hashlib
import time
from contextlib import nullcontext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from published_files import AD_MODULES, module_states, visualad_content
from small_run import assert_same_but_for_rounding, make_data
from two_processes import FORKSERVER, STARTED_BY, run_two

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, safe_open
from small_distillation import (
    TEACHERS_HW,
    distil_config,
    run_distillation,
    small_distiller,
    small_pictures,
    small_teacher,
    texts,
)
from small_model import record, small_detector

from zsad_core.errors import ConfigError
from zsad_core.facts import EvaluationRow
from zsad_core.heads import AdDinoV3, MatchingConfig, ScoreConfig, VisualAd, VisualAdConfig
from zsad_core.model import Checkpoint, DetectorConfig, load_checkpoint, save_checkpoint
from zsad_training.config import presets
from zsad_training.distil import (
    Teacher,
    check_score_rules,
    collate_distil,
    comparison,
    kept_rows,
    load_teacher,
    parser,
    read_distil_config,
)
from zsad_training.distill import main, with_teacher
from zsad_training.measure import METRICS
from zsad_training.run import stacked_text

CNN = {"backbone": "tf_efficientnet_lite0", "taps": (2, 3, 4, 5)}
VIT, WIDTH = "vit_tiny_patch16_224", 192


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """One cache for all runs here; they have the same teacher."""
    return tmp_path_factory.mktemp("cache")


def logged(folder: Path, metric: str) -> list[float]:
    with (folder / "log.csv").open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


def resume(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(folder / "resume.pt", weights_only=True)


def likeness(config, student) -> float:
    """Correlation of the student's maps with the teacher's, on the pool."""
    teacher = small_teacher(config)
    batch = collate_distil([small_pictures(config)[index] for index in range(12)])
    theirs = torch.sigmoid(teacher.layout.unpack(teacher.rows(batch)).map_logits)
    with torch.no_grad():
        maps, _ = student.eval().predict(batch.images_bgr, stacked_text(texts(), batch.products, torch.device("cpu")))
    own = torch.nn.functional.interpolate(maps.unsqueeze(1), size=theirs.shape[1:], mode="area").squeeze(1)
    return float(np.corrcoef(own.flatten(), theirs.flatten())[0, 1])


@pytest.mark.parametrize(
    ("model", "blocks", "falls_to", "likeness_after"), [({}, 12, 0.5, 0.5), ({"decoder": {}, **CNN}, 4, 0.9, 0.3)]
)
def test_the_student_becomes_similar_to_the_teacher(data, cache, tmp_path, model, blocks, falls_to, likeness_after):
    optimisation = {"epochs": 2, "steps_per_epoch": 15, "lr": 2e-3, "trainable_blocks": blocks}
    config = distil_config(data, tmp_path, model=model, optimisation=optimisation, cache=cache, task={"weight": 0.0})
    trainer, student = small_distiller(config)
    before = likeness(config, student)
    best = trainer.run()
    for metric in ("loss_features", "loss_maps"):
        values = logged(tmp_path, metric)
        assert len(values) == 30
        assert np.mean(values[-4:]) < falls_to * np.mean(values[:2]) + 0.1, metric
    assert likeness(config, student) > max(before, likeness_after)
    loaded = load_checkpoint(best)
    assert loaded.detector.config.backbone.name == config.model.backbone
    assert 0 < loaded.record["threshold"]["value"] < 1


def test_the_projections_are_resumed_and_are_not_in_the_checkpoint(data, cache, tmp_path):
    best = small_distiller(distil_config(data, tmp_path, cache=cache))[0].run()
    assert [value.shape for value in resume(tmp_path)["extra"].values()] == [(192, 192)] * 4
    with safe_open(best, framework="pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} == {"backbone", "head", "text"}  # noqa: SIM118


def test_a_cache_does_not_change_the_student(data, tmp_path):
    for name, cache in (("without", None), ("cold", tmp_path / "cache"), ("warm", tmp_path / "cache")):
        small_distiller(distil_config(data, tmp_path / name, cache=cache))[0].run()
    expected = load_file(tmp_path / "without" / "best.safetensors")
    for name in ("cold", "warm"):
        found = load_file(tmp_path / name / "best.safetensors")
        assert all(found[key].equal(value) for key, value in expected.items()), name


def test_a_batch_in_parts_gives_the_same_student(data, cache, tmp_path):
    for name, parts in (("whole", 1), ("parts", 2)):
        optimisation = {"accumulate": parts, "epochs": 1, "ema_decay": 0.9}
        small_distiller(distil_config(data, tmp_path / name, optimisation=optimisation, cache=cache))[0].run()
    assert logged(tmp_path / "parts", "loss_total") == pytest.approx(logged(tmp_path / "whole", "loss_total"), rel=1e-3)
    assert_same_but_for_rounding(resume(tmp_path / "parts")["extra"], resume(tmp_path / "whole")["extra"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["off", "bf16", "fp16"])
def test_a_gpu_gives_nearly_the_same_student_as_a_cpu(data, tmp_path, precision):
    small_distiller(distil_config(data, tmp_path / "cpu"))[0].run()
    on_gpu = distil_config(
        data, tmp_path / "gpu", optimisation={"mixed_precision": precision}, cache=tmp_path / "cache"
    )
    small_distiller(on_gpu.model_copy(update={"device": "cuda"}))[0].run()
    for metric in ("loss_features", "loss_maps"):
        assert logged(tmp_path / "gpu", metric) == pytest.approx(logged(tmp_path / "cpu", metric), rel=0.1, abs=0.05)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_works_on_a_cpu(data, cache, tmp_path, precision):
    for name in ("off", precision):
        optimisation = {"mixed_precision": name, "epochs": 1}
        small_distiller(distil_config(data, tmp_path / name, optimisation=optimisation, cache=cache))[0].run()
    for metric in ("loss_features", "loss_maps", "loss_task"):
        found, expected = (logged(tmp_path / name, metric) for name in (precision, "off"))
        assert found == pytest.approx(expected, rel=0.15, abs=0.05), metric


INTERRUPTED = {"epochs": 1, "steps_per_epoch": 5, "save_every_steps": 1, "ema_decay": 0.9, "schedule": "cosine"}


class TeacherThatInterrupts:
    """A teacher that ends the run at its third call."""

    def __init__(self, real: Teacher) -> None:
        self._real, self._asked = real, 0

    def __getattr__(self, name: str):
        return getattr(self._real, name)

    def rows(self, *args):
        self._asked += 1
        if self._asked == 3:
            raise KeyboardInterrupt
        return self._real.rows(*args)


def test_an_interrupted_run_ends_like_an_uninterrupted_one(data, tmp_path):
    whole, cut = (
        distil_config(data, tmp_path / name, optimisation=INTERRUPTED, cache=tmp_path / f"{name}-cache")
        for name in ("whole", "cut")
    )
    small_distiller(whole)[0].run()
    with pytest.raises(KeyboardInterrupt):
        small_distiller(cut, TeacherThatInterrupts(small_teacher(cut)))[0].run()
    continue_without_some_answers(tmp_path / "cut-cache")
    small_distiller(cut)[0].run()
    assert_ended_alike(tmp_path / "cut", tmp_path / "whole")


def continue_without_some_answers(cache: Path) -> None:
    """Deletes some answers, as if the run had ended before it wrote them."""
    answers = sorted(cache.rglob("*.bin"))
    assert answers
    for file in answers[::2]:
        file.unlink()


def assert_ended_alike(cut: Path, whole: Path) -> None:
    found, expected = resume(cut), resume(whole)
    for part in ("detector", "extra", "average"):
        for name, value in expected[part].items():
            assert found[part][name].equal(value), name
    assert logged(cut, "loss_total") == logged(whole, "loss_total")


@pytest.mark.chaos
def test_a_run_killed_in_a_step_ends_like_an_uninterrupted_one(data, tmp_path):
    def start(name: str) -> BaseProcess:
        arguments = (data, tmp_path / name, tmp_path / f"{name}-cache", INTERRUPTED)
        process = FORKSERVER.Process(target=run_distillation, args=arguments)
        process.start()
        return process

    whole, killed = start("whole"), start("cut")
    saved = tmp_path / "cut" / "resume.pt"
    while killed.is_alive() and not saved.exists():
        time.sleep(0.0005)
    time.sleep(0.02)  # within the next step, which writes answers
    killed.kill()
    killed.join()
    assert killed.exitcode == -9
    continue_without_some_answers(tmp_path / "cut-cache")
    again = start("cut")
    for process in (again, whole):
        process.join()
        assert process.exitcode == 0
    assert_ended_alike(tmp_path / "cut", tmp_path / "whole")


def test_a_run_with_another_teacher_is_not_resumed(data, tmp_path):
    config = distil_config(data, tmp_path, optimisation={"epochs": 1, "steps_per_epoch": 1})
    small_distiller(config)[0].run()
    with pytest.raises(ValueError, match="other settings"):
        small_distiller(config, small_teacher(config, "ad_dinov3"))[0].run()


def ad_dinov3_file(path: Path) -> Path:
    torch.manual_seed(1)
    torch.save(module_states(AdDinoV3(MatchingConfig(embed_dim=WIDTH, text_dim=24, num_taps=4)), AD_MODULES), path)
    return path


def visualad_file(path: Path) -> Path:
    torch.manual_seed(2)
    head = VisualAd(VisualAdConfig(embed_dim=WIDTH, num_taps=4, max_positions=40))
    torch.save(visualad_content(head, [3, 6, 9, 12], image_size=96, backbone="a ViT of the authors' own"), path)
    return path


@pytest.mark.parametrize(
    ("method", "write", "input_hw"), [("ad_dinov3", ad_dinov3_file, (64, 64)), ("visualad", visualad_file, (96, 96))]
)
def test_a_published_file_can_be_the_teacher(data, tmp_path, method, write, input_hw):
    flags = ["--published", method, str(write(tmp_path / "p.pth")), "--teacher-backbone", VIT]
    flags += ["--teacher-input-size", "64"] if method == "ad_dinov3" else []
    args = parser().parse_args([*flags, "--data", "a", "--out", "b", "--trainable-blocks", "12"])
    checkpoint, file = load_teacher(args, read_distil_config(args))
    teacher = Teacher(checkpoint.detector, texts(), grid_hw=(4, 6), device=torch.device("cpu"))
    assert (file.name, teacher.image_hw) == ("p.pth", input_hw)
    config = distil_config(data, tmp_path / "out", optimisation={"epochs": 1, "steps_per_epoch": 1})
    objective = small_distiller(config, teacher)[0]._objective
    pictures = small_pictures(config)
    pictures._teachers_hw = teacher.image_hw
    batch = collate_distil([pictures[index] for index in range(2)])
    assert torch.isfinite(objective.terms(batch, objective.counts(batch))["total"])


def test_the_students_record_names_its_teacher_and_the_teachers_data(data, tmp_path):
    detector = small_detector(TEACHERS_HW)
    detector.config = detector.config.model_copy(update={"backbone_weights": "dinov3.safetensors"})
    (tmp_path / "teacher").write_bytes(b"weights")
    theirs = Checkpoint(detector=detector, text_embeddings={}, record=record() | {"trained_on": ["ksdd"]})
    config = distil_config(
        data, tmp_path, unlabelled=({"path": data / "drawn", "licence": "MIT"},), unlabelled_fraction=0.5
    )
    mine = {"trained_on": ["drawn"], "licences": [{"what": "mine", "licence": "CC0", "source": "me"}]}
    found = with_teacher(mine, config, theirs, tmp_path / "teacher")
    assert found["trained_on"] == ["drawn", "ksdd"]
    assert found["teacher"]["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["teacher"]["record"] == theirs.record
    licences = {one["what"]: one["licence"] for one in found["licences"]}
    assert (licences["mine"], licences["unlabelled pictures drawn"], licences["training data drawn"]) == (
        *("CC0", "MIT", "CC0"),
    )
    assert "DINOv3 License" in licences["teacher's backbone weights DINOv3"]
    assert any(what.startswith("teacher's prompt embeddings") for what in licences)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "name one teacher: --teacher CHECKPOINT"),
        (("--teacher", "t", "--published", "visualad", "f"), "name one teacher: --teacher CHECKPOINT"),
        (("--published", "visual", "f"), "--published visual: no such method. Known: ava_dino"),
        (("--teacher", "t", "--restore-norm"), "--restore-norm: only for --published files. t needs none of them"),
        (("--teacher", "t", "--trainable-blocks", "0"), "distillation.features: the student's backbone is frozen"),
        (
            ("--teacher", "t", "--method", "visualad"),
            "model.method: visualad: a student must be of ava_dino or ad_dinov3",
        ),
        (("--teacher", "t", "--teacher-cache", "c"), "distillation.cache: without distillation.pool"),
        (("--teacher", "t", "--unlabelled", "u"), "unlabelled_fraction is 0.0 with 1 unlabelled folders"),
        (("--teacher", "t", "--unlabelled-fraction", "0.5"), "unlabelled_fraction is 0.5 with 0 unlabelled folders"),
        (("--teacher", "t", "--pool", "0"), "distillation.pool: got 0"),
        (("--teacher", "t", "--set", "feature_cache=c"), "feature_cache: only zsad-train"),
        (("--teacher", "t", "--set", "distillation.maps.weight=-1"), "distillation.maps.weight: got -1"),
        (("--teacher", "t", "--set", "distillation.map.weight=1"), "distillation.map: unknown key"),
        (
            ("--teacher", "t", "--set", *(f"distillation.{name}.weight=0" for name in ("features", "maps", "scores"))),
            "features, maps and scores all have weight 0",
        ),
        (("--teacher", "none.safetensors"), "none.safetensors: no such checkpoint"),
    ],
)
def test_contradictory_settings_are_named(capsys, flags, said):
    assert main(["--data", "a", "--out", "b", "--trainable-blocks", "12", "--device", "cpu", *flags]) in (1, 2)
    text = capsys.readouterr().err
    assert said in text
    assert "Traceback" not in text


@pytest.mark.parametrize("name", presets(distil=True))
def test_every_shipped_recipe_is_valid_and_only_for_distillation(name, capsys):
    from zsad_training.train import main as train

    args = parser().parse_args(["--preset", name, "--teacher", "t", "--teacher-cache", "c", "--out", "o"])
    config = read_distil_config(args.__class__(**vars(args) | {"data_root": Path("sets")}))
    assert config.datasets[0].path == Path("sets/deeppcb")
    assert train(["--preset", name, "--out", "o"]) == 2
    assert "no such preset" in capsys.readouterr().err


def test_the_command_line_distils_and_a_second_call_repeats_the_table(data, tmp_path, capsys):
    from zsad_training.evaluate import main as evaluate

    save_checkpoint(tmp_path / "teacher.safetensors", small_detector((64, 64)), texts(), record())
    flags = ["--teacher", str(tmp_path / "teacher.safetensors"), "--data", str(data / "drawn"), "--input-size", "64"]
    flags += ["--out", str(tmp_path / "out"), "--epochs", "1", "--batch-size", "4", "--workers", "0", "--seed", "3"]
    flags += ["--teacher-cache", str(tmp_path / "cache"), "--pool", "8", "--trainable-blocks", "2", "--device", "cpu"]
    assert main(flags) == 2
    assert "the teacher scores by the mean of the map's highest 1 %, the student by the map's maximum: set model." in (
        capsys.readouterr().err
    )
    flags += ["--set", "model.score.top_fraction=0.01", "distillation.tiles=true"]
    assert main(flags) == 0
    table, _, best = capsys.readouterr().out.strip().rpartition("\n")
    assert "| validation part of | images | teacher's image AUROC |" in table
    assert "| drawn/plate |" in table and "without the details of tiles" in table
    assert (tmp_path / "out" / "teacher-student.md").read_text().strip() == table.strip()
    assert 4 < len(list((tmp_path / "cache").rglob("*.bin"))) <= 8  # two images of the pool may be equal
    found = load_checkpoint(Path(best)).record
    assert found["teacher"]["file"] == "teacher.safetensors"
    assert found["steps"] == 2  # a pool of 8 in batches of 4
    assert evaluate([best, "--data", str(data / "drawn"), "--skip-data-check", "--device", "cpu"]) == 0
    capsys.readouterr()
    measured = (tmp_path / "out" / "teacher.json").stat().st_mtime_ns
    assert main(flags) == 0
    assert capsys.readouterr().out.strip().rpartition("\n")[0] == table
    assert (tmp_path / "out" / "teacher.json").stat().st_mtime_ns == measured


@pytest.mark.chaos
@pytest.mark.parametrize("started_by", STARTED_BY)
def test_two_processes_give_the_same_student_as_one(data, tmp_path, started_by):
    save_checkpoint(tmp_path / "teacher.safetensors", small_detector((64, 64)), texts(), record())
    flags = ["--teacher", str(tmp_path / "teacher.safetensors"), "--data", str(data / "drawn"), "--input-size", "64"]
    flags += ["--unlabelled", str(data / "textures"), "--unlabelled-fraction", "0.3", "--pool", "16", "--epochs", "1"]
    flags += ["--teacher-cache", str(tmp_path / "cache"), "--trainable-blocks", "2", "--mixed-precision", "off"]
    flags += ["--batch-size", "8", "--workers", "0", "--device", "cpu", "--set", "validation.max_per_class=3"]
    flags += ["--set", "distillation.scores.other_rule=true"]
    assert main([*flags, "--out", str(tmp_path / "one")]) == 0
    told = run_two("distill", [*flags, "--out", str(tmp_path / "two")], tmp_path, started_by=started_by)
    assert told.count("| drawn/plate |") == 1  # only the first process prints
    expected, found = resume(tmp_path / "one"), resume(tmp_path / "two")
    for part in ("detector", "extra"):
        assert_same_but_for_rounding(found[part], expected[part])
    for metric in ("loss_task", "loss_features", "loss_maps", "loss_scores"):
        one, two = (logged(tmp_path / name, metric) for name in ("one", "two"))
        assert two == pytest.approx(one, rel=1e-3, abs=2e-5)


@pytest.mark.parametrize(
    ("method", "theirs", "own", "scores", "said"),
    [
        ("ava_dino", 0.1, 0.1, {}, None),
        ("ava_dino", 0.0, 0.1, {}, "by the map's maximum, the student by the mean of the map's highest 10 %: set mode"),
        ("ava_dino", 0.1, 0.0, {}, "set model.score.top_fraction=0.1 model.score.power=1 to score alike"),
        ("ava_dino", 0.0, 0.1, {"other_rule": True}, None),
        ("ava_dino", 0.0, 0.1, {"weight": 0.0}, None),
        ("visualad", 0.01, 0.01, {}, "by visualad's own rule, the student by .*: set distillation.scores.other_rule"),
    ],
)
def test_a_teacher_with_another_score_rule_needs_an_explicit_setting(data, tmp_path, method, theirs, own, scores, said):
    config = distil_config(data, tmp_path, model={"score": {"top_fraction": own}}, scores=scores)
    teacher = DetectorConfig(method=method, score=ScoreConfig(top_fraction=theirs))
    with nullcontext() if said is None else pytest.raises(ConfigError, match=said):
        check_score_rules(config, teacher)


def row(name: str, image_auroc: float | None, pixel_ap: float | None) -> EvaluationRow:
    measured = dict.fromkeys(METRICS) | {"image_auroc": image_auroc, "pixel_ap": pixel_ap}
    return EvaluationRow(dataset=name, seen_in_training=True, images=5, **measured)


def test_the_table_has_teacher_student_and_ratio():
    teacher = [row("a/x", 0.8, 0.5), row("b/y", 0.6, None)]
    table = comparison(teacher, [row("b/y", 0.3, None), row("a/x", 0.72, 0.6)])
    assert "| a/x | 5 | 80.0 | 72.0 | 90.0 | 50.0 | 60.0 | 120.0 |" in table
    assert "| b/y | 5 | 60.0 | 30.0 | 50.0 | - | - | - |" in table
    assert "| mean | 10 | 70.0 | 51.0 | 72.9 | 50.0 | 60.0 | 120.0 |" in table
    assert "| a/x | 5 | 0.0 | 72.0 | - |" in comparison([row("a/x", 0.0, 0.0)], [row("a/x", 0.72, 0.6)])


@pytest.mark.parametrize("content", [None, "", "{}", '{"identity": "other", "rows": []}', '{"identity": "this"}'])
def test_a_teacher_without_kept_rows_is_measured_again(tmp_path, content):
    file, asked = tmp_path / "teacher.json", []
    if content is not None:
        file.write_text(content)

    def measure() -> list[EvaluationRow]:
        asked.append(1)
        return [row("a/x", 0.8, 0.5)]

    assert kept_rows(file, "this", measure) == kept_rows(file, "this", measure) == [row("a/x", 0.8, 0.5)]
    assert asked == [1]
