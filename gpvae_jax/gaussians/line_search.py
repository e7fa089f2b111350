"""How far to go along a direction: by halving, in one call, and never downhill."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def best_factor(
    objective: Callable[[Float[Array, "S B Z"]], Float[Array, "S B"]],
    z: Float[Array, "B Z"],
    direction: Float[Array, "B Z"],
    halvings: int,
) -> Float[Array, " B"]:
    """The factor in {1, ½, …, 2^−halvings, 0} with the greatest objective(z + factor · direction), a constant.

    The objective is called once, with all candidates of all examples; a NaN never wins.
    """
    z, direction = jax.lax.stop_gradient((z, direction))
    factors = jnp.concatenate([0.5 ** jnp.arange(halvings + 1, dtype=z.dtype), jnp.zeros(1, z.dtype)])
    value = jax.lax.stop_gradient(objective(z[None] + factors[:, None, None] * direction[None]))
    return factors[jnp.argmax(jnp.where(jnp.isnan(value), -jnp.inf, value), axis=0)]
