"""`zsad-convert features`: adds the networks of teach-in to a bundle, without training or export."""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad_convert.bundle import MODEL_CARD, manifest_bytes, model_card, rewrite_bundle
from zsad_convert.gate import add_image_flags, chosen_pictures
from zsad_core.bundle import MANIFEST, Bundle, FeatureScale, is_signed, load_bundle
from zsad_core.errors import BundleError, ConfigError, WeightsError


def add_command(commands: Any) -> None:
    """Adds `features` to the subcommands."""
    command = commands.add_parser(
        "features",
        help="add the networks of teach-in to a bundle",
        description="Adds the networks that zsad-agent teach needs, from published weights of ViT-Ti/16 and "
        "EfficientNet-Lite0. The bundle's maps and scores do not change.",
    )
    command.add_argument("bundle", type=Path, help="bundle folder or .zip")
    command.add_argument(
        "--weights",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="weights of a backbone; give the flag once or twice",
    )
    add_image_flags(command)
    command.add_argument("--version", help="version of the changed bundle (default: as before)")
    command.add_argument("--out", type=Path, help="where to write the bundle (default: change it in place)")


def run(args: argparse.Namespace, command_line: str) -> None:
    """Runs `features`.

    Raises:
        ZsadError: a flag, a file, the bundle or the weights are wrong, or a graph gives other tokens than torch.
    """
    from zsad_convert.features.scales import make_scales

    pictures = chosen_pictures(args)  # fails early
    bundle, signed = load_bundle(args.bundle), is_signed(args.bundle)
    if bundle.manifest.features is not None:
        raise BundleError(f"{args.bundle}: has feature networks already. Start from the bundle before they were added.")
    weights = _backbones(args.weights)
    scales, files = make_scales(bundle, weights, pictures, args.images.name)
    changed = _changed_files(bundle, scales, files, weights, command_line, args.version)
    out = args.out or args.bundle
    sha256 = rewrite_bundle(args.bundle, changed, out)
    print(f"{out}: sha256 {sha256}")
    for scale in scales:
        if scale.parity:
            print(f"{scale.name}: tokens differ from torch by at most {scale.parity.max_difference:.1e}", end="")
            print(f" (allowed {scale.parity.tolerance:g}), over {scale.parity.images} pictures")
    if signed:
        print(f"{out}: the signature was removed, because the bundle changed: sign it again with zsad-convert sign")


def _backbones(paths: Sequence[Path]) -> dict[str, Path]:
    """Backbone -> its weights file, told by the names of the tensors.

    Raises:
        ConfigError: two files of the same backbone.
        WeightsError: a file cannot be read, or is of another backbone.
    """
    from zsad_convert.features.scales import CNN, VIT
    from zsad_core.weights import read_state_dict

    found: dict[str, Path] = {}
    for path in paths:
        tensors = read_state_dict(path).keys()
        if "blocks.0.attn.qkv.weight" in tensors:
            name = VIT
        elif any("conv_stem." in tensor for tensor in tensors):
            name = CNN
        else:
            raise WeightsError(f"{path}: weights of neither {VIT} nor {CNN}")
        if name in found:
            raise ConfigError(f"--weights: {found[name]} and {path} are both of {name}")
        found[name] = path
    return found


def _changed_files(
    bundle: Bundle,
    scales: tuple[FeatureScale, ...],
    files: Mapping[str, bytes],
    weights: Mapping[str, Path],
    made_by: str,
    version: str | None,
) -> dict[str, bytes]:
    """File name -> new content, with the manifest and the card."""
    from zsad_core.weights import backbone_licence

    old = bundle.manifest
    licences = [*old.licences]
    for name, path in weights.items():
        licence = backbone_licence(name, path.name)
        if licence is not None and licence not in licences:
            licences.append(licence)
    manifest = old.model_copy(
        update={
            "version": version or old.version,
            "features": scales,
            "files": old.files | {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
            "licences": tuple(licences),
            "made_by": f"{old.made_by}; {made_by}",
        }
    )
    return {**files, MANIFEST: manifest_bytes(manifest), MODEL_CARD: model_card(manifest).encode()}
