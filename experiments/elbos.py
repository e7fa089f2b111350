"""Runs that are held against each other, and the ELBOs of one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from gpvae_jax import runs
from gpvae_jax.build import Setup
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.types import Params

DRAWS = 200  # per image


def open_paired(folders: Sequence[Path]) -> list[runs.Run]:
    """Runs of the same images, whose folders' names tell them apart; ValueError, one sentence, where they are not."""
    opened = [runs.open_run(folder) for folder in folders]
    for run in opened:
        for name, own in _images(run).items():
            if own != (first := _images(opened[0])[name]):
                raise ValueError(
                    f"{run.folder} and {opened[0].folder} do not have the same images, so they do not pair: "
                    f"{name} is {own} in one and {first} in the other."
                )
    if len({run.folder.name for run in opened}) < len(opened):
        raise ValueError("Two of the runs' folders have one name; rows are called after it, so rename one of them.")
    return opened


def open_with_vae(folders: Sequence[Path]) -> tuple[runs.Run, list[runs.Run]]:
    """A VAE's run, the first, and those that are held against it; ValueError, one sentence, where they cannot be."""
    if len(folders) < 2:
        raise ValueError(f"Give the VAE's run and others to hold against it; got {len(folders)}.")
    base, *others = open_paired(folders)
    if base.setup.config.method != "vae":
        raise ValueError(f"The first run is to be a VAE's, but {base.folder} is of {base.setup.config.method}.")
    return base, others


def _images(run: runs.Run) -> dict[str, Any]:
    """What decides which images a run's splits hold, and how they are seen."""
    config = run.setup.config
    return {
        "the data's checksum": run.setup.dataset.checksum,
        "binarization": config.data.binarization,
        "binarization_seed": config.data.binarization_seed,
        "train_examples": config.data.train_examples,
        "examples": config.train.examples,
    }


def elbos(
    run: runs.Run,
    split: str,
    images: int,
    *,
    first: int = 0,
    draws: int = DRAWS,
    told: Callable[[], None] = lambda: None,
) -> Float[np.ndarray, "R N"]:
    """Of a split's images from the `first` on, nats, with the noise the same for every run; `told` is called after
    every seed.
    """
    x, values = split_examples(run, split, images, 0, first), []
    for params in params_by_seed(run):
        values.append(elbo(run.setup, params, x, draws))
        told()
    return np.stack(values)


def elbo(setup: Setup, params: Params, x: Float[np.ndarray, "N *D"], draws: int) -> Float[np.ndarray, " N"]:
    """Of each image, nats, always with the same noise."""
    bounds = importance_bounds(setup.method, setup.model, params, x, jax.random.key(0), num_samples=(draws,))
    return bounds["elbo"].astype(np.float64)
