"""`zsad-convert card`: prints the model card of a bundle."""

import argparse
from pathlib import Path
from typing import Any

from zsad_convert.bundle import MODEL_CARD, model_card
from zsad_core.bundle import load_bundle


def add_command(commands: Any) -> None:
    """Adds `card` to the subcommands."""
    command = commands.add_parser("card", help=f"print a bundle's model card (the content of {MODEL_CARD})")
    command.add_argument("bundle", type=Path, help="bundle folder or .zip")


def print_card(args: argparse.Namespace) -> None:
    """Prints the card.

    Raises:
        BundleError: the bundle does not load.
    """
    print(model_card(load_bundle(args.bundle).manifest), end="")
