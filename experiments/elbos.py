"""Runs that are held against each other, and the ELBOs of one."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from gpvae_jax import runs
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed, split_examples

DRAWS = 200  # per image


def open_paired(folders: Sequence[Path]) -> list[runs.Run]:
    """Runs of the same images, whose folders' names tell them apart; ValueError, one sentence, where they are not."""
    opened = [runs.open_run(folder) for folder in folders]
    for run in opened:
        if run.setup.dataset.checksum != opened[0].setup.dataset.checksum:
            raise ValueError(
                f"{run.folder} was trained on other images than {opened[0].folder}, so they do not pair; give runs of "
                "one data set."
            )
    if len({run.folder.name for run in opened}) < len(opened):
        raise ValueError("Two of the runs' folders have one name; rows are called after it, so rename one of them.")
    return opened


def elbos(
    run: runs.Run, split: str, images: int, *, draws: int = DRAWS, told: Callable[[], None] = lambda: None
) -> Float[np.ndarray, "R N"]:
    """Of a split's first images, nats, with the noise the same for every run; `told` is called after every seed."""
    x, setup, values = split_examples(run, split, images, 0), run.setup, []
    for params in params_by_seed(run):
        bounds = importance_bounds(setup.method, setup.model, params, x, jax.random.key(0), num_samples=(draws,))
        values.append(bounds["elbo"].astype(np.float64))
        told()
    return np.stack(values)
