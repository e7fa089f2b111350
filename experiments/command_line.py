"""How every experiment is started: what a user can put right is told in one sentence, not in a traceback."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import tyro

from gpvae_jax.cli import EXPECTED


def command_line(main: Callable[[Any], int | None], settings: type, description: str | None) -> NoReturn:
    """Leave with what `main` returns for the settings that the command line gives, or with 1 and a sentence."""
    try:
        sys.exit(main(tyro.cli(settings, description=description)))
    except EXPECTED as error:
        sys.exit(f"Error: {error}")
