"""The full-covariance Gaussian posterior N(mean, L Lᵀ), L lower triangular with a positive diagonal.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.cholesky import cholesky_and_inverse, inverse_of_lower
from gpvae_jax.posteriors import DiagonalGaussian, standard_normal_log_prob


class FullGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, L_b L_bᵀ)."""

    mean: Float[Array, "B Z"]
    cholesky: Float[Array, "B Z Z"]  # L

    @property
    def covariance(self) -> Float[Array, "B Z Z"]:
        """Covariance L Lᵀ."""
        return self.cholesky @ jnp.swapaxes(self.cholesky, -1, -2)

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Marginal variances, the diagonal of L Lᵀ."""
        return jnp.sum(jnp.square(self.cholesky), axis=-1)

    @property
    def log_det(self) -> Float[Array, " B"]:
        """log |L| = ½ log |covariance|."""
        return jnp.sum(jnp.log(jnp.diagonal(self.cholesky, axis1=-2, axis2=-1)), axis=-1)

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z = mean + L e with e ~ N(0, I); log q from e itself."""
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        z = self.mean[None] + jnp.einsum("bij,sbj->sbi", self.cholesky, noise)
        return z, standard_normal_log_prob(noise) - self.log_det[None]

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x), by one triangular inverse per example for all its samples."""
        noise = jnp.einsum("bij,sbj->sbi", inverse_of_lower(self.cholesky), z - self.mean[None], precision="highest")
        return standard_normal_log_prob(noise) - self.log_det[None]

    def kl_to_standard_normal(self) -> Float[Array, " B"]:
        """KL(q ‖ N(0, I)) = ½ (|mean|² + tr L Lᵀ − Z) − log |L|, closed form (eq. 2.4)."""
        quadratic = jnp.sum(jnp.square(self.mean) + self.variance - 1, axis=-1)
        return 0.5 * quadratic - self.log_det


def from_diagonal(q: DiagonalGaussian) -> FullGaussian:
    """The same distribution with a diagonal L."""
    return FullGaussian(q.mean, jax.vmap(jnp.diag)(q.std))


def from_covariance(mean: Float[Array, "B Z"], covariance: Float[Array, "B Z Z"]) -> FullGaussian:
    """N(mean, C) of a symmetric positive definite C, by one Cholesky factorisation.

    Scaled and damped as in `from_precision`: directions in which the scaled C is flatter than the damping come out
    wider than they are.
    """
    return FullGaussian(mean, damped_cholesky(covariance)[0])


def from_precision(mean: Float[Array, "B Z"], precision: Float[Array, "B Z Z"]) -> FullGaussian:
    """N(mean, P⁻¹) of a symmetric positive definite P, by one Cholesky factorisation and one triangular inverse.

    With rows and columns reversed, P = U Uᵀ for an upper triangular U, and L = U⁻ᵀ is the lower factor of P⁻¹
    (eq. 3.8): no inverse is formed and factorised again. P is first scaled to a unit diagonal, where the rounding
    error of the factorisation is of order Z·eps whatever the units of z; a damping of 4 Z·eps on that diagonal
    (1e-5 in float32 at Z = 20) covers it. So factors are finite at any conditioning, and directions in which the
    scaled P is flatter than the damping come out narrower than they are.
    """
    _, inverse = damped_cholesky(jnp.flip(precision, (-2, -1)))
    return FullGaussian(mean, jnp.swapaxes(jnp.flip(inverse, (-2, -1)), -1, -2))


def damped_cholesky(matrix: Float[Array, "B Z Z"]) -> tuple[Float[Array, "B Z Z"], Float[Array, "B Z Z"]]:
    """The lower factor of a symmetric positive definite matrix, scaled to a unit diagonal and damped by 4 Z·eps there,
    and the factor's inverse.
    """
    scale = jnp.sqrt(jnp.diagonal(matrix, axis1=-2, axis2=-1))
    unit = matrix / (scale[:, :, None] * scale[:, None, :])
    size = matrix.shape[-1]
    damping = 4 * size * float(jnp.finfo(matrix.dtype).eps)
    lower, inverse = cholesky_and_inverse(unit + damping * jnp.eye(size, dtype=matrix.dtype)[None])
    return lower * scale[:, :, None], inverse / scale[:, None, :]
