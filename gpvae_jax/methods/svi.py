"""Stochastic variational inference: the ELBO of each example maximised by itself, the reference for every gap.

Equations: docs/mathematics.md.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.gaussians.family import AnyGaussian, Gaussian
from gpvae_jax.gaussians.full import FullGaussian, from_covariance, from_diagonal
from gpvae_jax.gaussians.per_example import Optimum, optimize
from gpvae_jax.methods.vae import vae
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params

FAMILIES = ("diagonal", "full")


def svi(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    family: str = "diagonal",
    max_steps: int = 2000,
    learning_rate: float = 0.1,
    inner_samples: int = 8,
) -> InferenceMethod:
    """The base's amortized posterior, optimised per example when asked for (eq. 2.5, paper); trained, and validated in
    training, as the base.

    base: any method whose posterior is a Gaussian, `vae` by default; its φ is this method's φ. family: "diagonal" or
    "full", in which the search starts at the Gaussian of the base's mean and variances, or covariance. max_steps,
    inner_samples, and Adam with learning_rate: see `per_example.optimize`; max_steps = 0 is the base, or its moments in
    the family. No gradient passes through the optimisation. Cost: inner_samples decoder gradients per
    step, thousands per example. Raises ValueError on a setting out of range and in use over a base that is no Gaussian.
    """
    if family not in FAMILIES:
        raise ValueError(unknown("family", family, FAMILIES))
    check_at_least(0, max_steps=max_steps)
    if inner_samples < 2 or inner_samples % 2:
        raise ValueError(f"inner_samples must be even and at least 2, for draws come in pairs, got {inner_samples}.")
    check_above(0, learning_rate=learning_rate)
    base = vae(model, encoder) if base is None else base
    optimizer = optax.adam(learning_rate)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[Gaussian, Info]:
        key_base, key_steps = jax.random.split(key)
        params = jax.lax.stop_gradient(params)
        start, _ = base.posterior(params, key_base, x)
        found = optimize(
            model,
            params.model,
            x,
            _of_family(start, family),
            key_steps,
            optimizer,
            max_steps=max_steps,
            num_samples=inner_samples,
        )
        return found.posterior, {
            "elbo": found.elbo,
            "standard_error": found.standard_error,
            "steps": found.steps,
            "elbo_trace": found.trace,
        }

    return InferenceMethod(base.init, posterior, base.loss, amortized=base.posterior)


def _of_family(q: AnyGaussian, family: str) -> Gaussian:
    """The Gaussian of a family with the mean of q, and its variances or covariance; ValueError where it has none."""
    if isinstance(q, DiagonalGaussian):
        return q if family == "diagonal" else from_diagonal(q)
    if not all(hasattr(q, name) for name in ("mean", "covariance" if family == "full" else "variance")):
        raise ValueError(f"svi needs a base whose posterior has moments, but this one's is a {type(q).__name__}.")
    if family == "diagonal":
        return DiagonalGaussian(q.mean, 0.5 * jnp.log(q.variance))
    return q if isinstance(q, FullGaussian) else from_covariance(q.mean, q.covariance)


def best_of(optima: list[Optimum]) -> Optimum:
    """Per example the best of several runs: how restarts are joined.

    The runs need equal settings and, to be compared on the same noise, equal keys. They are judged by the last value
    of `trace`, whose draws `elbo` has not seen: the greatest of several noisy `elbo` would be too high.
    """
    stack = jax.tree.map(lambda *leaves: jnp.stack(leaves), *optima)
    last = stack.trace[:, -1]
    best = jnp.argmax(jnp.where(jnp.isnan(last), -jnp.inf, last), axis=0)
    rows = jnp.arange(best.shape[0])
    picked = jax.tree.map(lambda leaf: leaf[best, rows], stack._replace(trace=jnp.swapaxes(stack.trace, 1, 2)))
    return picked._replace(trace=jnp.swapaxes(picked.trace, 0, 1))


def optimize_batches(
    run: Callable[[Array, PRNGKeyArray], Optimum],
    x: np.ndarray,
    key: PRNGKeyArray,
    batch_size: int,
    first: int = 0,
) -> Iterator[tuple[int, Optimum]]:
    """`run(x[B, *D], key)`, jitted by the caller, over a data set: yields (batch number, its optimum on the host).

    Batch i uses examples i·B … (i + 1)·B and the key folded with i, whatever ran before, so an interrupted run goes
    on with `first` the number of batches already kept. The last batch is filled up with the first examples and cut.
    """
    count = x.shape[0]
    for number in range(first, -(-count // batch_size)):
        rows = np.arange(number * batch_size, (number + 1) * batch_size)
        found = jax.device_get(run(x[rows % count], jax.random.fold_in(key, number)))
        kept = int((rows < count).sum())
        trace = found.trace[:, :kept]
        yield number, jax.tree.map(lambda leaf, n=kept: leaf[:n], found)._replace(trace=trace)
