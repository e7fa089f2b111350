"""The Gaussian posterior N(mean, diag v + U Uᵀ), kept in these factors: nothing in it is a Z×Z matrix.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.cholesky import product
from gpvae_jax.gaussians.full import damped_cholesky
from gpvae_jax.posteriors import standard_normal_log_prob


class LowRankGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, diag v_b + U_b U_bᵀ); a draw is z = mean + √v e₁ + U e₂ with e₁ of Z and e₂ of R normals.

    Made by `from_factors`. Its density needs M = I + WᵀW, R×R, with W = U/√v, and is a sum of squares, of which
    rounding cannot make a negative number (eq. 3.11, derived).
    """

    mean: Float[Array, "B Z"]
    diagonal: Float[Array, "B Z"]  # v
    factor: Float[Array, "B Z R"]  # U
    root: Float[Array, "B R R"]  # G, M⁻¹ = Gᵀ G
    log_det: Float[Array, " B"]  # ½ log |covariance| = ½ Σ log v + ½ log |M|

    @property
    def covariance(self) -> Float[Array, "B Z Z"]:
        """Covariance diag v + U Uᵀ."""
        return jax.vmap(jnp.diag)(self.diagonal) + self.factor @ jnp.swapaxes(self.factor, -1, -2)

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Marginal variances."""
        return self.diagonal + jnp.sum(jnp.square(self.factor), axis=-1)

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z and log q(z|x), the latter from the noise itself, so that no rounding of z − mean enters."""
        size = sum(self.factor.shape[1:])
        noise = jax.random.normal(key, (num_samples, len(self.mean), size), self.mean.dtype)
        return self.place(noise), self._log_prob(*self._split(noise))

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x)."""
        own = (z - self.mean[None]) * jax.lax.rsqrt(self.diagonal)[None]
        return self._log_prob(own, jnp.zeros((*z.shape[:2], self.factor.shape[-1]), z.dtype))

    def kl_to_standard_normal(self) -> Float[Array, " B"]:
        """KL(q ‖ N(0, I)) = ½ (|mean|² + tr covariance − Z − log |covariance|), closed form (eq. 2.4)."""
        return 0.5 * jnp.sum(jnp.square(self.mean) + self.variance - 1, axis=-1) - self.log_det

    def place(self, noise: Float[Array, "S B ZR"]) -> Float[Array, "S B Z"]:
        """The draw that Z + R standard normals stand for."""
        own, shared = self._split(noise)
        return self.mean[None] + jnp.sqrt(self.diagonal)[None] * own + jnp.einsum("bir,sbr->sbi", self.factor, shared)

    def _split(self, noise: Float[Array, "S B ZR"]) -> tuple[Float[Array, "S B Z"], Float[Array, "S B R"]]:
        return noise[..., : self.mean.shape[-1]], noise[..., self.mean.shape[-1] :]

    def _log_prob(self, own: Float[Array, "S B Z"], shared: Float[Array, "S B R"]) -> Float[Array, "S B"]:
        """log q at mean + √v own + U shared: of all noise that leads there, the shortest counts.

        That is (own − W d, shared + d) with d = M⁻¹ (Wᵀ own − shared), the zero vector for the shortest itself.
        """
        whitened = _whitened(self.diagonal, self.factor)
        pull = jnp.einsum("bri,sbi->sbr", whitened, own) - shared
        away = jnp.einsum("bqr,sbq->sbr", self.root, jnp.einsum("bqr,sbr->sbq", self.root, pull))
        own = own - jnp.einsum("bri,sbr->sbi", whitened, away)
        squares = jnp.sum(jnp.square(shared + away), axis=-1)
        return standard_normal_log_prob(own) - 0.5 * squares - self.log_det[None]


def from_factors(
    mean: Float[Array, "B Z"], diagonal: Float[Array, "B Z"], factor: Float[Array, "B Z R"]
) -> LowRankGaussian:
    """N(mean, diag v + U Uᵀ), by two Cholesky factorisations of R×R matrices, once for all draws and densities.

    The first is of M itself, scaled and damped, so that it is finite at any conditioning; the second, of what that
    makes of the rows of (Wᵀ, I), which are orthonormal but for the damping, takes the damping back. M alone would lose
    half of the digits where directions are long and parallel.
    """
    whitened, identity = _whitened(diagonal, factor), jnp.eye(factor.shape[-1], dtype=mean.dtype)
    rows = jnp.concatenate([whitened, jnp.broadcast_to(identity, (len(mean), *identity.shape))], axis=-1)
    first, inverse = damped_cholesky(_products(rows))
    rows = product(inverse, rows)
    second, inverse = damped_cholesky(_products(rows))
    root = product(inverse, rows[..., mean.shape[-1] :])
    of_inner = jnp.diagonal(first, axis1=-2, axis2=-1) * jnp.diagonal(second, axis1=-2, axis2=-1)
    log_det = 0.5 * jnp.sum(jnp.log(diagonal), axis=-1) + jnp.sum(jnp.log(of_inner), axis=-1)
    return LowRankGaussian(mean, diagonal, factor, root, log_det)


def _whitened(diagonal: Float[Array, "B Z"], factor: Float[Array, "B Z R"]) -> Float[Array, "B R Z"]:
    """Wᵀ: products of its rows are the cheaper ones."""
    return jnp.swapaxes(factor, -1, -2) * jax.lax.rsqrt(diagonal)[:, None]


def _products(rows: Float[Array, "B R E"]) -> Float[Array, "B R R"]:
    return jnp.einsum("bri,bqi->brq", rows, rows)
