"""A masked autoregressive network with context (Germain et al. 2015; conditioned as in Kingma et al. 2016)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_at_least
from gpvae_jax.networks import linear


class Made(NamedTuple):
    """(m, s) of latent j as a function of the latents before j and of the context, and of nothing else.

    The context's part is one affine map of it to a shift of every layer, computed once per example however many z
    are drawn; the rest are masked layers in z. So the context reaches every unit, the first latent's too.
    """

    init: Callable[[PRNGKeyArray], PyTree]
    shifts: Callable[[PyTree, Array], Array]  # (params, context[B, H]) -> [B, G]
    apply: Callable[[PyTree, Array, Array], tuple[Array, Array]]  # (params, shifts[B, G], z[S, B, Z]) -> m, s
    shift_dim: int  # G


def made(latent_dim: int, context_dim: int, width: int, layers: int) -> Made:
    """`layers` hidden layers of `width` ELU units. Raises ValueError where there is no hidden unit.

    Hidden units of degree d ∈ {0, …, Z − 1} see the latents before d, and output j sees units of degree ≤ j. Weights
    start at variance 1/(number of unmasked inputs), those of the output at a hundredth of that, so that a flow
    starts near the affine one its gate bias makes.
    """
    check_at_least(1, width=width, layers=layers)
    hidden = np.arange(width) * latent_dim // width  # degrees, evenly spread
    position = np.arange(latent_dim)
    masks = [position[:, None] < hidden[None, :]]
    masks += [hidden[:, None] <= hidden[None, :]] * (layers - 1)
    masks += [np.tile(hidden[:, None] <= position[None, :], 2)]
    sizes = [mask.shape[1] for mask in masks]
    context = linear(context_dim, sum(sizes))

    def init(key: PRNGKeyArray) -> PyTree:
        key_context, *keys = jax.random.split(key, len(masks) + 1)
        gains = [1.0] * layers + [0.1]
        kernels = [_masked_normal(k, m, g) for k, m, g in zip(keys, masks, gains, strict=True)]
        return {"context": context.init(key_context), "kernels": kernels}

    def shifts(params: PyTree, features: Float[Array, "B H"]) -> Float[Array, "B G"]:
        return context.apply(params["context"], features)

    def apply(
        params: PyTree, shift: Float[Array, "B G"], z: Float[Array, "S B Z"]
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B Z"]]:
        h = z
        parts = jnp.split(shift, np.cumsum(sizes)[:-1].tolist(), axis=-1)
        for i, (kernel, mask, part) in enumerate(zip(params["kernels"], masks, parts, strict=True)):
            h = h @ (kernel * mask.astype(kernel.dtype)) + part[None]
            h = jax.nn.elu(h) if i < layers else h
        mean, gate = jnp.split(h, 2, axis=-1)
        return mean, gate

    return Made(init, shifts, apply, sum(sizes))


def _masked_normal(key: PRNGKeyArray, mask: np.ndarray, gain: float) -> Float[Array, "I O"]:
    std = gain / np.sqrt(np.maximum(mask.sum(axis=0, keepdims=True), 1)) * mask
    dtype = jnp.result_type(float)
    return jax.random.normal(key, mask.shape, dtype) * jnp.asarray(std, dtype)
