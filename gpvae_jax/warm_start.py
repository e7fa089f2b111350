"""Start a method from trained parameters: θ, and every part of φ that the trained method has."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from gpvae_jax.mixtures.components import in_trunk, perturbed
from gpvae_jax.types import Params

PERTURBATION = 0.1  # of the components after the first, in units of each parameter array's standard deviation


def warm_start(
    fresh: Params, trained: Params, key: PRNGKeyArray, *, perturbation: float | None = PERTURBATION
) -> Params:
    """A method's own `fresh` start with all put in that another method's `trained` parameters can give (derived).

    θ is the trained one. φ: a method over a base ("base" in φ) gets the trained φ as its base's; of a mixture every
    component gets it, those after the first with noise (`components.perturbed`; perturbation None: they stay fresh),
    and a mixture with fewer components grows in the same way, its weights kept; a method whose φ extends the trained
    one, such as a flow on a VAE, keeps its own for what is new. So a GPVAE, a flow or SAVI over a trained VAE starts
    with the VAE's bound or close to it.
    Raises ValueError where the two do not fit.
    """
    _same_shapes(fresh.model, trained.model, "θ")
    return Params(trained.model, _graft(fresh.inference, trained.inference, key, perturbation))


def _graft(fresh: Any, trained: Any, key: PRNGKeyArray, noise: float | None) -> PyTree:
    if "base" in fresh and ("base" not in trained or set(trained) <= set(fresh["base"])):
        return fresh | {"base": _graft(fresh["base"], trained, key, noise)}
    if "components" in fresh and "components" not in trained:
        return fresh | {"components": _spread(fresh["components"], trained, key, noise)}
    if missing := sorted(set(trained) - set(fresh)):
        raise ValueError(
            f"A warm start needs a method that extends the trained one, but it has no parameters {missing}, only "
            f"{sorted(fresh)}; start from a run of its base method."
        )
    if "components" in trained:
        trained = _grown(fresh, trained, key, noise)
    for name, value in trained.items():
        _same_shapes(fresh[name], value, f"φ[{name!r}]")
    return fresh | trained


def _grown(fresh: Any, trained: Any, key: PRNGKeyArray, noise: float | None) -> Any:
    """A mixture's φ with as many components as `fresh` has: new ones near the first, with the fresh weights."""
    new, old = fresh["components"], trained["components"]
    if jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, old):
        return trained

    single = _single(new, old)
    first = jax.tree.map(lambda s, leaf: leaf if s else leaf[0], single, old)
    copies = _spread(new, first, key, noise)
    copies = {name: copies[name] for name in old}
    components = jax.tree.map(lambda s, a, b: a if s else _joined(a, b), single, old, copies)
    _same_shapes(new, components, "φ['components']")
    weights = {
        name: jax.tree.map(_joined, value, fresh[name]) if value else fresh[name]
        for name, value in trained.items()
        if name != "components"
    }
    return {"components": components} | weights


def _joined(old: jax.Array, new: jax.Array) -> jax.Array:
    """The old components and what is more of the new ones."""
    return jnp.concatenate([old, new[len(old) :]])


def _spread(stacked: Any, trained: Any, key: PRNGKeyArray, noise: float | None) -> PyTree:
    """The trained φ as every component, noisy after the first, or as the first alone; a shared trunk stays single."""
    if "base" in stacked and "base" not in trained:
        return stacked | {"base": _spread(stacked["base"], trained, key, noise)}
    there = {name: value for name, value in stacked.items() if name in trained}
    single = _single(there, trained)
    alone = {path for path, is_single in jax.tree.leaves_with_path(single) if is_single}
    first = jax.tree.map_with_path(lambda path, leaf: leaf if path in alone or not leaf.ndim else leaf[0], there)
    _same_shapes(first, trained, "φ of a component")
    own = [leaf for path, leaf in jax.tree.leaves_with_path(trained) if path not in alone]
    fresh = [leaf for path, leaf in jax.tree.leaves_with_path(there) if path not in alone]

    def component(m: int) -> list[jax.Array]:
        if m == 0:
            return own
        return [leaf[m] for leaf in fresh] if noise is None else perturbed(jax.random.fold_in(key, m), own, noise)

    each = [component(m) for m in range(len(fresh[0]))]
    grafted = map(jnp.stack, zip(*each, strict=True))
    return stacked | jax.tree.map(lambda s, leaf: leaf if s else next(grafted), single, trained)


def _single(stacked: PyTree, other: PyTree) -> PyTree:
    """For every leaf of `other` whether it is a shared trunk's, of which the components `stacked` have one as well."""
    shapes = {path: jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(stacked)}
    return jax.tree.map_with_path(lambda path, leaf: in_trunk(path) and shapes.get(path) == jnp.shape(leaf), other)


def _same_shapes(fresh: PyTree, trained: PyTree, what: str) -> None:
    wanted, got = (
        {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (fresh, trained)
    )
    for name in sorted(wanted.keys() | got.keys()):
        if wanted.get(name) != got.get(name):
            raise ValueError(
                f"A warm start needs networks of the same shapes, but {what}{name} is {wanted.get(name, 'nothing')} "
                f"here and {got.get(name, 'nothing')} in the trained run; use the same model settings in both."
            )
