"""`zsad-convert prompts`: adds products to a bundle and removes them, without training or export."""

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

# The generic product's vectors are computed again and compared with the bundle's. This is the largest allowed relative
# difference. Another device's rounding stays below it; another head or text encoder is far above it.
SAME_VECTORS = 1e-2

_HELP = """\
Adds products to a bundle and removes them, on the host. The model does not change.

An added product is described by the papers' sentences, or by those of a file:

    products:
      Flasche:                                # the name in the agent's config and in results
        names: [bottle, flask]                # names in the sentences; default: the product's name
        normal_states: ["flawless {}"]        # default here and below: the papers' sentences
        anomalous_states: ["{} with a chip", "leaking {}"]
        templates: ["a photo of a {} on a conveyor."]
      housing 0712:                           # empty: the papers' sentences

A name may be in any language that the bundle's text encoder knows. minilm knows English: to it, "Flasche" is hardly
nearer to "bottle" than "screw" is (cosine 0.45 and 0.41). Give English `names` then."""


class WordingOfFile(Wording):
    """A wording from a file that a person wrote: unknown keys are errors."""

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
        "--remove",
        nargs="+",
        type=_name,
        default=[],
        metavar="NAME",
        help="products to remove, before others are added",
    )
    command.add_argument("--list", action="store_true", help="print the products, one per line, and change nothing")
    command.add_argument(
        "--checkpoint", type=Path, help=f"checkpoint that the bundle was made from (default: its {TEXT_SIDE})"
    )
    command.add_argument("--text-encoder", help="as in the training config (default: the one in the manifest)")
    command.add_argument("--out", type=Path, help="where to write the bundle (default: change it in place)")


def _name(text: str) -> str:
    try:
        return product_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, command_line: str, load_encoder: Callable[[str], Any] | None = None) -> None:
    """Runs `prompts`.

    Args:
        args: the flags of `add_command`.
        command_line: written into the manifest.
        load_encoder: used instead of `zsad_core.text.load_text_encoder`.

    Raises:
        ZsadError: a flag, a file, the bundle or the weights are wrong.
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
        print(f"{out}: the signature was removed, because the bundle changed: sign it again with zsad-convert sign")


def read_product_file(path: Path) -> dict[str, Wording]:
    """Product -> its wording, from a file in the form that the command's help shows.

    Raises:
        ConfigError: one line for each fault, with file, line, key, value and what is allowed.
    """
    values, lines = read_yaml(path)
    given = values.get("products")
    if isinstance(given, dict):
        keys = [(at[1], line) for at, line in lines.items() if len(at) == 2 and at[0] == "products"]
        names: set[str] = set()
        for name, (written, line) in zip(given, keys, strict=False):
            if not isinstance(name, str):  # YAML reads 0712 as an octal number and `no` as false
                raise ConfigError(f"{path}:{line}: products: YAML does not read {written} as text. Put it into quotes.")
            composed = unicodedata.normalize("NFC", name)
            if composed in names:
                raise ConfigError(f"{path}:{line}: products: {composed!r} is given twice")
            names.add(composed)
    products = validate(ProductFile, values, str(path), lines).products
    return {name: wording or PAPERS_WORDING for name, wording in products.items()}


def kept_prompts(bundle: Bundle, add: Collection[str], remove: Collection[str]) -> dict[str, np.ndarray]:
    """The prompts of the bundle without the removed products.

    Raises:
        BundleError: the bundle's method uses no text.
        ConfigError: a product to remove is missing or generic, or a product to add already exists.
    """
    if bundle.prompt_bank is None:
        raise BundleError(f"{bundle.path}: {bundle.manifest.model.method} uses no text and needs no products")
    kept = dict(bundle.prompt_bank.embeddings)
    if GENERIC_PRODUCT in remove:
        raise ConfigError(f"--remove {GENERIC_PRODUCT}: agents without a configured product need it")
    if unknown := sorted(set(remove) - set(kept)):
        raise ConfigError(f"--remove: {some(unknown)} not in {bundle.path}. It has: {some(sorted(kept), 40)}.")
    kept = {name: array for name, array in kept.items() if name not in remove}
    if present := sorted(set(add) & set(kept)):
        raise ConfigError(f"{some(present)} already in {bundle.path}. To replace it, name it with --remove too.")
    return kept


def make_prompts(
    add: dict[str, Wording], head: Any, encoder: Callable[[list[str]], np.ndarray], generic: np.ndarray, source: str
) -> dict[str, np.ndarray]:
    """Product -> float32 array [K, 2, M], the `prompt` of the bundle's graph.

    Args:
        add: the products.
        head: its `prompt_vectors` are used.
        encoder: texts -> embeddings.
        generic: the bundle's array of the generic product.
        source: file of `head`, for error messages.

    Raises:
        WeightsError: the bundle was made with another head or encoder: the shapes differ, or the arrays of the generic
            product do.
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
            f"{source}: the prompt of {GENERIC_PRODUCT!r} differs by {off:.0%} (allowed {SAME_VECTORS:.0%}): "
            "the bundle was made from another checkpoint or with another text encoder"
        )
    return prompt_arrays(head, embed_products(encoder, tqdm(add, desc="embedding", leave=False, disable=None), add))


def changed_files(
    bundle: Bundle, prompts: dict[str, np.ndarray], added: dict[str, Wording], made_by: str
) -> dict[str, bytes]:
    """File name -> new content, for the files that change when the bundle gets `prompts`, of which `added` are new.

    If products were removed, `made_by` is appended to the manifest's `made_by`.
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
        raise ConfigError(f"added twice: {some(twice)}")
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
            raise WeightsError(
                f"{checkpoint}: its method {detector.config.method} uses no text: the bundle was not made from it"
            )
        return detector.head, str(checkpoint)
    if TEXT_SIDE not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.path}: has no {TEXT_SIDE}, which adding products needs. Name its checkpoint with --checkpoint."
        )
    from zsad_core.text import load_text_side

    source = f"{bundle.path}/{TEXT_SIDE}"
    return load_text_side(bundle_reader(bundle.path, MANIFEST)(TEXT_SIDE, MAX_FILE_BYTES), source), source
