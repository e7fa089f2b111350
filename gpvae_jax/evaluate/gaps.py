"""Where a posterior loses: the gaps between log p(x) and its bound (Cremer, Li & Duvenaud 2018), per example.

log p(x) − L[q*] is the approximation gap, what the family cannot express; L[q*] − L[q] the amortization gap, what the
encoder does not find; q* is the example's own optimum in the family (eq. 7.1, paper). Equations: docs/mathematics.md.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.full import from_diagonal
from gpvae_jax.gaussians.per_example import Optimum, optimize
from gpvae_jax.methods.svi import FAMILIES, best_of, optimize_batches
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, LatentModel, Params

LEARNING_RATE = 0.1  # of Adam, in units of each posterior's own spread


class Gaps(NamedTuple):
    """Nats per example; inference = approximation + amortization."""

    approximation: Float[np.ndarray, " N"]  # log p̂ − L[q*]
    amortization: Float[np.ndarray, " N"]  # L[q*] − L[q]
    inference: Float[np.ndarray, " N"]  # log p̂ − L[q]


def gaps(
    evidence: Float[np.ndarray, " N"], optimal_elbo: Float[np.ndarray, " N"], elbo: Float[np.ndarray, " N"]
) -> Gaps:
    """The gaps from log p̂(x), L[q*] and L[q] of the same examples. Raises ValueError where their shapes differ.

    evidence: the tightest lower bound at hand, such as the larger of AIS and IWAE; the approximation gap is then a
    lower bound itself.
    """
    parts = [np.asarray(part, np.float64) for part in (evidence, optimal_elbo, elbo)]
    if len({part.shape for part in parts}) > 1 or parts[0].ndim != 1:
        raise ValueError(f"Gaps need one value per example, [N], in all three, got {[p.shape for p in parts]}.")
    log_p, best, own = parts
    return Gaps(log_p - best, best - own, log_p - own)


def optimal_elbos(
    method: InferenceMethod,
    model: LatentModel,
    params: Params,
    raw: np.ndarray,
    key: PRNGKeyArray,
    *,
    family: str = "diagonal",
    observe: Callable[[Array], Float[Array, "B *D"]] = jnp.asarray,
    batch_size: int = 128,
    first: int = 0,
    second_start: bool = True,
    **settings: Any,
) -> Iterator[tuple[int, Optimum]]:
    """The best Gaussian of each example of raw[N, *D] by SVI: yields (batch number, optimum), resumable at `first`.

    family: "diagonal" or "full". The search starts at the method's own posterior, a Gaussian of its mean and variance
    (`moments`), and with second_start at the prior as well, the better one kept; settings: as for
    `per_example.optimize`. Raises ValueError on an unknown family.
    """
    if family not in FAMILIES:
        raise ValueError(unknown("family", family, FAMILIES))
    settings.setdefault("optimizer", optax.adam(LEARNING_RATE))

    @jax.jit
    def run(raw: Array, key: PRNGKeyArray) -> Optimum:
        x = observe(raw)
        key_posterior, key_search = jax.random.split(key)
        start = moments(method, params, key_posterior, x)
        prior = DiagonalGaussian(jnp.zeros_like(start.mean), jnp.zeros_like(start.mean))
        search = partial(optimize, model, params.model, x, key=key_search, **settings)
        starts = [start, prior] if second_start else [start]
        optima = [search(start=s if family == "diagonal" else from_diagonal(s)) for s in starts]
        return best_of(optima)

    return optimize_batches(run, raw, key, batch_size, first)


def moments(
    method: InferenceMethod, params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], num_samples: int = 100
) -> DiagonalGaussian:
    """The diagonal Gaussian of a posterior's mean and variance, from samples where it does not offer them."""
    key_posterior, key_z = jax.random.split(key)
    q, _ = method.posterior(params, key_posterior, x)
    if hasattr(q, "mean") and hasattr(q, "variance"):
        return DiagonalGaussian(q.mean, 0.5 * jnp.log(q.variance))
    z, _ = q.sample_and_log_prob(key_z, num_samples)
    return DiagonalGaussian(jnp.mean(z, axis=0), 0.5 * jnp.log(jnp.var(z, axis=0, ddof=1)))
