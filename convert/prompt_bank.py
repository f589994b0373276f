"""`zsad-convert prompts`: adds products to a bundle and takes them out; nothing is trained or exported again."""

import argparse
import hashlib
import io
import unicodedata
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict

from zsad_convert.bundle import MODEL_CARD, manifest_bytes, model_card, rewrite_bundle
from zsad_core.bundle import (
    GENERIC_PRODUCT,
    MANIFEST,
    MAX_FILE_BYTES,
    PAPERS_WORDING,
    PROMPTS,
    TEXT_SIDE,
    AddedProduct,
    Bundle,
    ProductName,
    PromptBank,
    Wording,
    bundle_reader,
    is_signed,
    load_bundle,
    product_name,
)
from zsad_core.config import StrictModel, read_yaml, validate
from zsad_core.errors import BundleError, ConfigError, WeightsError, some

# How far the generic product's vectors, made anew, may be from the bundle's, relative to their length: room for the
# rounding of another device's text tower, none for another head or tower, whose vectors have nothing in common.
SAME_VECTORS = 1e-2

_HELP = """\
Adds products to a bundle and takes them out, on the host. The model in it stays as it is, byte for byte.

A product that is added is described by the papers' sentences, or by those of a file:

    products:
      Flasche:                                # the name that the agent is given and that results carry
        names: [bottle, flask]                # what the sentences call it; default: the product's name
        normal_states: ["flawless {}"]        # default, here and below: the papers'
        anomalous_states: ["{} with a chip", "leaking {}"]
        templates: ["a photo of a {} on a conveyor."]
      housing 0712:                           # nothing below it: all as in the papers

A name may be in any language; whether it means anything is up to the bundle's text tower. minilm knows English:
"Flasche" is hardly nearer to "bottle" for it than "screw" is (cosine 0.45, 0.41). Give English `names` there."""


class WordingOfFile(Wording):
    """A wording that a person writes: an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class ProductFile(StrictModel):
    products: dict[ProductName, WordingOfFile | None]


def add_command(commands: Any) -> None:
    """Adds `prompts` to the subcommands."""
    command = commands.add_parser(
        "prompts",
        help="add products to a bundle",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("bundle", type=Path, help="bundle folder or .zip")
    command.add_argument("--add", nargs="+", type=_name, default=[], metavar="NAME", help="products to add")
    command.add_argument("--file", type=Path, help="YAML file of products to add, with their own sentences")
    command.add_argument(
        "--remove", nargs="+", type=_name, default=[], metavar="NAME", help="products to take out, before any is added"
    )
    command.add_argument("--list", action="store_true", help="print the products, one a line, and change nothing")
    command.add_argument("--checkpoint", type=Path, help=f"what the bundle was made from (default: its {TEXT_SIDE})")
    command.add_argument("--text-encoder", help="as in the training config (default: as the manifest names it)")
    command.add_argument("--out", type=Path, help="write the bundle there (default: change it in place)")


def _name(text: str) -> str:
    try:
        return product_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, command_line: str, load_encoder: Callable[[str], Any] | None = None) -> None:
    """Does what the flags say.

    Args:
        args: of the command that `add_command` adds.
        command_line: for the manifest.
        load_encoder: instead of `zsad_core.text.load_text_encoder`.

    Raises:
        ZsadError: which flag, file, bundle or weights are wrong, and how.
    """
    bundle = load_bundle(args.bundle)
    if args.list:
        for product in bundle.manifest.products:
            print(product)
        return
    add = _to_add(args)
    if not add and not args.remove:
        raise ConfigError("nothing to change: give --add, --file, --remove or --list")
    prompts = kept_prompts(bundle, add, args.remove)
    if add:
        head, source = _text_side(bundle, args.checkpoint)
        encoder = (load_encoder or _load_encoder)(args.text_encoder or bundle.manifest.model.text_encoder)
        prompts |= make_prompts(add, head, encoder, prompts[GENERIC_PRODUCT], source)
    out, signed = args.out or args.bundle, is_signed(args.bundle)
    sha256 = rewrite_bundle(args.bundle, changed_files(bundle, prompts, add, command_line), out)
    print(f"{out}: sha256 {sha256}; {len(prompts)} products; added {some(sorted(add))}; ", end="")
    print(f"removed {some(sorted(args.remove))}")
    if signed:
        print(f"{out}: the signature, which was of the bundle before, is gone: sign it again with zsad-convert sign")


def read_product_file(path: Path) -> dict[str, Wording]:
    """Product -> its wording, from a file as the command's help shows it.

    Raises:
        ConfigError: file, line, key, value and what is allowed, a line for each fault.
    """
    values, lines = read_yaml(path)
    given = values.get("products")
    if isinstance(given, dict):
        keys = [(at[1], line) for at, line in lines.items() if len(at) == 2 and at[0] == "products"]
        names: set[str] = set()
        for name, (written, line) in zip(given, keys, strict=False):
            if not isinstance(name, str):  # 0712 is an octal number to YAML, and `no` is false
                raise ConfigError(f"{path}:{line}: products: {written} is no text to YAML. Put it into quotes.")
            composed = unicodedata.normalize("NFC", name)
            if composed in names:
                raise ConfigError(f"{path}:{line}: products: {composed!r} is given twice")
            names.add(composed)
    products = validate(ProductFile, values, str(path), lines).products
    return {name: wording or PAPERS_WORDING for name, wording in products.items()}


def kept_prompts(bundle: Bundle, add: Collection[str], remove: Collection[str]) -> dict[str, np.ndarray]:
    """The prompts that stay.

    Raises:
        BundleError: the bundle's method knows no products.
        ConfigError: what is to be removed is not there or generic, or what is to be added is there.
    """
    if bundle.prompt_bank is None:
        raise BundleError(f"{bundle.path}: {bundle.manifest.model.method} inspects without text and needs no products")
    kept = dict(bundle.prompt_bank.embeddings)
    if GENERIC_PRODUCT in remove:
        raise ConfigError(f"--remove {GENERIC_PRODUCT}: it is what agents inspect as that are given no product")
    if unknown := sorted(set(remove) - set(kept)):
        raise ConfigError(f"--remove: {some(unknown)} not in {bundle.path}. It has: {some(sorted(kept), 40)}.")
    kept = {name: array for name, array in kept.items() if name not in remove}
    if present := sorted(set(add) & set(kept)):
        raise ConfigError(f"{some(present)} already in {bundle.path}. To replace it, name it with --remove too.")
    return kept


def make_prompts(
    add: dict[str, Wording], head: Any, encoder: Callable[[list[str]], np.ndarray], generic: np.ndarray, source: str
) -> dict[str, np.ndarray]:
    """Product -> float32 array as the bundle's graph takes it.

    Args:
        add: the products.
        head: gives `prompt_vectors`.
        encoder: text tower.
        generic: the bundle's array of the generic product; its shape is the graph's.
        source: file of `head`, for errors.

    Raises:
        WeightsError: head or encoder are not those that the bundle was made with: of other widths, or the generic
            product comes out otherwise than it is in the bundle.
    """
    from tqdm import tqdm

    from zsad_convert.export import prompt_arrays
    from zsad_core.text import embed_products

    text = embed_products(encoder, [GENERIC_PRODUCT])
    width, found = head.config.text_dim, len(text[GENERIC_PRODUCT])
    if found != width:
        raise WeightsError(f"{source}: takes text embeddings of {width} numbers, the text encoder gives {found}")
    again = prompt_arrays(head, text)[GENERIC_PRODUCT]
    if again.shape != generic.shape:
        raise WeightsError(
            f"{source}: makes prompts of {again.shape}, the bundle's model takes {generic.shape}: "
            "the bundle was made from another checkpoint"
        )
    off = float(np.linalg.norm(again - generic) / np.linalg.norm(generic))
    if not off <= SAME_VECTORS:
        raise WeightsError(
            f"{source}: {GENERIC_PRODUCT!r} comes out {off:.0%} off the bundle's (allowed {SAME_VECTORS:.0%}): "
            "the bundle was made from another checkpoint or with another text encoder"
        )
    return prompt_arrays(head, embed_products(encoder, tqdm(add, desc="embedding", leave=False, disable=None), add))


def changed_files(
    bundle: Bundle, prompts: dict[str, np.ndarray], added: dict[str, Wording], made_by: str
) -> dict[str, bytes]:
    """The bundle's files that differ once it holds `prompts`, of which `added` are new: name -> content.

    The manifest's `made_by` names `made_by` too where products of the bundle are missing in `prompts`.
    """
    buffer = io.BytesIO()
    PromptBank(embeddings=prompts).save(buffer)
    new = {name: AddedProduct(made_by=made_by, wording=wording) for name, wording in added.items()}
    before = {name: record for name, record in bundle.manifest.added_products.items() if name in prompts}
    old = bundle.manifest
    removed = set(old.products) - set(prompts)
    manifest = old.model_copy(
        update={
            "made_by": f"{old.made_by}; {made_by}" if removed else old.made_by,
            "products": tuple(sorted(prompts)),
            "files": old.files | {PROMPTS: hashlib.sha256(buffer.getvalue()).hexdigest()},
            "added_products": before | new,
        }
    )
    card = model_card(manifest).encode()
    return {PROMPTS: buffer.getvalue(), MANIFEST: manifest_bytes(manifest), MODEL_CARD: card}


def _to_add(args: argparse.Namespace) -> dict[str, Wording]:
    from_file = {} if args.file is None else read_product_file(args.file)
    names = [*args.add, *from_file]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"to be added twice: {some(twice)}")
    return dict.fromkeys(args.add, PAPERS_WORDING) | from_file


def _load_encoder(name: str) -> Callable[[list[str]], np.ndarray]:
    from zsad_core.text import load_text_encoder

    return load_text_encoder(name)


def _text_side(bundle: Bundle, checkpoint: Path | None) -> tuple[Any, str]:
    """(head, its file)."""
    if checkpoint is not None:
        from zsad_core.model import load_checkpoint

        detector = load_checkpoint(checkpoint).detector
        if not detector.needs_text:
            raise WeightsError(f"{checkpoint}: of {detector.config.method}, which needs no text: not the bundle's")
        return detector.head, str(checkpoint)
    if TEXT_SIDE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: holds no {TEXT_SIDE}, which embeds products. Name what it was made from with --checkpoint."
        )
    from zsad_core.text import load_text_side

    source = f"{bundle.path}/{TEXT_SIDE}"
    return load_text_side(bundle_reader(bundle.path, MANIFEST)(TEXT_SIDE, MAX_FILE_BYTES), source), source
