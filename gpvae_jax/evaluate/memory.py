"""A budget of memory, and the tile of samples × examples whose decoder activations fit into it."""

import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from gpvae_jax.types import LatentModel

MIB = 2**20
# on a CPU what its cache holds: an MLP of 400-400 units is then within 15 % of its bare matrix multiplications, and
# takes twice as long with eight times the budget; elsewhere enough to fill the device
DEFAULT = {"cpu": 8 * MIB}
DEFAULT_ELSEWHERE = 512 * MIB
BLOCK = 8  # samples of one example that are drawn together, the smallest tile
MOST_EXAMPLES = 128  # of a tile: more fill nothing better, and the encoder's own activations stay small
UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Tile(NamedTuple):
    """What is decoded at once."""

    examples: int
    samples: int  # a multiple of BLOCK


def parse_memory(text: str) -> int:
    """Bytes from a text such as "64MiB" or "2 GiB". Raises ValueError on anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMgG]i[bB])\s*", text)
    if not found or not float(found[1]):
        raise ValueError(f"A memory budget is written as 512KiB, 64MiB or 2GiB, got '{text}'.")
    return int(float(found[1]) * UNITS[found[2].upper()])


def optional_memory(text: str | None) -> int | None:
    """`parse_memory` of a text that may be left out."""
    return None if text is None else parse_memory(text)


def default_budget() -> int:
    """Bytes on this device where no budget is given."""
    return DEFAULT.get(jax.default_backend(), DEFAULT_ELSEWHERE)


def tile(
    model: LatentModel, theta: PyTree, num_examples: int, num_samples: int, budget: int | str | None = None
) -> Tile:
    """The largest tile, of at most the numbers asked for, whose decoder activations fit into `budget` bytes (or text).

    Examples come first, up to MOST_EXAMPLES, then samples. Raises ValueError where not even one example's BLOCK fits.
    """
    budget = default_budget() if budget is None else parse_memory(budget) if isinstance(budget, str) else budget
    row = row_bytes(model, theta)
    if budget < BLOCK * row:
        raise ValueError(
            f"A memory budget of {budget / MIB:.2g} MiB is too small: {BLOCK} samples of one example take "
            f"{BLOCK * row / MIB:.2g} MiB in the decoder; give at least that."
        )
    rows = budget // row
    examples = min(num_examples, MOST_EXAMPLES, rows // BLOCK)
    most = -(-num_samples // BLOCK) * BLOCK
    return Tile(examples, min(most, rows // examples // BLOCK * BLOCK))


def row_bytes(model: LatentModel, theta: PyTree) -> int:
    """Bytes of the decoder's activations for one z of one example: z, and the result of every linear layer.

    What lies between them, activations and the likelihood, compilers compute on the way.
    """
    dtype = jnp.result_type(*jax.tree.leaves(theta))
    x = jax.ShapeDtypeStruct((1, *model.data_shape), dtype)
    z = jax.ShapeDtypeStruct((1, 1, model.latent_dim), dtype)
    traced = jax.make_jaxpr(model.log_likelihood)(theta, x, z)
    ends = model.latent_dim, math.prod(model.data_shape)
    return max(_linear_bytes(traced.jaxpr), ends[1] * dtype.itemsize) + ends[0] * dtype.itemsize


def _linear_bytes(jaxpr: Any) -> int:
    """Bytes of all results of matrix products and convolutions; of branches, of the largest."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name.startswith(("dot_general", "conv_")):  # JAX's convolutions and the library's own
            total += sum(out.aval.size * out.aval.dtype.itemsize for out in equation.outvars)
        leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns"))
        total += max((_linear_bytes(getattr(leaf, "jaxpr", leaf)) for leaf in leaves if _is_jaxpr(leaf)), default=0)
    return total


def _is_jaxpr(leaf: Any) -> bool:
    return hasattr(getattr(leaf, "jaxpr", leaf), "eqns")
