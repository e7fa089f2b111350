"""Hamiltonian Monte Carlo transitions of many chains and examples at once, on a path between two densities."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.types import LatentModel

JITTER = 0.2  # of each transition's step, uniform: a fixed trajectory length can return to its start


class Point(NamedTuple):
    """A place of each chain, with the two log-densities between which the path runs, and their gradients."""

    z: Float[Array, "C B Z"]
    start: Float[Array, "C B"]  # log π_0
    end: Float[Array, "C B"]  # log p(x, z)
    start_slope: Float[Array, "C B Z"]
    end_slope: Float[Array, "C B Z"]


def move(
    at: Callable[[Array], Point],
    point: Point,
    beta: Float[Array, ""],
    log_step: Float[Array, " B"],
    num_leapfrog: int,
    key: PRNGKeyArray,
) -> tuple[Point, Float[Array, "C B"]]:
    """One HMC transition of every chain at temperature β, and its acceptance probability."""
    key_momentum, key_jitter, key_accept = jax.random.split(key, 3)
    shape, dtype = point.z.shape, point.z.dtype
    momentum = jax.random.normal(key_momentum, shape, dtype)
    jitter = jax.random.uniform(key_jitter, shape[:2], dtype, 1 - JITTER, 1 + JITTER)
    step = (jnp.exp(log_step)[None] * jitter)[..., None]

    def slope(p: Point) -> Array:
        return (1 - beta) * p.start_slope + beta * p.end_slope

    def leap(carry: tuple[Point, Array], half: Array) -> tuple[tuple[Point, Array], None]:
        here, momentum = carry
        here = at(here.z + step * momentum)
        return (here, momentum + half * step * slope(here)), None

    # half a step of momentum first and last, whole ones between
    factors = jnp.ones(num_leapfrog, dtype).at[-1].set(0.5)
    start = momentum + 0.5 * step * slope(point)
    (proposal, end), _ = jax.lax.scan(leap, (point, start), factors)

    def energy(p: Point, momentum: Array) -> Array:
        return 0.5 * jnp.sum(jnp.square(momentum), axis=-1) - (1 - beta) * p.start - beta * p.end

    excess = energy(proposal, end) - energy(point, momentum)
    accepted = jnp.exp(-jnp.maximum(jnp.where(jnp.isnan(excess), jnp.inf, excess), 0))
    take = jax.random.uniform(key_accept, shape[:2], dtype) < accepted

    def choose(new: Array, old: Array) -> Array:
        return jnp.where(take if new.ndim == 2 else take[..., None], new, old)

    return jax.tree.map(choose, proposal, point), accepted


def point_at(model: LatentModel, theta: PyTree, x: Array, start: Any, z: Float[Array, "C B Z"]) -> Point:
    def first(z: Array) -> Array:
        return model.log_prior(theta, z) if start is None else start.log_prob(z)

    def last(z: Array) -> Array:
        return model.log_prior(theta, z) + model.log_likelihood(theta, x, z)

    (start_value, to_start), (end_value, to_end) = jax.vjp(first, z), jax.vjp(last, z)
    (start_slope,), (end_slope,) = to_start(jnp.ones_like(start_value)), to_end(jnp.ones_like(end_value))
    return Point(z, start_value, end_value, start_slope, end_slope)
