"""Everything that follows from log-weights log w[S, B] = log p_θ(x, z) − log q(z|x), z ~ q (eq. 1.6).

`elbo`, `iwae` and `effective_sample_size` take log-weights; `importance` streams them in chunks of constant memory.
Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

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
    """log w = log p_θ(x|z) + β (log p(z) − log q(z|x)) for S draws z ~ q(z|x) (eq. 1.9); at β = 1
    the true log-weight."""
    z, log_q = posterior.sample_and_log_prob(key, num_samples)
    return model.log_likelihood(theta, x, z) + beta * (model.log_prior(theta, z) - log_q)


def elbo(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """Evidence lower bound, the mean log-weight (eq. 1.7)."""
    return jnp.mean(log_w, axis=0)


def iwae(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """Importance-weighted bound with K = S samples: logsumexp_S log w − log S (eq. 1.10, paper: Burda et al. 2016)."""
    return jax.nn.logsumexp(log_w, axis=0) - math.log(log_w.shape[0])


def effective_sample_size(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """(Σ w)² / Σ w², between 1 and S (eq. 1.11; Kong 1992)."""
    return jnp.exp(2 * jax.nn.logsumexp(log_w, axis=0) - jax.nn.logsumexp(2 * log_w, axis=0))


def tail_length(num_samples: int) -> int:
    """Weights of S in the tail that a Pareto distribution is fitted to: min(S/5, 3√S) (Vehtari et al. 2024)."""
    return min(num_samples // 5, math.ceil(3 * math.sqrt(num_samples)))


def pareto_k(log_w: Float[Array, "S B"]) -> Float[Array, " B"]:
    """k̂, the shape of the generalised Pareto distribution of the largest weights (Vehtari et al. 2024).

    Weights have 1/k finite moments: below 0.5 the estimate of p(x) has finite variance, below 0.7 it can be relied on
    at practical sample sizes, above it an IWAE bound is far from its limit and its effective sample size misleads.
    NaN where the tail has fewer than 5 weights (S below 25), ∞ where only one weight counts, −∞ where the largest are
    equal, as they are for the exact posterior.
    """
    largest, _ = jax.lax.top_k(log_w.T, min(tail_length(log_w.shape[0]) + 1, log_w.shape[0]))
    return _pareto_k_of_tail(largest)


def _pareto_k_of_tail(largest: Float[Array, "B T1"]) -> Float[Array, " B"]:
    """k̂ from the T + 1 largest log-weights, in falling order; the last one is the threshold."""
    count = largest.shape[1] - 1
    if count < MIN_TAIL:
        return jnp.full(largest.shape[:1], jnp.nan, largest.dtype)
    relative = jnp.exp(largest - largest[:, :1])
    excess = relative[:, :-1] - relative[:, -1:]  # falling
    # Zhang & Stephens (2009): an average over a grid of scales, weighted by the profile likelihood
    size = 30 + int(math.sqrt(count))
    grid = 1 - jnp.sqrt(size / (jnp.arange(size, dtype=largest.dtype) + 0.5))
    quartile = excess[:, count - int(count / 4 + 0.5)]
    scale = grid[None] / (3 * quartile[:, None]) + 1 / excess[:, :1]  # [B, G]

    def shape_at(scale: Float[Array, "B G"]) -> Float[Array, "B G"]:
        return jnp.mean(jnp.log1p(-scale[:, :, None] * excess[:, None, :]), axis=-1)

    shapes = shape_at(scale)
    log_likelihood = count * (jnp.log(-scale / shapes) - shapes - 1)
    weights = jax.nn.softmax(log_likelihood, axis=1)
    k = shape_at(jnp.sum(weights * scale, axis=1, keepdims=True))[:, 0]
    # a weak prior, ten observations at 0.5, steadies short tails
    k = (count * k + 5) / (count + 10)
    k = jnp.where(quartile > 0, k, jnp.full_like(k, jnp.inf))
    return jnp.where(excess[:, 0] > EQUAL, k, jnp.full_like(k, -jnp.inf))


MIN_TAIL = 5  # weights
EQUAL = 1e-3  # of the largest weight: a tail that differs by less has no shape in single precision
MERGE = 32  # chunks that wait for one search of the largest weights, which costs as much as many small chunks


class Importance(NamedTuple):
    """Per-example results of `importance`, all from the same K samples."""

    elbo: Float[Array, " B"]  # nats
    iwae: Float[Array, " B"]  # nats, K samples
    standard_error: Float[Array, " B"]  # of iwae as an estimate of log p(x), by the delta method: √(1/ess − 1/K)
    ess: Float[Array, " B"]  # effective sample size of the K
    pareto_k: Float[Array, " B"]  # see `pareto_k`


class _Running(NamedTuple):
    """What a stream of log-weights is reduced to: Σ (log w − c), m = max log w, Σ w/eᵐ, Σ (w/eᵐ)², the largest log w.

    Sums in the units of the largest weight and of a centre c: added up as logarithms of the size of log p(x), a chunk's
    share would be lost to rounding once there are many.
    """

    total: Float[Array, " B"]
    top: Float[Array, " B"]
    sum: Float[Array, " B"]
    sum_squares: Float[Array, " B"]
    largest: Float[Array, "B T1"]  # in falling order


def importance(
    draw: Callable[[Int[Array, ""], int], Float[Array, "S B"]], num_samples: int, chunk_size: int
) -> Importance:
    """ELBO, IWAE-K, effective sample size and k̂ from K = `num_samples` log-weights, `chunk_size` at a time.

    `draw(start, n)` returns the log-weights [n, B] of samples start … start + n − 1, a function of these numbers
    alone. Memory is that of one chunk whatever K, and the result the one-shot result up to rounding, whatever the
    chunks' size.
    """

    def finite(values: Array) -> Array:
        return jnp.where(jnp.isfinite(values), values, jnp.zeros_like(values))

    def add(running: _Running, log_w: Array) -> _Running:
        top = jnp.maximum(running.top, jnp.max(log_w, axis=0))
        kept, new = jnp.exp(running.top - finite(top)), jnp.exp(log_w - finite(top)[None])
        return _Running(
            running.total + jnp.sum(log_w - centre[None], axis=0),
            top,
            running.sum * kept + jnp.sum(new, axis=0),
            running.sum_squares * jnp.square(kept) + jnp.sum(jnp.square(new), axis=0),
            running.largest,
        )

    def merge(largest: Array, log_w: Array) -> Array:
        return jax.lax.top_k(jnp.concatenate([largest, log_w.T], axis=1), tail)[0]

    def body(carry: tuple[_Running, Array], index: Array) -> tuple[tuple[_Running, Array], None]:
        running, waiting = carry
        log_w = draw(index * chunk_size, chunk_size)
        running, waiting = add(running, log_w), waiting.at[index % MERGE].set(log_w)

        def merged() -> tuple[Array, Array]:
            largest = merge(running.largest, waiting.reshape(-1, waiting.shape[-1]))
            return largest, jnp.full_like(waiting, -jnp.inf)

        largest, waiting = jax.lax.cond(index % MERGE == MERGE - 1, merged, lambda: (running.largest, waiting))
        return (running._replace(largest=largest), waiting), None

    chunks, rest = divmod(num_samples, chunk_size)
    centre = finite(draw(jnp.zeros((), jnp.int32), 1)[0])
    zero, nothing = jnp.zeros_like(centre), jnp.full_like(centre, -jnp.inf)
    tail = tail_length(num_samples) + 1
    unfilled = jnp.full((*nothing.shape, tail), -jnp.inf, nothing.dtype)
    running = _Running(zero, nothing, zero, zero, unfilled)
    if chunks:
        waiting = jnp.full((MERGE, chunk_size, *nothing.shape), -jnp.inf, nothing.dtype)
        (running, waiting), _ = jax.lax.scan(body, (running, waiting), jnp.arange(chunks, dtype=jnp.int32))
        running = running._replace(largest=merge(running.largest, waiting.reshape(-1, *nothing.shape)))
    if rest:
        log_w = draw(jnp.asarray(chunks * chunk_size, jnp.int32), rest)
        running = add(running, log_w)._replace(largest=merge(running.largest, log_w))
    inverse_ess = running.sum_squares / jnp.square(running.sum)
    return Importance(
        elbo=centre + running.total / num_samples,
        iwae=finite(running.top) + jnp.log(running.sum) - math.log(num_samples),
        standard_error=jnp.sqrt(jnp.maximum(inverse_ess - 1 / num_samples, 0)),
        ess=1 / inverse_ess,
        pareto_k=_pareto_k_of_tail(running.largest),
    )
