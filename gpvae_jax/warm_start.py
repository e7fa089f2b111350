"""Start a method from trained parameters: θ, and every part of φ that the trained method has."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from gpvae_jax.mixtures.components import TRUNK, perturbed
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

    def joined(old: PyTree, new: PyTree) -> PyTree:
        return jax.tree.map(lambda a, b: jnp.concatenate([a, b[len(a) :]]), old, new)

    shared = TRUNK in old and jax.tree.map(jnp.shape, new[TRUNK]) == jax.tree.map(jnp.shape, old[TRUNK])
    stacked = {name: value for name, value in old.items() if not (shared and name == TRUNK)}
    first = old | jax.tree.map(lambda leaf: leaf[0], stacked)
    copies = _spread(new, first, key, noise)
    grown = {"components": old | {name: joined(value, copies[name]) for name, value in stacked.items()}}
    _same_shapes(new, grown["components"], "φ['components']")
    weights = set(trained) - {"components"}
    return grown | {name: joined(trained[name], fresh[name]) if trained[name] else fresh[name] for name in weights}


def _spread(stacked: Any, trained: Any, key: PRNGKeyArray, noise: float | None) -> PyTree:
    """The trained φ as every component, noisy after the first, or as the first alone; a shared trunk stays single."""
    if "base" in stacked and "base" not in trained:
        return stacked | {"base": _spread(stacked["base"], trained, key, noise)}
    trunk = TRUNK in trained and jax.tree.map(jnp.shape, stacked[TRUNK]) == jax.tree.map(jnp.shape, trained[TRUNK])
    own = {name: value for name, value in trained.items() if not (trunk and name == TRUNK)}
    count = jax.tree.leaves({name: stacked[name] for name in own})[0].shape[0]
    first = jax.tree.map(lambda leaf: leaf[0], {name: stacked[name] for name in own})
    _same_shapes(first, own, "φ of a component")

    def component(m: int) -> PyTree:
        if m == 0:
            return own
        if noise is None:
            return jax.tree.map(lambda leaf: leaf[m], {name: stacked[name] for name in own})
        return perturbed(jax.random.fold_in(key, m), own, noise)

    grafted = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(component(m) for m in range(count)))
    return stacked | grafted | ({TRUNK: trained[TRUNK]} if trunk else {})


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
