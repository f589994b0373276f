"""The command line of `zsad-train`."""

import gc
import logging
import platform
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.command import guarded
from zsad_core.whole_file import whole_file
from zsad_training.config import parser, read_config, read_configs

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np

    from zsad_core.data import Sample
    from zsad_core.model import Detector
    from zsad_training.config import DatasetSpec, TextureSpec, TrainConfig
    from zsad_training.pictures import Texture
    from zsad_training.run import Processes

logger = logging.getLogger("zsad_training")


def train(config: Any, command: str, processes: "Processes", *, check_data: bool = True) -> Path:
    """Runs `config` together with the other processes; gives the path of the best checkpoint."""
    from zsad_training.measure import ValidationPictures
    from zsad_training.pictures import TrainingPictures
    from zsad_training.run import FeatureCache, Trainer

    device, seed = processes.device, config.seed
    parts = read_parts(config, check_data=check_data and processes.is_first)
    text, detector, earlier = start(config, parts, processes)
    cache = None
    if config.feature_cache is not None:
        detector.backbone.requires_grad_(False)
        cache = FeatureCache(config.feature_cache, detector.to(device))
        if processes.is_first:
            cache.announce(len(parts.fit), config.sampling.train_hw or (config.model.input_hw,))
    batch_size, input_hw = config.optimisation.batch_size, config.model.input_hw
    trainer = Trainer(
        config,
        detector,
        TrainingPictures(
            parts.fit, parts.fit_textures, config.sampling, input_hw=input_hw, batch_size=batch_size, seed=seed
        ),
        ValidationPictures(parts.held_out, parts.held_textures, config.validation, input_hw=input_hw, seed=seed),
        text,
        steps_per_epoch=config.optimisation.steps_per_epoch or max(1, len(parts.fit) // batch_size),
        processes=processes,
        record=make_record(config, command, parts.trained_on, earlier),
        materials=parts.materials,
        feature_cache=cache,
    )
    return trainer.run()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The images and textures for training and those held out for validation."""

    fit: "list[Sample]"
    held_out: "list[Sample]"  # at most `validation.max_per_class` of each class
    fit_textures: "list[Texture]"
    held_textures: "list[Texture]"
    products: set[str]  # of all images in the folders, and the materials
    materials: set[str]  # names that only textures have; they are not products
    trained_on: set[str]  # data sets


def read_parts(config: "TrainConfig", *, check_data: bool) -> Parts:
    """Reads the folders of `config` and splits their content.

    Raises:
        DatasetError: with each broken file; `check_data` decodes every file.
    """
    from zsad_core.bundle import GENERIC_PRODUCT
    from zsad_training.pictures import at_most, find_textures, read_datasets, split, split_groups

    only: Any = None if config.train_split == "all" else config.train_split
    textures = find_textures(config.textures.path) if config.textures else []  # first, because it is fast
    samples = read_datasets(config.datasets, check=check_data, split=only)
    seed, spec = config.seed, config.validation
    fit, held_out = split_groups(samples, attrgetter("key"), _product_and_class, spec.fraction, seed)
    held_out = at_most(held_out, attrgetter("key"), _product_and_class, spec.max_per_class, seed)
    fit_textures, held_textures = split(textures, lambda one: one.material, spec.fraction, seed)
    if textures and not fit_textures:
        raise ValueError(
            f"all {len(textures)} textures are held out for validation, of {len({one.material for one in textures})} "
            f"materials: add materials, or lower --set validation.fraction (now {spec.fraction})"
        )
    logger.info(
        "images: %d for training, %d for validation; textures: %d and %d",
        len(fit), len(held_out), len(fit_textures), len(held_textures),
    )  # fmt: skip
    products, materials = {one.product for one in samples}, {one.material for one in textures}
    return Parts(
        fit=fit,
        held_out=held_out,
        fit_textures=fit_textures,
        held_textures=held_textures,
        products=products | materials,
        materials=materials - products - {GENERIC_PRODUCT},
        trained_on={one.dataset for one in samples},
    )


def _product_and_class(sample: "Sample") -> tuple[str, str, bool]:
    return sample.dataset, sample.product, sample.is_anomalous


def start(
    config: "TrainConfig", parts: Parts, processes: "Processes"
) -> "tuple[dict[str, np.ndarray], Detector, dict[str, Any] | None]":
    """(text embeddings, new detector, record of the checkpoint that it starts from or None), and seeds all randomness.

    Raises:
        WeightsError: the weights or the checkpoint are missing or do not fit.
    """
    import numpy as np
    import torch

    from zsad_training.run import build_detector

    text = embed(config.model.method, config.model.text_encoder, parts.products, processes)
    random.seed(config.seed)  # only now: loading a text encoder uses random numbers
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    detector, earlier = build_detector(
        config.model,
        text_dim=len(next(iter(text.values()))) if text else 1,
        plain=processes.device.type == "cpu" and (config.optimisation.trainable_blocks > 0 or not text),
    )
    if earlier is not None and config.model.start is not None and processes.is_first:
        warn_of_known_validation(config.model.start, earlier, config)
    return text, detector, earlier


_embedded: "dict[tuple[str, str], dict[str, np.ndarray]]" = {}  # (text encoder, device) -> product -> [T, 2]


def embed(method: str, text_encoder: str, products: set[str], processes: "Processes") -> "dict[str, np.ndarray]":
    """Product -> text embedding [T, 2], with the generic product; empty for a method without text.

    The first process embeds for all processes and then frees the text encoder. The embeddings are kept for the other
    runs of a protocol.
    """
    from zsad_core.bundle import GENERIC_PRODUCT
    from zsad_core.methods import METHODS_WITH_TEXT

    if method not in METHODS_WITH_TEXT:
        return {}
    wanted = sorted(products | {GENERIC_PRODUCT})
    device = str(processes.device)
    known = _embedded.setdefault((text_encoder, device), {})
    if missing := [product for product in wanted if product not in known]:
        logger.info("embedding %d product names with %s", len(missing), text_encoder)
        known |= processes.from_first(lambda: _newly_embedded(text_encoder, missing, device))
    return {product: known[product] for product in wanted}


def _newly_embedded(text_encoder: str, products: list[str], device: str) -> "dict[str, np.ndarray]":
    import torch

    from zsad_core.text import embed_products, load_text_encoder

    found = embed_products(load_text_encoder(text_encoder, device=device), products)
    gc.collect()  # the encoder's modules have reference cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def held_out(settings: Mapping[str, Any]) -> str:
    """Names the validation images of a run with these settings."""
    fraction, names = settings["validation"]["fraction"], [Path(spec["path"]).name for spec in settings["datasets"]]
    return f"{fraction:g} of {', '.join(names)} (train_split {settings['train_split']}, seed {settings['seed']})"


def warn_of_known_validation(file: Path, record: Mapping[str, Any], config: "TrainConfig") -> None:
    """Warns if the detector in `file` may have been trained on validation images of this run."""
    ours = config.model_dump(mode="json")
    theirs = record.get("settings", ours)
    is_alike = all(theirs[key] == ours[key] for key in ("train_split", "seed"))
    is_alike = is_alike and theirs["validation"]["fraction"] == ours["validation"]["fraction"]
    if not is_alike and {spec.path.name for spec in config.datasets} & set(record.get("trained_on", ())):
        text = "%s held out %s, this run %s: it may know validation images, so the threshold may not fit other images"
        logger.warning(text, file, held_out(theirs), held_out(ours))


def make_record(
    config: "TrainConfig", command: str, trained_on: set[str], earlier: dict[str, Any] | None
) -> dict[str, Any]:
    """The record for the checkpoint. `earlier` is the record of the checkpoint that the run started from."""
    import torch

    specs: list[DatasetSpec | TextureSpec] = [*config.datasets, *([config.textures] if config.textures else [])]
    licences = [
        {"what": f"training data {spec.path.name}", "licence": spec.licence, "source": spec.source} for spec in specs
    ]
    if earlier is not None:
        command = f"{earlier['command']} (epoch {earlier['epoch']}); {command}"
        trained_on = trained_on | set(earlier["trained_on"])
        licences += [licence for licence in earlier["licences"] if licence not in licences]
    return {
        "command": command,
        "seed": config.seed,
        "method": config.model.method,
        "trained_on": sorted(trained_on),
        "licences": licences,
        "settings": config.model_dump(
            mode="json", exclude={"out", "feature_cache", "device", "workers", "tensorboard"}
        ),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def evaluate(checkpoint: Path, dataset: "DatasetSpec", table: Path, *, device: str) -> None:
    """Evaluates like `zsad-evaluate`, without the data check, and writes the JSON to `table`."""
    from zsad_training import evaluate as command

    flags = ["--data", str(dataset.path), "--layout", dataset.layout, "--skip-data-check", "--device", device]
    if dataset.mask_folder is not None:
        flags += ["--mask-folder", dataset.mask_folder]
    with whole_file(table) as unfinished:
        flags += ["--json", str(unfinished), "--markdown", str(table.with_suffix(".md"))]
        command.run(command.parser().parse_args([str(checkpoint), *flags]))


def log_to_stderr() -> None:
    """Shows the progress of a training command, without the messages of the libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)


def _run(args: "Namespace", command: str) -> None:
    from zsad_training.run import join_processes

    configs = read_configs(args) if args.protocol else {"": read_config(args)}
    config = next(iter(configs.values()))
    with join_processes(config.device) as processes:
        if not processes.is_first:
            logger.setLevel(logging.WARNING)
        if args.protocol:
            result = _run_protocol(args, configs, command, processes)
        else:
            result = train(config, command, processes, check_data=not args.skip_data_check)
        if processes.is_first:
            print(result)


def _run_protocol(args: "Namespace", configs: dict[str, Any], command: str, processes: "Processes") -> Path:
    from zsad_training.pictures import read_datasets
    from zsad_training.run import Protocol, plan

    config = next(iter(configs.values()))
    runs = plan(args.protocol, configs, args.seeds or [config.seed])
    if processes.is_first and not args.skip_data_check:  # once, not in every run
        read_datasets({spec.path: spec for one in configs.values() for spec in one.datasets}.values())
    work = partial(train, check_data=False)
    return Protocol(runs, train=work, evaluate=evaluate, processes=processes).run(config.out, args.protocol, command)


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage or config."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    if not args.protocol and (args.methods or args.seeds):
        parser().error("--methods and --seeds need --protocol")
    log_to_stderr()
    return guarded("zsad-train", lambda: _run(args, " ".join(["python training/train.py", *arguments])))


if __name__ == "__main__":
    sys.exit(main())
