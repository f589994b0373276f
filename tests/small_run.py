"""A training run of a small random ViT on drawn images, in this process or in one that can be killed."""

from pathlib import Path

from mvtec_tree import make_mvtec_tree, make_textures

HW = (64, 96)


def make_data(root: Path) -> Path:
    """Writes <root>/drawn and <root>/textures, and returns root."""
    make_mvtec_tree(root / "drawn", good=20, bad=20)
    make_textures(root / "textures")
    return root


def small_config(data: Path, out: Path, **optimisation: object):
    from zsad_training.config import TrainConfig

    return TrainConfig.model_validate(
        {
            "out": out,
            "datasets": ({"path": data / "drawn"},),
            "textures": {"path": data / "textures"},
            "model": {"input_hw": HW, "hidden_dim": 16},
            "sampling": {"synthetic_fraction": 0.25, "augment": "full"},
            "optimisation": {"epochs": 2, "steps_per_epoch": 3, "batch_size": 4, **optimisation},
            "validation": {"synthetic": 4, "fraction": 0.3},
            "workers": 0,
            "device": "cpu",
        }
    )


def small_trainer(settings, validation: object = None, cache: Path | None = None, dropout: float = 0.0):
    import torch
    from one_dataset import read_dataset
    from small_model import small_detector, text_embeddings

    from zsad_training.measure import ValidationPictures
    from zsad_training.pictures import TrainingPictures, find_textures
    from zsad_training.run import FeatureCache, Processes, Trainer

    samples = read_dataset(settings.datasets[0].path)
    samples = [sample for sample in samples if sample.product == "plate"]
    textures = find_textures(settings.textures.path)
    detector = small_detector(HW)
    detector.backbone.requires_grad_(False)
    detector.backbone.vit.pos_drop.p = dropout
    text = text_embeddings()
    text |= {name: text["object"] for name in ("plate", "material0", "material1", "material2")}
    pictures = TrainingPictures(
        samples, textures, settings.sampling, input_hw=HW, batch_size=settings.optimisation.batch_size, seed=0
    )
    held_out = ValidationPictures(samples[::3], textures, settings.validation, input_hw=HW, seed=0)
    return Trainer(
        settings,
        detector,
        pictures,
        validation or held_out,
        text,
        steps_per_epoch=settings.optimisation.steps_per_epoch,
        processes=Processes(device=torch.device(settings.device)),
        record={"command": "test", "seed": 0},
        feature_cache=FeatureCache(cache, detector) if cache else None,
    )


def run_small(data: Path, out: Path, optimisation: dict[str, object], dropout: float) -> None:
    """The work of a process: a complete run."""
    import torch

    torch.set_num_threads(1)
    small_trainer(small_config(data, out, **optimisation), dropout=dropout).run()


def assert_same_but_for_rounding(found, expected) -> None:
    """Compares weights: all but one in a thousand are within 1e-5.

    Adam divides a gradient by its own size. If it is nearly 0, rounding decides the direction of a step.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        differs = (found[name] - value).abs() > 1e-5
        assert differs.float().mean() < 1e-3, name
