"""The best member of a family of posteriors for each example by itself, whatever the family: q* of the gaps.

Every leaf of the posterior becomes a parameter of that one example, the flow networks that examples otherwise share
included. For Gaussians `per_example.optimize` is the better search: it stops by itself.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.flows.made import made
from gpvae_jax.flows.posteriors import IAFPosterior, stacked
from gpvae_jax.gaussians.full import FullGaussian
from gpvae_jax.gaussians.low_rank import LowRankGaussian, from_factors
from gpvae_jax.gaussians.per_example import elbo_with_error
from gpvae_jax.gp.posterior import VARIANCE_FLOOR, GaussianScaleMixture
from gpvae_jax.mixtures.posterior import GaussianMixture, stratified_mean
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, LatentModel, Params

ROUND_STEPS = 50  # between two looks at the ELBO
CHECK_SAMPLES = 250  # of such a look, the same draws every time
GATE_BIAS = 2.0  # of a new flow


class Found(NamedTuple):
    """Per-example results of a search."""

    elbo: Float[Array, " B"]  # L[q*] in nats, from draws the search has not seen
    standard_error: Float[Array, " B"]  # of it, over those draws
    start: Float[Array, " B"]  # L of where the search started, on the same draws
    last_gain: Float[Array, " B"]  # nats that the last quarter of the steps still won: far above 0 is not converged


def best_own(
    method: InferenceMethod, model: LatentModel, params: Params, x: Float[Array, "B *D"], key: PRNGKeyArray,
    **settings: Any,
) -> Found:  # fmt: skip
    """q* in the family of the method's own posterior, from that posterior. settings: as for `search`."""

    def start(key: PRNGKeyArray, x: Float[Array, "1 *D"], nothing: Array) -> Any:
        return method.posterior(params, key, x)[0]

    return search(model, params.model, x, start, jnp.zeros(len(x)), key, **settings)


def best_flow(
    model: LatentModel, theta: PyTree, x: Float[Array, "B *D"], around: DiagonalGaussian, key: PRNGKeyArray, *,
    flow_steps: int = 2, width: int = 100, **settings: Any,
) -> Found:  # fmt: skip
    """q* among Gaussians passed through an autoregressive flow of the example's own, from a diagonal Gaussian.

    The flow works in units of that Gaussian, z = mean + σ u, and starts as exactly it (derived). settings: as for
    `search`.
    """

    def start(key: PRNGKeyArray, x: Array, around: DiagonalGaussian) -> _Placed:
        return _Placed(_no_flow(model.latent_dim, flow_steps, width, key, around.mean), around)

    alone = jax.tree.map(lambda leaf: leaf[:, None], around)
    return search(model, theta, x, start, alone, key, **settings)


def search(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    start: Callable[[PRNGKeyArray, Array, Any], Any],
    given: PyTree,
    key: PRNGKeyArray,
    *,
    steps: int = 1000,
    num_samples: int = 8,
    learning_rate: float = 0.02,
    eval_samples: int = 1000,
) -> Found:
    """Adam on each example's ELBO over all leaves of `start(key, x[1, *D], given_b)`; its rate falls to 0 by a cosine.

    The best of the iterates, on draws that stay the same, is kept, so that the result is no worse than the start but
    for noise. given: what start is told of each example, leaves [B, …]. Cost: num_samples decoder gradients per step
    (per step and component, of a mixture). Raises ValueError where steps is no multiple of 4·ROUND_STEPS.
    """
    if steps < 4 * ROUND_STEPS or steps % (4 * ROUND_STEPS):
        raise ValueError(f"search expects steps to be a multiple of {4 * ROUND_STEPS}, got {steps}.")
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def one(key: PRNGKeyArray, x: Float[Array, "*D"], given: Any) -> Found:
        key_start, key_steps, key_check, key_eval = jax.random.split(key, 4)
        x = x[None]
        values, rebuild = unconstrained(start(key_start, x, given))
        measure = partial(_measure, model, theta, x)

        def step(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, None]:
            values, state = carry
            gradient = jax.grad(lambda v: -_bound(model, theta, x, rebuild(v), key, num_samples))(values)
            with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
                updates, state = optimizer.update(gradient, state)
                return (optax.apply_updates(values, updates), state), None

        def round_of_steps(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, Array]:
            current, best, value = carry
            current, _ = jax.lax.scan(step, current, jax.random.split(key, ROUND_STEPS))
            now = measure(rebuild(current[0]), key_check, CHECK_SAMPLES)[0]
            better = now > value  # false for NaN
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), current[0], best)
            value = jnp.where(better, now, value)
            return (current, best, value), value

        first = measure(rebuild(values), key_check, CHECK_SAMPLES)[0]
        with jax.numpy_dtype_promotion("standard"):
            state = optimizer.init(values)
        rounds = steps // ROUND_STEPS
        keys = jax.random.split(key_steps, rounds)
        (_, best, _), trace = jax.lax.scan(round_of_steps, ((values, state), values, first), keys)
        elbo, error = measure(rebuild(best), key_eval, eval_samples)
        began, _ = measure(rebuild(values), key_eval, eval_samples)
        return Found(elbo, error, began, trace[-1] - trace[-1 - rounds // 4])

    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(x), dtype=jnp.uint32))
    return jax.vmap(one)(keys, x, given)


def unconstrained(q: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Values that may be moved anywhere, and the posterior that they stand for."""
    if isinstance(q, GaussianMixture):
        return q, lambda v: v._replace(log_alpha=jax.nn.log_softmax(v.log_alpha, axis=-1))
    if isinstance(q, GaussianScaleMixture):
        logs = (jnp.log(jnp.maximum(v, VARIANCE_FLOOR)) for v in (q.mean_variance, q.std_variance))

        def rebuild(v: tuple) -> GaussianScaleMixture:
            mean, std_mean, log_a, log_b = v
            return dataclasses.replace(
                q, mean=mean, std_mean=std_mean, mean_variance=jnp.exp(log_a), std_variance=jnp.exp(log_b)
            )

        return (q.mean, q.std_mean, *logs), rebuild
    if isinstance(q, FullGaussian):
        log_diagonal = jnp.log(jnp.diagonal(q.cholesky, axis1=-2, axis2=-1))

        def of_triangle(v: tuple) -> FullGaussian:
            return FullGaussian(v[0], jnp.tril(v[2], -1) + jax.vmap(jnp.diag)(jnp.exp(v[1])))

        return (q.mean, log_diagonal, q.cholesky), of_triangle
    if isinstance(q, LowRankGaussian):
        return (q.mean, jnp.log(q.diagonal), q.factor), lambda v: from_factors(v[0], jnp.exp(v[1]), v[2])
    return q, lambda v: v


def _bound(model: LatentModel, theta: PyTree, x: Array, q: Any, key: PRNGKeyArray, num_samples: int) -> Array:
    """An unbiased estimate of L[q] with a gradient: of a mixture, every component's draws with their weights."""

    def log_joint(z: Float[Array, "S 1 Z"]) -> Float[Array, "S 1"]:
        return model.log_likelihood(theta, x, z) + model.log_prior(theta, z)

    if isinstance(q, GaussianMixture):
        z, log_q = q.sample_strata(key, num_samples)
        return stratified_mean(q.log_alpha, jax.vmap(log_joint)(z) - log_q)[0]
    z, log_q = q.sample_and_log_prob(key, num_samples)
    return jnp.mean(log_joint(z) - log_q)


def _measure(
    model: LatentModel, theta: PyTree, x: Array, q: Any, key: PRNGKeyArray, num_samples: int
) -> tuple[Array, Array]:
    value, error = elbo_with_error(model, theta, q, key, x, num_samples)
    return value[0], error[0]


class _Placed(NamedTuple):
    """z = mean + σ u with u from a flow."""

    flow: IAFPosterior
    around: DiagonalGaussian

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        u, log_q = self.flow.sample_and_log_prob(key, num_samples)
        return self.around.mean[None] + self.around.std[None] * u, log_q - jnp.sum(self.around.log_std, axis=-1)[None]


def _no_flow(latent_dim: int, steps: int, width: int, key: PRNGKeyArray, like: Float[Array, "1 Z"]) -> IAFPosterior:
    """A flow that is N(0, I) until it is moved: its networks end in zeros, and its base undoes the gates' shrinkage."""
    network = made(latent_dim, 1, width, 1)
    *hidden, last = stacked(network.init, key, steps)["kernels"]
    kernels = [*hidden, jnp.zeros_like(last)]
    shrinkage = math.log1p(math.exp(-GATE_BIAS))  # −log sigmoid
    base = DiagonalGaussian(jnp.zeros_like(like), jnp.full_like(like, steps * shrinkage))
    shifts = jnp.zeros((1, steps, network.shift_dim), like.dtype)
    return IAFPosterior(base, shifts, {"kernels": kernels}, network.apply, GATE_BIAS)
