"""Gradient and Gauss–Newton curvature of log p_θ(x, z) in z, from nothing but a `LatentModel`'s two functions.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import require_standard_normal_prior
from gpvae_jax.types import LatentModel

JACOBIANS = ("forward", "reverse")


class LocalModel(NamedTuple):
    """log p_θ(x, z) near one z per example, to second order; the prior N(0, I) is part of it."""

    gradient: Float[Array, "B Z"]  # ∇_z log p_θ(x, z)
    precision: Float[Array, "B Z Z"]  # I + Gauss–Newton curvature of −log p_θ(x|z), symmetric, at least I


def gauss_newton(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    z: Float[Array, "B Z"],
    *,
    jacobian: str = "forward",
) -> LocalModel:
    """The gradient and I + JᵀHJ, J the Jacobian of the decoder's output, H the likelihood's Hessian there.

    Why (eq. 3.2, derived): with p(x|η) = exp(x·η − A(η) + h(x)) and η(z) the decoder's natural parameter, ∂_x log p =
    η + h'(x) and E[x|z] = A'(η), so that JᵀHJ = (∂_z η)ᵀ ∂_z E[x|z] = (∂_z ∂_x log p)ᵀ (∂_z E[x|z]). Both factors come
    from `log_likelihood` and `mean`; no likelihood needs to know its Hessian. It is exact for Bernoulli and Gaussian
    outputs. The discretised logistic is no such family: there it is the observed Hessian (a location family's
    ∂_x = −∂_output) with each pixel weighed by its chance not to be clipped, smaller than JᵀHJ and no less safe.

    jacobian: "forward" takes the Z columns by Jacobian-vector products, vmapped; "reverse" gets each product from two
    reverse passes, for decoders whose custom gradients have no forward mode. Cost per example: Z decoder tangent
    passes (about 2 Z forward passes, the double for "reverse") and Z² D for the product. Raises ValueError on
    another name, or where the prior is not N(0, I).
    """
    require_standard_normal_prior(model, "The Gauss–Newton precision")
    if jacobian not in JACOBIANS:
        raise ValueError(unknown("jacobian", jacobian, JACOBIANS))

    def log_joint(z: Float[Array, "B Z"]) -> Float[Array, ""]:
        return jnp.sum(model.log_likelihood(theta, x, z[None])) + jnp.sum(model.log_prior(theta, z))

    def outputs(z: Float[Array, "B Z"]) -> tuple[Float[Array, "B *D"], Float[Array, "B *D"]]:
        slope = jax.grad(lambda data: jnp.sum(model.log_likelihood(theta, data, z[None])))(x)
        return slope, model.mean(theta, z)

    push = _pushforward(outputs, z, jacobian)
    directions = jnp.broadcast_to(jnp.eye(z.shape[-1], dtype=z.dtype)[:, None], (z.shape[-1], *z.shape))
    natural, mean = jax.vmap(push)(directions)  # [Z, B, *D] each
    flat = (*natural.shape[:2], -1)
    curvature = jnp.einsum("ibn,jbn->bij", natural.reshape(flat), mean.reshape(flat))
    curvature = 0.5 * (curvature + jnp.swapaxes(curvature, -1, -2))  # symmetric up to rounding before
    return LocalModel(jax.grad(log_joint)(z), curvature + jnp.eye(z.shape[-1], dtype=z.dtype)[None])


def _pushforward(function, z: Array, jacobian: str):
    """v -> ∂function(z) v."""
    if jacobian == "forward":
        return jax.linearize(function, z)[1]
    out, pull = jax.vjp(function, z)
    zeros = jax.tree.map(jnp.zeros_like, out)
    _, push = jax.vjp(pull, zeros)  # `pull` is linear, and its transpose is the product sought
    return lambda v: push((v,))[0]
