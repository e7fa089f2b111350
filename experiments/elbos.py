"""The ELBOs of a finished run, for the experiments that hold runs against each other."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Float

from gpvae_jax import runs
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed, split_examples

DRAWS = 200  # per image


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
