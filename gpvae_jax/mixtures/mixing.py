"""Logits for the weights of a mixture, one per stick or component: constant, or a small network's of the input."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.naming import unknown
from gpvae_jax.networks import linear, mlp

HIDDEN = 32  # units of an amortized logit's one hidden layer: a few per cent of an encoder's cost
KINDS = ("amortized", "constant")


class Logits(NamedTuple):
    """`init(key, values)` makes parameters of a logit per value, each starting there whatever the input.

    `apply(params, x[B, *D])` gives logits [B, count]. No logits at all have the parameters {}, so that no array is
    empty.
    """

    init: Callable[[PRNGKeyArray, Sequence[float]], PyTree]
    apply: Callable[[PyTree, Array], Float[Array, "B L"]]


def logits(kind: str, in_shape: Sequence[int]) -> Logits:
    """kind: "amortized", each logit a network of x with one hidden layer, or "constant", the same for every x.

    Raises ValueError on another kind.
    """
    if kind not in KINDS:
        raise ValueError(unknown("kind of mixture weights", kind, KINDS))
    init, one = _amortized(in_shape) if kind == "amortized" else _constant()

    def init_all(key: PRNGKeyArray, values: Sequence[float]) -> PyTree:
        if not len(values):
            return {}
        return jax.vmap(init)(jax.random.split(key, len(values)), jnp.asarray(values, jnp.result_type(float)))

    def apply(params: PyTree, x: Float[Array, "B *D"]) -> Float[Array, "B L"]:
        if not jax.tree.leaves(params):
            return jnp.zeros((x.shape[0], 0), x.dtype)
        return jax.vmap(one, in_axes=(0, None), out_axes=1)(params, x)

    return Logits(init_all, apply)


def logit(probability: float) -> float:
    """log p / (1 − p); raises ValueError where p is not strictly between 0 and 1."""
    if not 0 < probability < 1:
        raise ValueError(f"A mixing proportion must lie strictly between 0 and 1, got {probability}.")
    return math.log(probability) - math.log1p(-probability)


def _amortized(in_shape: Sequence[int]) -> tuple[Callable, Callable]:
    hidden, out = mlp(in_shape, (HIDDEN,)), linear(HIDDEN, 1)

    def init(key: PRNGKeyArray, value: Float[Array, ""]) -> PyTree:
        key_hidden, key_out = jax.random.split(key)
        # an output layer of zeros: at first the logit is `value` for every input
        head = jax.tree.map(jnp.zeros_like, out.init(key_out))
        return {"hidden": hidden.init(key_hidden), "out": head | {"bias": jnp.broadcast_to(value, head["bias"].shape)}}

    def one(params: PyTree, x: Float[Array, "B *D"]) -> Float[Array, " B"]:
        return out.apply(params["out"], hidden.apply(params["hidden"], x))[:, 0]

    return init, one


def _constant() -> tuple[Callable, Callable]:
    def init(key: PRNGKeyArray, value: Float[Array, ""]) -> PyTree:
        return {"logit": value}

    def one(params: PyTree, x: Float[Array, "B *D"]) -> Float[Array, " B"]:
        return jnp.broadcast_to(params["logit"], x.shape[:1])

    return init, one
