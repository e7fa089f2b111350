"""Capacity matching: the width at which a network has as many parameters as another method's inference side."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gpvae_jax.networks import num_params
from gpvae_jax.types import InferenceMethod, LatentModel, Network

MAX_WIDTH = 2**20


def match_capacity(
    build: Callable[[int], Network], target: int, *, count: Callable[[Network], int] | None = None
) -> tuple[int, Network]:
    """The width whose network comes nearest to `target` parameters, and that network, by bisection.

    build: width -> network, its size growing with the width, e.g. `lambda width: mlp(shape, (width, width))`.
    count: the size to match, by default the network's own; give
    `lambda encoder: inference_size(vae(model, encoder), model)` to count the heads a method puts on it.
    Nothing is initialised, only shapes are. Raises ValueError where no width from 1 to 2^20 brackets the target.
    """
    sizes: dict[int, int] = {}

    def measure(width: int) -> int:
        if width not in sizes:  # building a network is what costs
            sizes[width] = (network_size if count is None else count)(build(width))
        return sizes[width]

    low, high = 1, 2
    if measure(low) > target:
        raise ValueError(
            f"Even at width 1 the network has {measure(low)} parameters, more than the target {target}; "
            "choose a larger target or fewer layers."
        )
    while measure(high) < target:
        low, high = high, 2 * high
        if high > MAX_WIDTH:
            raise ValueError(
                f"No width up to {MAX_WIDTH} gives {target} parameters; does `build` use its argument as the width?"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if measure(middle) <= target else (low, middle)
    width = min((low, high), key=lambda w: abs(measure(w) - target))
    return width, build(width)


def network_size(network: Network) -> int:
    """Number of a network's parameters, without making them."""
    return num_params(jax.eval_shape(network.init, jax.random.key(0)))


def inference_size(method: InferenceMethod, model: LatentModel) -> int:
    """Number of parameters on a method's inference side φ, without making them."""
    x = jax.ShapeDtypeStruct((2, *model.data_shape), jnp.result_type(float))
    return num_params(jax.eval_shape(method.init, jax.random.key(0), x).inference)
