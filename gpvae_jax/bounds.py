"""Everything that follows from log-weights log w[S, B] = log p_θ(x, z) − log q(z|x), z ~ q.

`elbo`, `iwae` and `effective_sample_size` take log-weights; `importance` streams them in chunks of constant memory.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.types import LatentModel, Posterior


def log_weights(
    model: LatentModel,
    theta: PyTree,
    posterior: Posterior,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    num_samples: int,
    *,
    beta: float | Array = 1.0,
) -> Float[Array, "S B"]:
    """log w = log p_θ(x|z) + β (log p(z) − log q(z|x)) for S draws z ~ q(z|x); β = 1 is the true log-weight."""
    z, log_q = posterior.sample_and_log_prob(key, num_samples)
    return model.log_likelihood(theta, x, z) + beta * (model.log_prior(theta, z) - log_q)


def elbo(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """Evidence lower bound, the mean log-weight."""
    return jnp.mean(log_w, axis=0)


def iwae(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """Importance-weighted bound with K = S samples: logsumexp_S log w − log S (Burda et al. 2016)."""
    return jax.nn.logsumexp(log_w, axis=0) - math.log(log_w.shape[0])


def effective_sample_size(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """(Σ w)² / Σ w², between 1 and S (Kong 1992)."""
    return jnp.exp(2 * jax.nn.logsumexp(log_w, axis=0) - jax.nn.logsumexp(2 * log_w, axis=0))


class Importance(NamedTuple):
    """Per-example results of `importance`, all from the same K samples."""

    elbo: Float[Array, " B"]  # nats
    iwae: Float[Array, " B"]  # nats, K samples
    ess: Float[Array, " B"]  # effective sample size of the K


class _Running(NamedTuple):
    """What a stream of log-weights is reduced to: Σ log w, log Σ w, log Σ w²."""

    total: Float[Array, " B"]
    log_sum: Float[Array, " B"]
    log_sum_squares: Float[Array, " B"]


def importance(
    draw: Callable[[PRNGKeyArray, int], Float[Array, "S B"]],
    key: PRNGKeyArray,
    num_samples: int,
    chunk_size: int,
) -> Importance:
    """ELBO, IWAE-K and effective sample size from K = `num_samples` log-weights, `chunk_size` at a time.

    `draw(key, n)` returns fresh log-weights [n, B]; memory is that of one chunk whatever K. The chunks are joined
    by streaming logsumexp, so the result is the one-shot result up to rounding.
    """

    def add(running: _Running, log_w: Array) -> _Running:
        return _Running(
            running.total + jnp.sum(log_w, axis=0),
            jnp.logaddexp(running.log_sum, jax.nn.logsumexp(log_w, axis=0)),
            jnp.logaddexp(running.log_sum_squares, jax.nn.logsumexp(2 * log_w, axis=0)),
        )

    def body(running: _Running, index: Array) -> tuple[_Running, None]:
        return add(running, draw(jax.random.fold_in(key, index), chunk_size)), None

    chunks, rest = divmod(num_samples, chunk_size)
    shape = jax.eval_shape(lambda k: draw(k, 1), key)
    nothing = jnp.full(shape.shape[1:], -jnp.inf, shape.dtype)
    running = _Running(jnp.zeros_like(nothing), nothing, nothing)
    if chunks:
        running, _ = jax.lax.scan(body, running, jnp.arange(chunks))
    if rest:
        running = add(running, draw(jax.random.fold_in(key, chunks), rest))
    return Importance(
        elbo=running.total / num_samples,
        iwae=running.log_sum - math.log(num_samples),
        ess=jnp.exp(2 * running.log_sum - running.log_sum_squares),
    )
