"""A distillation between small random networks on drawn images, in this process or in one that can be killed."""

from pathlib import Path
from typing import Any

from small_run import HW

TEACHERS_HW = (96, 128)
PRODUCTS = ("object", "plate", "material0", "material1", "material2")


def distil_config(data: Path, out: Path, *, optimisation: object = (), model: object = (), **distillation: object):
    from zsad_training.distil import DistilConfig

    return DistilConfig.model_validate(
        {
            "out": out,
            "datasets": ({"path": data / "drawn"},),
            "textures": {"path": data / "textures"},
            "model": {"input_hw": HW, "hidden_dim": 16, "taps": (2, 4, 6, 8), **dict(model)},
            "sampling": {"synthetic_fraction": 0.25, "augment": "full"},
            "optimisation": {
                **{"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, "trainable_blocks": 12, "backbone_lr": 1e-3},
                **{"mixed_precision": "off", **dict(optimisation)},
            },
            "validation": {"synthetic": 4, "fraction": 0.3, "max_per_class": 4},
            "distillation": {"pool": 12, "features": {"grid_hw": (4, 6)}, **distillation},
            "workers": 0,
            "device": "cpu",
        }
    )


def texts() -> dict[str, Any]:
    from small_model import text_embeddings

    return {product: text_embeddings()["object"] for product in PRODUCTS}


def small_teacher(config, method: str = "ava_dino"):
    import torch
    from small_model import small_detector

    from zsad_training.distil import Teacher

    features = config.distillation.features
    return Teacher(
        small_detector(TEACHERS_HW, method),
        texts(),
        grid_hw=features.grid_hw if features.weight else None,
        device=torch.device(config.device),
    )


def small_student(config):
    import torch
    from small_model import TEXT_DIM

    from zsad_training.run import build_detector

    torch.manual_seed(11)
    return build_detector(config.model, text_dim=TEXT_DIM, plain=True)[0]


def small_pictures(config):
    from one_dataset import read_dataset

    from zsad_training.distil import DistilPictures, read_unlabelled
    from zsad_training.pictures import find_textures

    samples = [sample for sample in read_dataset(config.datasets[0].path) if sample.product == "plate"]
    textures = find_textures(config.textures.path)
    unlabelled = read_unlabelled(config.distillation.unlabelled, check=True)
    return DistilPictures(samples, textures, unlabelled, config, teachers_hw=TEACHERS_HW)


def small_distiller(config, teacher=None):
    """(trainer, student)"""
    import torch
    from one_dataset import read_dataset

    from zsad_training.distil import DistilObjective, KeptAnswers, collate_distil
    from zsad_training.measure import ValidationPictures
    from zsad_training.run import Processes, Trainer

    teacher = teacher or small_teacher(config)
    if config.distillation.cache:
        teacher = KeptAnswers(teacher, config.distillation.cache)
    device = torch.device(config.device)
    student = small_student(config).to(device)
    samples = [sample for sample in read_dataset(config.datasets[0].path) if sample.product == "plate"]
    trainer = Trainer(
        config,
        student,
        small_pictures(config),
        ValidationPictures(samples[::6], [], config.validation, input_hw=HW, seed=0),
        texts(),
        steps_per_epoch=config.optimisation.steps_per_epoch,
        processes=Processes(device=device),
        record={"command": "test", "seed": 0},
        objective=DistilObjective(student, texts(), teacher, config, device=device),
        collate=collate_distil,
    )
    return trainer, student


def run_distillation(data: Path, out: Path, cache: Path, optimisation: dict[str, object]) -> None:
    """The work of a process: a complete run."""
    import torch

    torch.set_num_threads(1)
    small_distiller(distil_config(data, out, optimisation=optimisation, cache=cache))[0].run()
