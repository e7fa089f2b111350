"""The true posterior p(z|x) on a grid: exact for two latents, where all else is an estimate; of more, a plane of it.

Equations: docs/mathematics.md.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from gpvae_jax.types import LatentModel, Posterior

DEPTH = 18.0  # nats below the maximum: what lies deeper holds less than 1e-5 of the mass of the grid
RESOLVED = 0.1  # nats that the evidence may change by where every other grid point is left out
ROWS = 4096  # grid points decoded at once


class GridPosterior(NamedTuple):
    """p(z|x) of each example on its own window of G × G points, z = (first[b, i], second[b, j])."""

    first: Float[np.ndarray, "B G"]
    second: Float[np.ndarray, "B G"]
    log_density: Float[np.ndarray, "B G G"]  # log p(z|x), nats; normalised over the window
    log_evidence: Float[np.ndarray, " B"]  # log p(x) = log ∫ p(x, z) dz, nats

    def expectation(self, values: Float[np.ndarray, "B G G"]) -> Float[np.ndarray, " B"]:
        """E_{p(z|x)} of a function given by its values on the grid."""
        return np.sum(np.exp(self.log_density + self._log_cell()) * values, axis=(1, 2))

    def points(self) -> Float[np.ndarray, "B G G 2"]:
        """The grid's z."""
        shape = self.log_density.shape
        first, second = self.first[:, :, None], self.second[:, None, :]
        return np.stack([np.broadcast_to(first, shape), np.broadcast_to(second, shape)], axis=-1)

    def _log_cell(self) -> Float[np.ndarray, "B 1 1"]:
        area = (self.first[:, 1] - self.first[:, 0]) * (self.second[:, 1] - self.second[:, 0])
        return np.log(area)[:, None, None]


def grid_posterior(
    model: LatentModel, theta: PyTree, x: Float[Array, "B *D"], *, size: int = 150, extent: float = 6.0
) -> GridPosterior:
    """Evaluate p(x, z) over z ∈ [−extent, extent]², then again over the window that holds its mass (eq. 7.6).

    size: points G per axis, of the whole and of the window; extent: of the whole. Either is doubled, for all examples,
    where a posterior is not resolved (a narrow ridge across both axes) or reaches further. Cost: 2 G² decoder passes
    per example, and those of what was tried. The sum over cells integrates smooth densities that vanish at the window's
    edge to many digits; a mode that is narrower than a cell of the whole grid may be missed. Raises ValueError where
    the model has not two latents, or where twice the size and the extent are not enough.
    """
    if model.latent_dim != 2:
        raise ValueError(f"A grid needs a model with 2 latents, got {model.latent_dim}; train one with --latent-dim 2.")
    coordinates = np.broadcast_to(np.arange(2), (len(x), 2))
    return grid_slice(model, theta, x, np.zeros((len(x), 2)), coordinates, size=size, extent=extent)


def grid_slice(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    center: Float[np.ndarray, "B Z"],
    coordinates: Int[np.ndarray, "B 2"],
    *,
    size: int = 150,
    extent: float = 6.0,
) -> GridPosterior:
    """`grid_posterior` over two coordinates of each example, the others held at `center`: p(z_i, z_j | the others, x).

    Its log_evidence is log ∫ p(x, z) over the plane, a joint density of x and the coordinates held.
    """
    plane = _Plane(model, theta, x, np.asarray(center, np.float64), np.asarray(coordinates))
    sizes, extents = [size, 2 * size], [extent, 2 * extent]
    while True:
        grid, change, is_cut = _windowed(plane, sizes[0], extents[0])
        if np.isnan(grid.log_evidence).any():
            raise ValueError(f"log p(x, z) of example {np.isnan(grid.log_evidence).argmax()} is NaN on the grid.")
        if is_cut.any() and len(extents) > 1:
            extents.pop(0)
        elif is_cut.any():
            reach = extents[0]
            raise ValueError(f"The posterior of example {is_cut.argmax()} reaches beyond ±{reach:g}; give more extent.")
        elif change.max() < RESOLVED:
            return grid
        elif len(sizes) > 1:
            sizes.pop(0)
        else:
            raise ValueError(
                f"A grid of {sizes[0]}×{sizes[0]} points does not resolve the posterior of example {change.argmax()}: "
                f"half of them change its evidence by {change.max():.2g} nats; give a larger size."
            )


def kl_to_posterior(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    q: Posterior,
    log_evidence: Float[np.ndarray, " B"],
    *,
    num_samples: int = 2048,
    seed: int = 0,
) -> Float[np.ndarray, " B"]:
    """KL(q(z) ‖ p(z|x)) = log p(x) − E_q[log p(x, z) − log q(z)] of each example, nats: a posterior's error (eq. 7.6).

    log_evidence: as `grid_posterior` has it. The expectation is the mean over draws from q, not a sum over the grid:
    where q is wrong its mass lies outside the window that holds p(z|x). Its standard error is that of the log-weights
    over √num_samples, a few hundredths of a nat where they vary by one. Cost: num_samples decoder passes per example.
    """
    at_once = max(1, ROWS // len(x))
    keys = jax.random.split(jax.random.key(seed), -(-num_samples // at_once))
    means = [_mean_log_weight(model, at_once)(theta, x, q, key) for key in keys]
    return log_evidence - np.mean(jax.device_get(means), axis=0, dtype=np.float64)


def most_divergent(
    mean: Float[np.ndarray, "B Z"], std: Float[np.ndarray, "B Z"], best_mean: Any, best_std: Any
) -> Int[np.ndarray, "B 2"]:
    """The two coordinates of each example in which N(mean, std²) has the greatest KL to N(best_mean, best_std²)."""
    ratio = np.square(std / best_std)
    divergence = 0.5 * (np.square((best_mean - mean) / best_std) + ratio - 1 - np.log(ratio))
    return np.sort(np.argsort(divergence, axis=1)[:, -2:], axis=1)


class _Plane(NamedTuple):
    model: LatentModel
    theta: PyTree
    x: Array
    center: np.ndarray
    coordinates: np.ndarray


def _windowed(
    plane: _Plane, size: int, extent: float
) -> tuple[GridPosterior, Float[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
    """The posteriors on windows of size² points; what their evidence changes by with every other point left out, nats;
    and whether their density has not vanished at the whole grid's edge.

    The change is an upper bound: the error of the full sum is smaller by orders of magnitude, for a Gaussian its fourth
    power. Where the density has not vanished at a window's edge inside the whole grid, it is infinite.
    """
    axis = np.broadcast_to(np.linspace(-extent, extent, size), (len(plane.x), size))
    log_joint = _on_grid(plane, axis, axis)
    first, second = (_window(axis, log_joint.max(axis=other)) for other in (2, 1))
    log_joint = _on_grid(plane, first, second)
    area = (first[:, 1] - first[:, 0]) * (second[:, 1] - second[:, 0])
    evidence = _logsumexp(log_joint) + np.log(area)
    change = np.abs(_logsumexp(log_joint[:, ::2, ::2]) + np.log(4 * area) - evidence)
    is_cut = np.zeros(len(plane.x), bool)
    for coordinate, profile in ((first, log_joint.max(axis=2)), (second, log_joint.max(axis=1))):
        for end in (0, -1):
            is_high = profile[:, end] > profile.max(axis=1) - DEPTH / 2
            at_edge = np.abs(coordinate[:, end]) >= extent
            is_cut |= is_high & at_edge
            change = np.where(is_high & ~at_edge, np.inf, change)
    return GridPosterior(first, second, log_joint - evidence[:, None, None], evidence), change, is_cut


def _window(axis: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Per example, the part of an axis [B, G] where the profile is within DEPTH of its top, one cell wider."""
    size = axis.shape[1]
    inside = profile > profile.max(axis=1, keepdims=True) - DEPTH
    low = np.maximum(np.argmax(inside, axis=1) - 1, 0)
    high = np.minimum(size - np.argmax(inside[:, ::-1], axis=1), size - 1)
    rows = np.arange(len(axis))
    return np.linspace(axis[rows, low], axis[rows, high], size, axis=1)


def _on_grid(plane: _Plane, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log p(x, z) [B, G, G] in float64, decoded ROWS points at a time."""
    x, size = plane.x, first.shape[1]
    evaluate = _evaluator(plane.model)
    result = np.empty((len(x), size * size))
    for b in range(len(x)):
        pair = np.stack(np.meshgrid(first[b], second[b], indexing="ij"), axis=-1).reshape(-1, 2)
        z = np.repeat(plane.center[b][None], len(pair) + -len(pair) % ROWS, axis=0)  # one shape, compiled once
        z[: len(pair), plane.coordinates[b]] = pair
        blocks = z.astype(x.dtype).reshape(-1, ROWS, 1, z.shape[1])
        parts = [evaluate(plane.theta, x[b : b + 1], jnp.asarray(block)) for block in blocks]
        result[b] = np.concatenate(jax.device_get(parts)).astype(np.float64)[: len(pair)]
    return result.reshape(-1, size, size)


@functools.cache
def _evaluator(model: LatentModel) -> Callable[[PyTree, Array, Array], Array]:
    return jax.jit(lambda theta, x, z: (model.log_likelihood(theta, x, z) + model.log_prior(theta, z))[:, 0])


@functools.cache
def _mean_log_weight(model: LatentModel, count: int) -> Callable[[PyTree, Array, Posterior, PRNGKeyArray], Array]:
    def mean(theta: PyTree, x: Array, q: Posterior, key: PRNGKeyArray) -> Array:
        z, log_q = q.sample_and_log_prob(key, count)
        return jnp.mean(model.log_likelihood(theta, x, z) + model.log_prior(theta, z) - log_q, axis=0)

    return jax.jit(mean)


def _logsumexp(values: np.ndarray) -> np.ndarray:
    top = values.max(axis=(1, 2))
    return top + np.log(np.sum(np.exp(values - top[:, None, None]), axis=(1, 2)))
