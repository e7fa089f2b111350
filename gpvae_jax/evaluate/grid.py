"""The true posterior p(z|x) of a model with two latents, on a grid: exact, where all else is an estimate."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gpvae_jax.types import LatentModel

DEPTH = 18.0  # nats below the maximum: what lies deeper holds less than 1e-5 of the mass of the grid
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

    def kl_from(self, log_q: Float[np.ndarray, "B G G"]) -> Float[np.ndarray, " B"]:
        """KL(q ‖ p(z|x)) of a density given at the grid's points, in nats: the error of a posterior, exactly.

        q is renormalised over the window, so one that lies outside it is flattered.
        """
        cell = self._log_cell()
        log_q = log_q - _logsumexp(log_q + cell)[:, None, None]
        return np.sum(np.exp(log_q + cell) * (log_q - self.log_density), axis=(1, 2))

    def kl_of(self, q: Any) -> Float[np.ndarray, " B"]:
        """`kl_from` of a posterior with `log_prob`, a batch of the same B examples."""
        points = self.points()
        z = jnp.asarray(np.moveaxis(points.reshape(len(points), -1, 2), 0, 1), jnp.result_type(float))  # [G², B, 2]
        density = jax.jit(lambda q, z: q.log_prob(z))
        parts = [np.asarray(density(q, part), np.float64) for part in jnp.array_split(z, 16)]
        return self.kl_from(np.concatenate(parts).T.reshape(points.shape[:3]))

    def _log_cell(self) -> Float[np.ndarray, "B 1 1"]:
        area = (self.first[:, 1] - self.first[:, 0]) * (self.second[:, 1] - self.second[:, 0])
        return np.log(area)[:, None, None]


def grid_posterior(
    model: LatentModel, theta: PyTree, x: Float[Array, "B *D"], *, size: int = 150, extent: float = 6.0
) -> GridPosterior:
    """Evaluate p(x, z) over z ∈ [−extent, extent]², then again over the window that holds each example's mass.

    size: points G per axis, of the whole and of the window. Cost: 2 G² decoder passes per example. The sum over
    cells integrates smooth densities that vanish at the window's edge to many digits. Raises ValueError where the
    model has not two latents.
    """
    if model.latent_dim != 2:
        raise ValueError(f"A grid needs a model with 2 latents, got {model.latent_dim}; train one with --latent-dim 2.")
    axis = np.broadcast_to(np.linspace(-extent, extent, size), (len(x), size))
    log_joint = _on_grid(model, theta, x, axis, axis)
    first, second = (_window(axis, log_joint.max(axis=other)) for other in (2, 1))
    log_joint = _on_grid(model, theta, x, first, second)
    area = (first[:, 1] - first[:, 0]) * (second[:, 1] - second[:, 0])
    evidence = _logsumexp(log_joint) + np.log(area)
    return GridPosterior(first, second, log_joint - evidence[:, None, None], evidence)


def _window(axis: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """Per example, the part of an axis [B, G] where the profile is within DEPTH of its top, one cell wider."""
    size = axis.shape[1]
    inside = profile > profile.max(axis=1, keepdims=True) - DEPTH
    low = np.maximum(np.argmax(inside, axis=1) - 1, 0)
    high = np.minimum(size - np.argmax(inside[:, ::-1], axis=1), size - 1)
    rows = np.arange(len(axis))
    return np.linspace(axis[rows, low], axis[rows, high], size, axis=1)


def _on_grid(model: LatentModel, theta: PyTree, x: Array, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """log p(x, z) [B, G, G] in float64, decoded ROWS points at a time."""
    size = first.shape[1]
    evaluate = _evaluator(model)
    result = np.empty((len(x), size * size))
    for b in range(len(x)):
        z = np.stack(np.meshgrid(first[b], second[b], indexing="ij"), axis=-1).reshape(-1, 2)
        filled = np.concatenate([z, np.zeros((-len(z) % ROWS, 2))]).astype(x.dtype)  # one shape, compiled once
        parts = [evaluate(theta, x[b : b + 1], jnp.asarray(part[:, None])) for part in filled.reshape(-1, ROWS, 2)]
        result[b] = np.concatenate(jax.device_get(parts)).astype(np.float64)[: len(z)]
    return result.reshape(-1, size, size)


@functools.cache
def _evaluator(model: LatentModel) -> Callable[[PyTree, Array, Array], Array]:
    return jax.jit(lambda theta, x, z: (model.log_likelihood(theta, x, z) + model.log_prior(theta, z))[:, 0])


def _logsumexp(values: np.ndarray) -> np.ndarray:
    top = values.max(axis=(1, 2))
    return top + np.log(np.sum(np.exp(values - top[:, None, None]), axis=(1, 2)))
