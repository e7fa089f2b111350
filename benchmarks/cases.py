"""What is measured: the library's methods with their default networks on 28×28 images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gpvae_jax import likelihoods
from gpvae_jax.build import build_method, build_model
from gpvae_jax.config import Config, ModelConfig
from gpvae_jax.types import InferenceMethod, LatentModel, Params

SHAPE, LATENTS, NUM_DATA = (28, 28, 1), 20, 50_000
ROUND = 50  # steps of svi, one round of its loop: untrained parameters would never let it stop by itself
FIXED = {"svi": (f"max_steps={ROUND}",)}
TRIPS = 1  # of that loop, the only `while` there is


class Case(NamedTuple):
    """A generative model and an inference method on it, with untrained parameters, on which latency does not depend."""

    model: LatentModel
    method: InferenceMethod
    params: Params


def case(row: str, architecture: str = "mlp", latents: int = LATENTS, **settings: Any) -> Case:
    """The case of a row NAME:setting=value:…; settings: of the networks, as for `ModelConfig`."""
    name, *own = row.split(":")
    networks = ModelConfig(latent_dim=latents, architecture=architecture, **settings)
    model, encoder = build_model(networks, likelihoods.bernoulli(), SHAPE)
    config = Config(method=name, settings=(*FIXED.get(name, ()), *own))
    method = build_method(config, model, encoder, num_data=NUM_DATA)
    return Case(model, method, jax.jit(method.init)(jax.random.key(1), images(16)))


def images(batch: int) -> Float[Array, "B 28 28 1"]:
    """Binary images."""
    return jax.random.bernoulli(jax.random.key(0), 0.2, (batch, *SHAPE)).astype(jnp.float32)


def grey_images(count: int) -> np.ndarray:
    """Images as they are stored: uint8[N, 28, 28, 1]."""
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE), np.uint8)


def cast(tree: PyTree, dtype: str) -> PyTree:
    """Every floating leaf in `dtype`."""

    def one(leaf: Array) -> Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def posterior_call(method: InferenceMethod):
    """q(z|x) of a batch and nothing else: those arrays of it that are computed, not the parameters it carries along."""

    def call(params: Params, key: Any, x: Array) -> list[Array]:
        q, _ = method.posterior(params, key, x)
        given = {id(leaf) for leaf in jax.tree.leaves(params)}
        return [leaf for leaf in jax.tree.leaves(q) if id(leaf) not in given]

    return call
