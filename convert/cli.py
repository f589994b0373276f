"""The command line of `zsad-convert`."""

import argparse
import logging
import sys
from pathlib import Path

from zsad_convert import card, features, make_bundle, prompt_bank, sign
from zsad_convert.gate import add_parity_flags, measure, parity_pictures, refuse
from zsad_core.bundle import Precision
from zsad_core.command import guarded
from zsad_core.errors import WeightsError
from zsad_core.model import add_published_flags, chosen_checkpoint


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-convert`."""
    result = argparse.ArgumentParser(prog="zsad-convert", description="Makes and checks the bundles that devices run.")
    commands = result.add_subparsers(dest="command", required=True)
    make_bundle.add_commands(commands)
    verify = commands.add_parser("verify", help="compare a bundle with its checkpoint")
    verify.add_argument("bundle", type=Path, help="bundle folder or .zip")
    verify.add_argument("--checkpoint", type=Path, help="checkpoint that the bundle was made from")
    add_published_flags(verify)
    verify.add_argument("--device", default="CPU", help="OpenVINO device (default CPU)")
    add_parity_flags(verify)
    verify.add_argument("--seed", type=int, default=0, help="has no effect: nothing here is random (default 0)")
    prompt_bank.add_command(commands)
    features.add_command(commands)
    card.add_command(commands)
    sign.add_commands(commands)
    return result


def verify(args: argparse.Namespace) -> None:
    """Compares each model of a bundle with the checkpoint that it was made from."""
    from zsad_convert.gate import parity_faults
    from zsad_core.bundle import load_bundle
    from zsad_core.text import embed_products, load_text_encoder

    parity_pictures(args)  # fails early
    bundle = load_bundle(args.bundle)
    checkpoint = chosen_checkpoint(args)
    method, made_of = checkpoint.detector.config.method, bundle.manifest.model.method
    if method != made_of:
        raise WeightsError(f"{args.bundle}: method {made_of}, the checkpoint has {method}: it was not made from it")
    config, facts = checkpoint.detector.config, bundle.manifest.model
    for what, found, expected in (
        ("input", config.backbone.input_hw, facts.input_hw),
        ("taps", tuple(checkpoint.detector.backbone.taps), facts.taps),
    ):
        if found != expected:
            raise WeightsError(f"{args.bundle}: {what} {expected}, the checkpoint has {found}: it was not made from it")
    text = dict(checkpoint.text_embeddings)
    prompts = bundle.prompt_bank.embeddings if bundle.prompt_bank else {}
    wordings = {name: added.wording for name, added in bundle.manifest.added_products.items()}
    if more := sorted((set(prompts) - set(text)) | set(wordings)):
        text |= embed_products(load_text_encoder(checkpoint.detector.config.text_encoder), more, wordings)
    for arithmetic in bundle.arithmetics:
        one = bundle.computing_in(arithmetic)
        is_main = arithmetic == bundle.arithmetics[0]
        precision: Precision = bundle.manifest.model.precision if is_main else "int8"
        ir = one.model_xml, one.model_bin
        parity = measure(args, checkpoint.detector, text, ir, prompts, precision)
        refuse([f"{precision}: {fault}" for fault in parity_faults(parity)])
        print(f"{args.bundle}: {precision}: over {parity.images} pictures ", end="")
        print(f"map within {parity.max_map_difference:.1e}, score within {parity.max_score_difference:.1e} of torch")


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    command_line = " ".join(["zsad-convert", *arguments])
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if args.command in ("export", "quantize"):
        return guarded("zsad-convert", lambda: make_bundle.run(args, command_line))
    if args.command == "prompts":
        return guarded("zsad-convert", lambda: prompt_bank.run(args, command_line))
    if args.command == "features":
        return guarded("zsad-convert", lambda: features.run(args, command_line))
    if args.command == "card":
        return guarded("zsad-convert", lambda: card.print_card(args))
    if args.command == "keygen":
        return guarded("zsad-convert", lambda: sign.keygen(args))
    if args.command == "sign":
        return guarded("zsad-convert", lambda: sign.sign(args))
    return guarded("zsad-convert", lambda: verify(args))


if __name__ == "__main__":
    sys.exit(main())
