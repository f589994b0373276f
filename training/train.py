"""Command line of training: `python training/train.py --help`."""

import argparse
import logging
import platform
import random
import sys
from pathlib import Path
from typing import Any, get_args

from zsad_core.command import guarded
from zsad_core.errors import ConfigError
from zsad_training.layouts import LayoutName

logger = logging.getLogger("zsad_training")


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-train`."""
    result = argparse.ArgumentParser(
        prog="zsad-train",
        description="Trains a zero-shot anomaly detector on labelled data sets. A killed run goes on "
        "where it stopped when it is started again with the same settings.",
    )
    result.add_argument("--config", type=Path, help="YAML file of settings; flags override it")
    result.add_argument("--out", type=Path, help="folder for best.safetensors, resume.pt and log.csv")
    result.add_argument("--data", type=Path, nargs="+", help="folders of data sets; all weigh the same")
    result.add_argument("--layout", choices=get_args(LayoutName), help="of every --data (default auto: by content)")
    result.add_argument(
        "--skip-data-check", action="store_true", help="do not decode every file before training begins"
    )
    result.add_argument("--data-root", type=Path, help="folder that relative paths of --config start from")
    result.add_argument("--textures", type=Path, help="folder <material>/<picture> of good textures, for synthesis")
    result.add_argument("--method", help="ava_dino, ad_dinov3 or visualad (default ava_dino)")
    result.add_argument("--backbone", help="timm name of a ViT, ResNet or EfficientNet (default vit_tiny_patch16_224)")
    result.add_argument(
        "--weights", type=Path, help="local weights file of the backbone (default: random, only for trying things out)"
    )
    result.add_argument("--pretrained", action="store_true", default=None, help="fetch the backbone from timm's hub")
    result.add_argument("--start", type=Path, help="checkpoint to begin with (default: fresh adapters)")
    result.add_argument("--text-encoder", help="minilm, or open_clip:MODEL:PRETRAINED (default minilm)")
    result.add_argument(
        "--input-size", type=int, help="side of the square input, pixels (default 384, DINOv3 512, patch 14 518)"
    )
    result.add_argument("--epochs", type=int, help="passes over the data (default 20)")
    result.add_argument("--batch-size", type=int, help="pictures (default 64)")
    result.add_argument("--lr", type=float, help="learning rate of the head (default 1e-4)")
    result.add_argument("--trainable-blocks", type=int, help="last blocks that train (default 0: backbone frozen)")
    result.add_argument("--synthetic-fraction", type=float, help="share of drawn pictures, with --textures (default 0)")
    result.add_argument("--mixed-precision", help="auto, off, bf16 or fp16 (default auto: where it is fast)")
    result.add_argument("--seed", type=int, help="of weights, split and sampling (default 0)")
    result.add_argument("--device", help="auto, cpu, cuda, cuda:1 … (default auto: a GPU where there is one)")
    result.add_argument("--workers", type=int, help="processes that prepare pictures (default 1)")
    result.add_argument("--feature-cache", type=Path, help="folder for tokens of a frozen backbone (default none)")
    return result


FLAG_KEYS = {
    "out": ("out",),
    "method": ("model", "method"),
    "backbone": ("model", "backbone"),
    "weights": ("model", "weights"),
    "pretrained": ("model", "pretrained"),
    "start": ("model", "start"),
    "text_encoder": ("model", "text_encoder"),
    "epochs": ("optimisation", "epochs"),
    "batch_size": ("optimisation", "batch_size"),
    "lr": ("optimisation", "lr"),
    "trainable_blocks": ("optimisation", "trainable_blocks"),
    "synthetic_fraction": ("sampling", "synthetic_fraction"),
    "mixed_precision": ("optimisation", "mixed_precision"),
    "seed": ("seed",),
    "device": ("device",),
    "workers": ("workers",),
    "feature_cache": ("feature_cache",),
}


def read_config(args: argparse.Namespace) -> Any:
    """A TrainConfig from file and flags.

    Raises:
        ConfigError: naming every fault.
    """
    from zsad_core.config import read_yaml, validate
    from zsad_training.config import TrainConfig

    values, lines = read_yaml(args.config) if args.config else ({}, {})
    for flag, keys in FLAG_KEYS.items():
        if (value := getattr(args, flag)) is not None:
            _overlay(values, keys, value)
    if args.layout and not args.data:
        raise ConfigError("--layout is of the sets of --data: give each set of --config its own `layout:`")
    if args.data:
        values["datasets"] = [{"path": path, "layout": args.layout or "auto"} for path in args.data]
    if args.textures:
        values["textures"] = {"path": args.textures}
    if args.input_size is not None:
        _overlay(values, ("model", "input_hw"), [args.input_size, args.input_size])
    config = validate(TrainConfig, values, str(args.config or "flags"), lines)
    return config.with_data_root(args.data_root) if args.data_root else config


def _overlay(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> None:
    """Sets one key, in its section if it is in one; what is no section stays, for `validate` to name."""
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            return
    values[keys[-1]] = value


def train(config: Any, command: str, *, check_data: bool = True) -> Path:
    """Runs `config`; gives the path of the best checkpoint."""
    import numpy as np
    import torch

    from zsad_core.prompts import GENERIC_PRODUCT
    from zsad_core.text_encoder import embed_products, load_text_encoder
    from zsad_training.data_check import read_datasets
    from zsad_training.devices import pick_device
    from zsad_training.feature_cache import FeatureCache
    from zsad_training.sampler import TrainingPictures, find_textures
    from zsad_training.split import at_most, split
    from zsad_training.start import build_detector
    from zsad_training.trainer import Trainer
    from zsad_training.validation import ValidationPictures

    device = pick_device(config.device)
    samples = read_datasets(config.datasets, check=check_data)
    textures = find_textures(config.textures.path) if config.textures else []
    seed, spec = config.seed, config.validation
    fit, held_out = split(samples, lambda one: f"{one.dataset}/{one.product}/{one.image.name}", spec.fraction, seed)
    held_out = at_most(
        held_out, lambda one: one.image.name, lambda one: (one.dataset, one.is_anomalous), spec.max_per_class, seed
    )
    fit_textures, held_textures = split(textures, lambda one: one.material, spec.fraction, seed)
    logger.info(
        "%d pictures to train on, %d to validate; textures: %d and %d",
        len(fit), len(held_out), len(fit_textures), len(held_textures),
    )  # fmt: skip

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    products = {GENERIC_PRODUCT, *(one.product for one in samples), *(one.material for one in textures)}
    logger.info("embedding %d product names with %s", len(products), config.model.text_encoder)
    text = embed_products(load_text_encoder(config.model.text_encoder, device=str(device)), sorted(products))

    detector, earlier = build_detector(
        config.model,
        text_dim=text[GENERIC_PRODUCT].shape[0],
        plain=device.type == "cpu" and config.optimisation.trainable_blocks > 0,
    )
    cache = None
    if config.feature_cache is not None:
        detector.backbone.requires_grad_(False)
        cache = FeatureCache(config.feature_cache, detector.to(device))
    batch_size, input_hw = config.optimisation.batch_size, config.model.input_hw
    trainer = Trainer(
        config,
        detector,
        TrainingPictures(fit, fit_textures, config.sampling, input_hw=input_hw, batch_size=batch_size, seed=seed),
        ValidationPictures(held_out, held_textures, spec, input_hw=input_hw, seed=seed),
        text,
        steps_per_epoch=config.optimisation.steps_per_epoch or max(1, len(fit) // batch_size),
        device=device,
        record=_record(config, command, samples, earlier),
        feature_cache=cache,
    )
    return trainer.run()


def _record(config: Any, command: str, samples: list[Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    import torch

    licences = [
        {"what": f"training data {spec.path.name}", "licence": spec.licence, "source": spec.source}
        for spec in [*config.datasets, *([config.textures] if config.textures else [])]
    ]
    trained_on = {sample.dataset for sample in samples}
    if earlier is not None:
        command = f"{earlier['command']} (epoch {earlier['epoch']}); {command}"
        trained_on |= set(earlier["trained_on"])
        licences += [licence for licence in earlier["licences"] if licence not in licences]
    return {
        "command": command,
        "seed": config.seed,
        "method": config.model.method,
        "trained_on": sorted(trained_on),
        "licences": licences,
        "settings": config.model_dump(mode="json", exclude={"out", "feature_cache", "device", "workers"}),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage or config."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    return guarded(
        "zsad-train",
        lambda: print(
            train(
                read_config(args),
                " ".join(["python training/train.py", *arguments]),
                check_data=not args.skip_data_check,
            )
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
