"""M copies of one amortized posterior, evaluated in one call: their parameters stacked on a leading axis M.

A base method's φ becomes φ with leaves [M, …]. With a shared trunk the leaves under "encoder" stay single: one
trunk, M heads. How the M copies are computed is decided here and nowhere else (`evaluate`).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.keys import beyond_base
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import DiagonalGaussian, require_diagonal
from gpvae_jax.types import InferenceMethod, Params

TRUNK = "encoder"  # the key of φ that a shared trunk keeps single


class Components(NamedTuple):
    """Pure functions on stacked parameters φ; the number of components M is read off φ."""

    init: Callable[[PRNGKeyArray, Array, int], Params]  # (key, x[N, *D], M) -> θ, φ
    posterior: Callable[[PyTree, PyTree, PRNGKeyArray, Array], DiagonalGaussian]  # (θ, φ, key, x) -> [M, B, Z]
    count: Callable[[PyTree], int]  # M


def components(base: InferenceMethod, *, shared_trunk: bool = False, how: str = "auto") -> Components:
    """Stack a base method whose posterior is a `DiagonalGaussian`.

    Component 0 starts as `base.init(key, x)`, so with equal keys it is the base's own encoder; component m > 0 starts
    from a key of its own. how: see `evaluate`. Raises ValueError on an unknown `how`, and in use where the
    base's posterior is no diagonal Gaussian or a shared trunk is asked of a base without one.
    """
    check_how(how)

    def axes(phi: PyTree) -> PyTree:
        axis = jax.tree_util.tree_map_with_path(lambda path, _: None if shared_trunk and in_trunk(path) else 0, phi)
        if shared_trunk and None not in jax.tree.leaves(axis, is_leaf=lambda a: a is None):
            raise ValueError(
                f"shared_trunk needs a base method with parameters under '{TRUNK}', got {sorted(phi)}; "
                "leave it off for this base."
            )
        return axis

    def count(phi: PyTree) -> int:
        return jax.tree.leaves(_map(lambda axis, leaf: None if axis is None else leaf, axes(phi), phi))[0].shape[0]

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"], num_components: int) -> Params:
        first = base.init(key, x)
        each = [first.inference, *(base.init(beyond_base(key, m), x).inference for m in range(1, num_components))]
        axis = axes(first.inference)
        return Params(first.model, _map(lambda a, *leaves: leaves[0] if a is None else jnp.stack(leaves), axis, *each))

    def posterior(theta: PyTree, phi: PyTree, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> DiagonalGaussian:
        def one(phi_m: PyTree, key_m: PRNGKeyArray) -> DiagonalGaussian:
            q, _ = base.posterior(Params(theta, phi_m), key_m, x)
            return require_diagonal(q, "A mixture")

        return evaluate(one, (phi, jax.random.split(key, count(phi))), (axes(phi), 0), how)

    return Components(init, posterior, count)


HOWS = ("auto", "vmap", "map", "unrolled")


def check_how(how: str) -> None:
    """Raise ValueError where `how` names no way of evaluating components."""
    if how not in HOWS:
        raise ValueError(unknown("way of evaluating components", how, HOWS))


def evaluate(function: Callable, arguments: tuple, axes: tuple, how: str = "auto") -> PyTree:
    """`function(*arguments)` once per component, results stacked on a leading axis M.

    axes: per leaf of `arguments`, 0 where the leaf is stacked over components and None where all share it.
    how: "vmap" one batched program, "map" a loop, "unrolled" M copies in the program. "auto" is the fastest one
    measured, see `_fastest`.
    """
    chosen = _fastest() if how == "auto" else how
    if chosen == "vmap":
        return jax.vmap(function, in_axes=axes)(*arguments)
    size = jax.tree.leaves(_map(lambda axis, leaf: None if axis is None else leaf, axes, arguments))[0].shape[0]

    def one(m: int | Array) -> PyTree:
        return function(*_map(lambda axis, leaf: leaf if axis is None else leaf[m], axes, arguments))

    if chosen == "map":
        return jax.lax.map(one, jnp.arange(size))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one(m) for m in range(size)))


def _fastest() -> str:
    """On a CPU a loop, on an accelerator one batched program.

    Measured on one CPU core, inference of 28×28 images by five encoders against one, times its time. Fully connected
    (400, 400; 5.2 times its operations), a batch of 128: map 5.7, vmap 6.6, unrolled 6.6; a batch of one: map 12, vmap
    20, unrolled 15. Convolutions, a batch of 128: map 4.8, vmap 7.4. vmap's activations of all five leave the cache.
    In training the three are within a tenth of each other when fully connected, map first.
    """
    return "map" if jax.default_backend() == "cpu" else "vmap"


def perturbed(key: PRNGKeyArray, phi: PyTree, scale: float) -> PyTree:
    """φ plus Gaussian noise of `scale` times each array's own standard deviation (derived).

    Relative to the array, so that one number fits kernels of every width; an array of equal entries, such as a
    bias at zero, stays as it is.
    """
    leaves, structure = jax.tree.flatten(phi)
    keys = jax.random.split(key, len(leaves))
    noisy = [
        leaf + scale * jnp.std(leaf) * jax.random.normal(k, leaf.shape, leaf.dtype)
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def in_trunk(path: tuple) -> bool:
    """Whether a leaf of φ at this path is a shared trunk's."""
    return any(getattr(entry, "key", None) == TRUNK for entry in path)


def _map(function: Callable, axes: PyTree, *trees: PyTree) -> PyTree:
    """`jax.tree.map` that takes None in `axes` for a leaf, and `axes` as a prefix of the trees."""

    def below(axis: int | None, *subtrees: PyTree) -> PyTree:
        return jax.tree.map(lambda *leaves: function(axis, *leaves), *subtrees)

    return jax.tree.map(below, axes, *trees, is_leaf=lambda axis: axis is None)
