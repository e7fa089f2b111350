"""The features ψ(x) of a deep linear kernel k(x, x') = τ² ψᵀψ' (eq. 6.2, paper), and the Gaussian posterior whose
errors it models. Equations: docs/mathematics.md."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.networks import check_encoder, linear
from gpvae_jax.posteriors import DiagonalGaussian, diagonal_gaussian, require_diagonal
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params

TINY = 1e-12  # squared norm below which unit features fade to zero: a network whose units are all off


class Encoding(NamedTuple):
    """A base posterior and features, from one evaluation of the encoder where they share it."""

    init: Callable[[PRNGKeyArray], PyTree]  # φ["features"]; empty where the encoder's features are used as they are
    apply: Callable[[Params, PRNGKeyArray, Array], tuple[DiagonalGaussian, Info, Array]]  # -> q, info, ψ[B, F]
    width: int  # F


def encode_with_features(
    model: LatentModel,
    encoder: Network,
    base: InferenceMethod | None,
    feature_network: Network | None,
    features: int,
    own_features: bool,
    unit_features: bool = False,
) -> Encoding:
    """The encoding that `gpvae`'s arguments of these names describe; φ holds {"base": …, "features": …}.

    ψ is the features' scaled by 1/√F, or with unit_features by their norm.

    Raises ValueError where the features of one example are no vector or their network expects other data, and in
    use where the base's posterior is no `DiagonalGaussian`.
    """
    own = feature_network
    if own is None and (own_features or base is not None):
        own = encoder
    check_encoder(encoder if own is None else own, model.data_shape, "encoder" if own is None else "feature network")
    base_posterior = _vae_with_hidden(model, encoder) if base is None else _without_hidden(base)
    num_hidden = (encoder if own is None else own).out_shape[0]
    projection = linear(num_hidden, features) if features else None
    width = features or num_hidden

    def init(key: PRNGKeyArray) -> PyTree:
        key_network, key_projection = jax.random.split(key)
        phi = {} if own is None else {"network": own.init(key_network)}
        return phi if projection is None else phi | {"projection": projection.init(key_projection)}

    def apply(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]
    ) -> tuple[DiagonalGaussian, Info, Float[Array, "B F"]]:
        phi = params.inference
        q, info, psi = base_posterior(params.of("base"), key, x)
        if own is not None:
            psi = own.apply(phi["features"]["network"], x)
        if projection is not None:
            psi = projection.apply(phi["features"]["projection"], psi)
        if unit_features:
            return q, info, psi * jax.lax.rsqrt(jnp.sum(jnp.square(psi), axis=-1, keepdims=True) + TINY)
        return q, info, psi / math.sqrt(width)

    return Encoding(init, apply, width)


def _vae_with_hidden(model: LatentModel, encoder: Network) -> Callable:
    """`vae`'s posterior on `vae`'s parameters, with the encoder's features h[B, H] beside it."""
    head = linear(encoder.out_shape[-1], 2 * model.latent_dim)

    def apply(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[DiagonalGaussian, Info, Array]:
        hidden = encoder.apply(params.inference["encoder"], x)
        return diagonal_gaussian(head.apply(params.inference["head"], hidden)), {}, hidden

    return apply


def _without_hidden(base: InferenceMethod) -> Callable:
    def apply(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[DiagonalGaussian, Info, None]:
        q, info = base.posterior(params, key, x)
        return require_diagonal(q, "What corrects or refines a posterior"), info, None

    return apply
