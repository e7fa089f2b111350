"""What the tests over all methods share: small networks, a small batch, and every registered method once.

`CASES` is made from `METHODS`, so a newly registered method gets every conformance test without a line here.
One that is large or slow with its default settings gets small ones in `SETTINGS`; one that leaves parameters
without a gradient on purpose says which, and why, in `NO_GRADIENT`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax.likelihoods import Likelihood, bernoulli
from gpvae_jax.methods import METHODS
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from gpvae_jax.types import InferenceMethod, LatentModel, Network

DATA_SHAPE, LATENT_DIM, WIDTH, BATCH = (4, 4, 1), 3, 6, 5

# a fixed batch of binary images x[B, *D]
X = np.random.default_rng(0).integers(0, 2, (BATCH, *DATA_SHAPE)).astype(np.float32)

# method -> small settings for its factory
SETTINGS: dict[str, dict[str, Any]] = {
    "gpvae": {"num_data": 50},
    "iaf": {"width": 8},
    "svi": {"max_steps": 5, "inner_samples": 2},
}

# method -> {beginning of a parameter's path, as in "inference/head": why its gradient is zero}
NO_GRADIENT: dict[str, dict[str, str]] = {}


class Case(NamedTuple):
    """A generative model and an inference method built on it."""

    model: LatentModel
    method: InferenceMethod


def small_encoder(data_shape: tuple[int, ...] = DATA_SHAPE) -> Network:
    """x[B, *D] -> h[B, WIDTH]; tanh, so that no unit is dead and derivatives are smooth."""
    return mlp(data_shape, (WIDTH,), activation="tanh")


def small_model(likelihood: Likelihood | None = None, data_shape: tuple[int, ...] = DATA_SHAPE) -> LatentModel:
    """A model with a one-layer decoder, Bernoulli unless told otherwise."""
    decoder = mlp((LATENT_DIM,), (WIDTH,), data_shape, activation="tanh")
    return latent_model(decoder, bernoulli() if likelihood is None else likelihood)


def build(factory: Callable[..., InferenceMethod], settings: dict[str, Any]) -> Case:
    """A method on the small model and encoder; one that asks for the number of training examples is told."""
    model = small_model()
    if "num_data" in inspect.signature(factory).parameters:
        settings = {"num_data": BATCH} | settings
    return Case(model, factory(model, small_encoder(), **settings))


def compiled(method: InferenceMethod) -> InferenceMethod:
    """The same with compiled functions: called as they are, each operation in them would be a program to compile."""
    return method._replace(posterior=jax.jit(method.posterior), loss=jax.jit(method.loss))


CASES: dict[str, Callable[[], Case]] = {
    name: partial(build, factory, SETTINGS.get(name, {})) for name, factory in METHODS.items()
}


def perturb(tree: Any, seed: int, scale: float = 0.1) -> Any:
    """Every leaf plus Gaussian noise, so that nothing that starts at exactly zero hides a broken gradient."""
    leaves, structure = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    noisy = [leaf + jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype) for leaf in leaves]
    return jax.tree.unflatten(structure, noisy)


def paths(tree: Any) -> dict[str, Any]:
    """Leaves by path, e.g. "inference/encoder/hidden/layer_0/kernel"."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    """Two trees agree, leaf by leaf, to `tolerance` relative to one plus the leaf's largest entry."""
    actual, expected = paths(actual), paths(expected)
    assert actual.keys() == expected.keys()
    for path, leaf in expected.items():
        leaf, got = np.asarray(leaf), np.asarray(actual[path])
        assert got.shape == leaf.shape, path
        difference = np.abs(got.astype(float) - leaf.astype(float))
        worst = np.max(np.where(got == leaf, 0.0, difference), initial=0.0)  # so that −inf equals itself
        assert worst <= tolerance * (1 + np.max(np.abs(leaf), initial=0.0)), f"{path} differs by {worst}"
