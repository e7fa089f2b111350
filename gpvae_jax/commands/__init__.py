"""What the commands do, a file for each kind: the only rooms that print, but for the progress bars."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from gpvae_jax import cli
from gpvae_jax.commands.comparing import compare_command, finish_run, train_run
from gpvae_jax.commands.evaluating import evaluate_command
from gpvae_jax.commands.showing import export_command, list_command, plot_command, sample_command, save_figure
from gpvae_jax.commands.training import train_command, train_with_bar
from gpvae_jax.environment import float32_products

__all__ = ["finish_run", "prepare_jax", "run", "save_figure", "train_run", "train_with_bar"]


def run(command: Any) -> None:
    """Carry out a parsed command."""
    prepare_jax()
    carry_out: dict[type, Callable[[Any], None]] = {
        cli.Train: train_command,
        cli.Evaluate: evaluate_command,
        cli.Compare: compare_command,
        cli.Sample: sample_command,
        cli.Plot: plot_command,
        cli.Export: export_command,
        cli.List: list_command,
    }
    carry_out[type(command)](command)


def prepare_jax() -> None:
    """`float32_products`, and compiled programs kept between processes, unless JAX_COMPILATION_CACHE_DIR says where."""
    float32_products()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/gpvae_jax/xla").expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
