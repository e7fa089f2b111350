"""The Gaussian posterior N(mean, diag v + U Uᵀ), kept in these factors: nothing in it is a Z×Z matrix.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.full import damped_cholesky
from gpvae_jax.posteriors import standard_normal_log_prob


class LowRankGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, diag v_b + U_b U_bᵀ); a draw is z = mean + √v e₁ + U e₂ with e₁ of Z and e₂ of R normals.

    Its density needs a factor of M = I + WᵀW, R×R, with W = U/√v, and is a sum of squares, of which rounding cannot
    make a negative number (eq. 3.11, derived).
    """

    mean: Float[Array, "B Z"]
    diagonal: Float[Array, "B Z"]  # v
    factor: Float[Array, "B Z R"]  # U

    @property
    def covariance(self) -> Float[Array, "B Z Z"]:
        """Covariance diag v + U Uᵀ."""
        return jax.vmap(jnp.diag)(self.diagonal) + self.factor @ jnp.swapaxes(self.factor, -1, -2)

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Marginal variances."""
        return self.diagonal + jnp.sum(jnp.square(self.factor), axis=-1)

    @property
    def log_det(self) -> Float[Array, " B"]:
        """½ log |covariance| = ½ Σ log v + ½ log |M|."""
        return self._log_det(self._inner()[-1])

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z and log q(z|x), the latter from the noise itself, so that no rounding of z − mean enters."""
        size = sum(self.factor.shape[1:])
        noise = jax.random.normal(key, (num_samples, len(self.mean), size), self.mean.dtype)
        return self.place(noise), self._log_prob(*self._split(noise))

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x), by one R×R factorisation per example for all its samples."""
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

    def _whitened(self) -> Float[Array, "B R Z"]:
        """Wᵀ: products of its rows are the cheaper ones."""
        return jnp.swapaxes(self.factor, -1, -2) * jax.lax.rsqrt(self.diagonal)[:, None]

    def _inner(self) -> tuple[Float[Array, "B R R"], Float[Array, " B"]]:
        """G with M⁻¹ = Gᵀ G, and ½ log |M|.

        From two Cholesky factorisations, the first of M itself, scaled and damped, so that it is finite at any
        conditioning; the second, of what that makes of the rows of (Wᵀ, I), which are orthonormal but for the
        damping, takes the damping back. M alone would lose half of the digits where directions are long and parallel.
        """
        whitened = self._whitened()
        identity = jnp.eye(self.factor.shape[-1], dtype=self.mean.dtype)
        rows = jnp.concatenate([whitened, jnp.broadcast_to(identity, (len(self.mean), *identity.shape))], axis=-1)
        first = damped_cholesky(_products(rows))
        rows = _solve_lower(first, rows)
        second = damped_cholesky(_products(rows))
        diagonal = jnp.diagonal(first, axis1=-2, axis2=-1) * jnp.diagonal(second, axis1=-2, axis2=-1)
        return _solve_lower(second, rows[..., self.mean.shape[-1] :]), jnp.sum(jnp.log(diagonal), axis=-1)

    def _log_det(self, of_inner: Float[Array, " B"]) -> Float[Array, " B"]:
        return 0.5 * jnp.sum(jnp.log(self.diagonal), axis=-1) + of_inner

    def _log_prob(self, own: Float[Array, "S B Z"], shared: Float[Array, "S B R"]) -> Float[Array, "S B"]:
        """log q at mean + √v own + U shared: of all noise that leads there, the shortest counts.

        That is (own − W d, shared + d) with d = M⁻¹ (Wᵀ own − shared), the zero vector for the shortest itself.
        """
        whitened, (root, of_inner) = self._whitened(), self._inner()
        pull = jnp.einsum("bri,sbi->sbr", whitened, own) - shared
        away = jnp.einsum("bqr,sbq->sbr", root, jnp.einsum("bqr,sbr->sbq", root, pull))
        own = own - jnp.einsum("bri,sbr->sbi", whitened, away)
        squares = jnp.sum(jnp.square(shared + away), axis=-1)
        return standard_normal_log_prob(own) - 0.5 * squares - self._log_det(of_inner)[None]


def _products(rows: Float[Array, "B R E"]) -> Float[Array, "B R R"]:
    return jnp.einsum("bri,bqi->brq", rows, rows)


def _solve_lower(factor: Float[Array, "B R R"], rows: Float[Array, "B R E"]) -> Float[Array, "B R E"]:
    """factor⁻¹ rows by substitution, written out: XLA's own solve has been seen to wait for ever on two CPU threads."""
    solved: list[Array] = []
    for i in range(rows.shape[1]):
        known = jnp.stack(solved, axis=1) if solved else rows[:, :0]
        rest = jnp.einsum("bj,bje->be", factor[:, i, :i], known)
        solved.append((rows[:, i] - rest) / factor[:, i, i, None])
    return jnp.stack(solved, axis=1)
