"""What turns the gradient of log p(x, z) into a step: the inverse of a curvature, in the form cheapest to apply.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gpvae_jax.gaussians.family import AnyGaussian
from gpvae_jax.gaussians.full import FullGaussian, damped_cholesky, from_diagonal, from_precision
from gpvae_jax.gaussians.low_rank import from_factors
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import LatentModel


class Preconditioner(NamedTuple):
    """A covariance C = diag(variance) + factor factorᵀ, or, where `precision` is there, C = precision⁻¹
    (eq. 3.4, derived).

    C is the covariance of a Gaussian approximation of p(z|x), and what a Newton step multiplies the gradient by.
    """

    variance: Float[Array, "B Z"]
    factor: Float[Array, "B Z R"] | None = None
    precision: Float[Array, "B Z Z"] | None = None

    def direction(self, slope: Float[Array, "B Z"], prior: Float[Array, "B Z"] | None) -> Float[Array, "B Z"]:
        """(C⁻¹ + diag(prior))⁻¹ slope; prior, a diagonal precision, may be None for 0 and infinite for no step."""
        if prior is None and self.precision is None:
            step = self.variance * slope
            if self.factor is None:
                return step
            return step + jnp.einsum("bir,bjr,bj->bi", self.factor, self.factor, slope)
        if self.precision is None and self.factor is None:
            assert prior is not None
            return self.variance * slope / (1 + self.variance * prior)
        precision = self._precision()
        if prior is None:
            return _apply(from_precision(slope, precision), slope)
        # scaled by the root of 1 + prior on both sides, so that an infinite prior is a zero and not a NaN
        scale = jax.lax.rsqrt(1 + prior)
        inner = jnp.where(jnp.isinf(prior), jnp.ones_like(prior), prior * jnp.square(scale))
        scaled = precision * scale[:, :, None] * scale[:, None, :] + jax.vmap(jnp.diag)(inner)
        return scale * _apply(from_precision(slope, scaled), scale * slope)

    def gaussian(self, mean: Float[Array, "B Z"], *, full: bool) -> AnyGaussian:
        """N(mean, C), or the diagonal Gaussian with the least KL to it, of precisions diag C⁻¹ (eq. 3.6, derived)."""
        if self.precision is None and self.factor is None:
            q = DiagonalGaussian(mean, 0.5 * jnp.log(self.variance))
            return from_diagonal(q) if full else q
        if full and self.factor is not None:
            return from_factors(mean, self.variance, self.factor)
        precision = self._precision()
        if full:
            return from_precision(mean, precision)
        return DiagonalGaussian(mean, -0.5 * jnp.log(jnp.diagonal(precision, axis1=-2, axis2=-1)))

    def _covariance(self) -> Float[Array, "B Z Z"]:
        diagonal = jax.vmap(jnp.diag)(self.variance)
        return diagonal if self.factor is None else diagonal + jnp.einsum("bir,bjr->bij", self.factor, self.factor)

    def _precision(self) -> Float[Array, "B Z Z"]:
        """C⁻¹, a square by construction: a difference, as in Woodbury's identity, loses its sign to rounding."""
        if self.precision is not None:
            return self.precision
        if self.factor is None:
            return jax.vmap(jnp.diag)(1 / self.variance)
        _, root = damped_cholesky(self._covariance())
        return jnp.einsum("bki,bkj->bij", root, root)


def bounded(move: Float[Array, "B Z"], largest: float) -> Float[Array, "B Z"]:
    """The move scaled so that its root mean square over the latents is at most `largest`; never NaN."""
    size = jnp.mean(jnp.square(move), axis=-1, keepdims=True)
    finite = jnp.isfinite(size)
    shrink = largest / jnp.sqrt(jnp.maximum(jnp.where(finite, size, jnp.ones_like(size)), largest**2))
    return jnp.where(finite, move, jnp.zeros_like(move)) * shrink


def hessian(
    model: LatentModel, theta: PyTree, x: Float[Array, "B *D"], z: Float[Array, "B Z"]
) -> tuple[Float[Array, "B Z"], Float[Array, "B Z Z"]]:
    """∇ log p(x, z) and the negative Hessian −∇² log p(x, z), which `positive` makes a precision.

    Cost: Z decoder gradients' tangents.
    """

    def one(x: Array, z: Float[Array, " Z"]) -> Array:
        return model.log_likelihood(theta, x[None], z[None, None])[0, 0] + model.log_prior(theta, z)

    slope = jax.vmap(jax.grad(one, argnums=1))(x, z)
    exact = jax.vmap(jax.hessian(one, argnums=1))(x, z)
    return slope, -0.5 * (exact + jnp.swapaxes(exact, -1, -2))


@jax.custom_jvp
def positive(matrix: Float[Array, "B Z Z"]) -> Float[Array, "B Z Z"]:
    """V f(λ) Vᵀ of symmetric matrices V λ Vᵀ, f(λ) = max(|λ|, 1), 1 being the prior's curvature (eq. 3.3, derived).

    Where log p is not concave the negative Hessian is no precision; with its eigenvalues' absolute values a step
    still climbs (saddle-free Newton). Cost: an eigendecomposition, Z³.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return jnp.einsum("bik,bk,bjk->bij", vectors, jnp.maximum(jnp.abs(values), 1), vectors)


@positive.defjvp
def _(
    primals: tuple[Float[Array, "B Z Z"]], tangents: tuple[Float[Array, "B Z Z"]]
) -> tuple[Float[Array, "B Z Z"], Float[Array, "B Z Z"]]:
    """V (Γ ∘ Vᵀ dA V) Vᵀ, Γ_ij = (f(λ_i) − f(λ_j)) / (λ_i − λ_j), f′ where they meet (Daleckii and Krein).

    The derivative of `eigh` itself is infinite at equal eigenvalues, which latents that the decoder ignores have.
    """
    ((matrix,), (tangent,)) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    floored = jnp.maximum(jnp.abs(values), 1)
    apart = values[:, :, None] - values[:, None]
    size = jnp.maximum(jnp.abs(values)[:, :, None], jnp.abs(values)[:, None])
    close = jnp.abs(apart) <= jnp.sqrt(jnp.finfo(matrix.dtype).eps) * jnp.maximum(size, 1)
    slope = jnp.where(jnp.abs(values) > 1, jnp.sign(values), jnp.zeros_like(values))
    secant = (floored[:, :, None] - floored[:, None]) / jnp.where(close, jnp.ones_like(apart), apart)
    gamma = jnp.where(close, 0.5 * (slope[:, :, None] + slope[:, None]), secant)
    symmetric = 0.5 * (tangent + jnp.swapaxes(tangent, -1, -2))
    inner = gamma * jnp.einsum("bki,bkl,blj->bij", vectors, symmetric, vectors)
    out = jnp.einsum("bik,bk,bjk->bij", vectors, floored, vectors)
    return out, jnp.einsum("bik,bkl,bjl->bij", vectors, inner, vectors)


def _apply(q: FullGaussian, slope: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """The covariance of q times the slope."""
    return jnp.einsum("bij,bkj,bk->bi", q.cholesky, q.cholesky, slope)
