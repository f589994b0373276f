"""The flags of training, and the settings from flags, a file or a preset."""

import argparse
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import yaml

from zsad_core.config import read_yaml, validate
from zsad_core.data import LayoutName
from zsad_core.errors import ConfigError

if TYPE_CHECKING:
    from zsad_training.config.specs import TrainConfig

ConfigT = TypeVar("ConfigT", bound="TrainConfig")
PROTOCOLS = ("leave-one-out", "visa-to-all", "mvtec-to-visa")
METHOD_PRESETS = {"ava_dino": "ava-dino", "ad_dinov3": "ad-dinov3", "visualad": "visualad-dinov2"}
_RECIPES = Path(__file__).parents[1] / "recipes"
_DISTIL = "distil-"  # prefix of the recipes for `zsad-distill`


def presets(*, distil: bool = False) -> list[str]:
    """The values of `--preset` of `zsad-train`, or of `zsad-distill` if `distil` is true."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml") if path.stem.startswith(_DISTIL) == distil)


def preset_file(name: str, *, distil: bool = False) -> Path:
    """The file of a preset.

    Raises:
        ConfigError: there is no such preset; the message lists the presets.
    """
    if name not in (known := presets(distil=distil)):
        raise ConfigError(f"--preset {name}: no such preset. There are: {', '.join(known)}")
    return _RECIPES / f"{name}.yaml"


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-train`."""
    result = argparse.ArgumentParser(
        prog="zsad-train",
        description="Trains a zero-shot anomaly detector on labelled data sets. A killed run continues when it "
        "is started again with the same settings. To use several processes or GPUs, start it with: torchrun "
        "--nproc_per_node=N training/train.py …",
    )
    add_setting_flags(result, presets())
    result.add_argument(
        "--feature-cache",
        type=Path,
        help="folder that keeps the tokens of a frozen backbone for each image; runs can share it (default none)",
    )
    _add_protocol_flags(result)
    return result


def add_setting_flags(result: argparse.ArgumentParser, known_presets: list[str]) -> None:
    """Adds the flags of every training command; `read_settings` reads them."""
    source = result.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, help="YAML file of settings; flags override it")
    source.add_argument("--preset", help=f"shipped settings: {', '.join(known_presets)}; flags override them")
    result.add_argument("--out", type=Path, help="folder for best.safetensors, resume.pt and log.csv")
    result.add_argument("--data", type=Path, nargs="+", help="folders of data sets; all have equal weight")
    result.add_argument(
        "--layout",
        choices=get_args(LayoutName),
        help="layout of every --data (default auto: detected from the content)",
    )
    result.add_argument(
        "--skip-data-check", action="store_true", help="do not decode every file before training begins"
    )
    result.add_argument("--data-root", type=Path, help="base folder of relative paths of data sets and textures")
    result.add_argument(
        "--textures", type=Path, help="folder of textures without defects, <material>/<image>, for synthetic images"
    )
    result.add_argument("--backbone", help="timm name of a ViT, ResNet or EfficientNet (default vit_tiny_patch16_224)")
    result.add_argument(
        "--weights", type=Path, help="local weights file of the backbone (default: random weights, for tests only)"
    )
    result.add_argument(
        "--pretrained", action="store_true", default=None, help="download the backbone's weights from timm's hub"
    )
    result.add_argument("--start", type=Path, help="checkpoint to start from (default: new adapters)")
    result.add_argument("--method", help="ava_dino, ad_dinov3 or visualad (default ava_dino)")
    result.add_argument("--text-encoder", help="minilm, or open_clip:MODEL:PRETRAINED (default minilm)")
    result.add_argument(
        "--input-size", type=int, help="side of the square input, pixels (default 384, DINOv3 512, patch 14 518)"
    )
    result.add_argument("--epochs", type=int, help="passes over the data (default 20)")
    result.add_argument("--batch-size", type=int, help="images of a step, over all processes (default 64)")
    result.add_argument("--accumulate", type=int, help="number of parts of each batch, to save memory (default 1)")
    result.add_argument(
        "--save-every-steps", type=int, help="also save after every N steps (default: after each epoch only)"
    )
    result.add_argument("--lr", type=float, help="learning rate of the head (default 1e-4)")
    result.add_argument(
        "--trainable-blocks", type=int, help="number of last blocks to train (default 0: backbone frozen)"
    )
    result.add_argument(
        "--synthetic-fraction", type=float, help="share of synthetic images, with --textures (default 0)"
    )
    result.add_argument(
        "--mixed-precision", help="auto, off, bf16 or fp16 (default auto: where the device is fast at it)"
    )
    result.add_argument("--seed", type=int, help="seed of weights, split and sampling (default 0)")
    result.add_argument("--device", help="auto, cpu, cuda, cuda:1 … (default auto: a GPU if there is one)")
    result.add_argument(
        "--workers",
        type=int,
        help="processes that prepare images, for each process of torchrun "
        "(default: half of the cores, divided among these, 1 to 16)",
    )
    result.add_argument(
        "--tensorboard",
        action="store_true",
        default=None,
        help="also write losses, learning rate, gradient norm and validation to OUT/tensorboard",
    )
    result.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, e.g. optimisation.steps_per_epoch=100",
    )


def _add_protocol_flags(command: argparse.ArgumentParser) -> None:
    protocol = command.add_argument_group(
        "protocols", "Several runs, each evaluated on the data sets that it was not trained on, and one table."
    )
    protocol.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        help="leave-one-out: leaves out each set of --data once. visa-to-all, mvtec-to-visa: trains on the test split "
        "of the set with that name, or of the first of --data. A protocol that is started again continues",
    )
    protocol.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD[=PRESET_OR_FILE]",
        help="methods to compare (default: that of the settings). Each uses its own settings if given, "
        "else those of --config or --preset, else the preset of its paper",
    )
    protocol.add_argument("--seeds", type=int, nargs="+", help="one run for each seed (default: --seed)")


FLAG_KEYS = {
    "method": ("model", "method"),
    "out": ("out",),
    "backbone": ("model", "backbone"),
    "weights": ("model", "weights"),
    "pretrained": ("model", "pretrained"),
    "start": ("model", "start"),
    "text_encoder": ("model", "text_encoder"),
    "epochs": ("optimisation", "epochs"),
    "batch_size": ("optimisation", "batch_size"),
    "accumulate": ("optimisation", "accumulate"),
    "save_every_steps": ("optimisation", "save_every_steps"),
    "lr": ("optimisation", "lr"),
    "trainable_blocks": ("optimisation", "trainable_blocks"),
    "synthetic_fraction": ("sampling", "synthetic_fraction"),
    "mixed_precision": ("optimisation", "mixed_precision"),
    "seed": ("seed",),
    "device": ("device",),
    "workers": ("workers",),
    "feature_cache": ("feature_cache",),
    "tensorboard": ("tensorboard",),
}


def read_config(args: argparse.Namespace) -> "TrainConfig":
    """The settings of --config or --preset; flags override them.

    Raises:
        ConfigError: naming every fault.
    """
    from zsad_training.config.specs import TrainConfig

    file = preset_file(args.preset) if args.preset else args.config
    config = read_settings(args, TrainConfig, file, FLAG_KEYS)
    if config.feature_cache is not None and not config.can_cache_features:
        if not args.protocol:
            raise ConfigError(
                "feature_cache: needs a method that adds no tokens, optimisation.trainable_blocks 0, sampling.augment "
                "none and sampling.synthetic_fraction 0: else the tokens of an image change"
            )
        config = config.model_copy(update={"feature_cache": None})  # other methods of the protocol may still use it
    return config


def read_settings(
    args: argparse.Namespace, model: type[ConfigT], file: Path | None, flag_keys: dict[str, tuple[str, ...]]
) -> ConfigT:
    """The settings in `file`; flags override them.

    Args:
        args: the flags of `add_setting_flags` and of the command.
        model: type of the settings.
        file: YAML; None: no file.
        flag_keys: attribute of `args` -> the setting that it sets if it is not None.

    Raises:
        ConfigError: naming every fault.
    """
    values, lines = read_yaml(file) if file else ({}, {})
    for flag, keys in flag_keys.items():
        if (value := getattr(args, flag)) is not None:
            _overlay(values, keys, value)
    if args.layout and not args.data:
        raise ConfigError("--layout applies to --data only: give each set of --config its own `layout:`")
    if args.data:
        known = values.get("datasets")
        values["datasets"] = [
            _described(path, known if isinstance(known, list) else [])
            | ({"layout": args.layout} if args.layout else {})
            for path in args.data
        ]
    if args.textures:
        values["textures"] = _described(args.textures, [values.get("textures")])
    if args.input_size is not None:
        _overlay(values, ("model", "input_hw"), [args.input_size, args.input_size])
    for setting in args.set:
        key, given, value = setting.partition("=")
        if not given or not _overlay(values, tuple(key.split(".")), _parsed(setting, value)):
            raise ConfigError(f"--set {setting}: expected SECTION.KEY=VALUE, e.g. optimisation.steps_per_epoch=100")
    config = validate(model, values, str(file or "flags"), lines)
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard: its package is missing. Install it with: pip install 'zsad-agent[tensorboard]'")
    return config.with_data_root(args.data_root) if args.data_root else config


def _described(path: Path, known: Any) -> dict[str, Any]:
    """A data set at `path`: as the one of the settings whose folder has the same name, if there is one."""
    alike = [one for one in known if isinstance(one, dict) and Path(str(one.get("path"))).name == path.name]
    return {**(alike[0] if alike else {}), "path": path}


def read_configs(args: argparse.Namespace) -> dict[str, "TrainConfig"]:
    """Method -> settings, for each method of --methods or for the one method of the settings.

    Raises:
        ConfigError: naming every fault; a method given twice.
    """
    if not args.methods:
        config = read_config(args)
        return {config.model.method: config}
    configs: dict[str, TrainConfig] = {}
    for given in args.methods:
        method, _, source = given.partition("=")
        if method in configs:
            raise ConfigError(f"--methods: {method} is given twice")
        own = argparse.Namespace(**vars(args) | {"method": method})
        if not source and not args.config and not args.preset:
            source = METHOD_PRESETS.get(method, "")
        if source:
            is_file = Path(source).is_file()
            own.config, own.preset = (Path(source), None) if is_file else (None, source)
        configs[method] = read_config(own)
    return configs


def _parsed(setting: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is not valid YAML: {' '.join(str(error).split())}") from error


def _overlay(values: dict[str, Any], keys: tuple[str, ...], value: Any) -> bool:
    """Sets one key, with its section; false if `keys` go through a value that is not a section."""
    for key in keys[:-1]:
        if values.get(key) is None:
            values[key] = {}
        values = values[key]
        if not isinstance(values, dict):
            return False
    values[keys[-1]] = value
    return True
