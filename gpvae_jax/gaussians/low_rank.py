"""The Gaussian posterior N(mean, diag v + U Uᵀ), kept in these factors: nothing in it is a Z×Z matrix.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.cholesky import cholesky_and_inverse, inverse_of_lower, lower_half, product
from gpvae_jax.gaussians.full import damped_cholesky
from gpvae_jax.posteriors import standard_normal_log_prob

ONCE = 1e-4  # the rounding error, relative to I, with which one factorisation of I + WᵀW is good enough


class LowRankGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, diag v_b + U_b U_bᵀ); a draw is z = mean + √v A e with e of Z normals.

    Made by `from_factors`. With W = U/√v and the R×R lower triangular L, L Lᵀ = I + WᵀW, the matrix
    A = I + W (I + L)⁻¹ Wᵀ is a root of I + W Wᵀ and has the determinant of L (eq. 3.12, derived). The density of a z
    whose noise is not known is a sum of squares, of which rounding cannot make a negative number (eq. 3.11, derived).
    In float32, directions that are parallel and 1e3 times longer than √v cost a tenth of a nat there, and more
    directions than latents, 1e4 times longer, nats; a draw's own density stays within a few hundredths.
    """

    mean: Float[Array, "B Z"]
    diagonal: Float[Array, "B Z"]  # v
    factor: Float[Array, "B Z R"]  # U
    lower: Float[Array, "B R R"]  # L
    inner: Float[Array, "B R R"]  # (I + L)⁻¹
    inverse: Float[Array, "B R R"]  # L⁻¹

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
        """½ log |covariance| = ½ Σ log v + log |L|."""
        of_lower = jnp.log(jnp.diagonal(self.lower, axis1=-2, axis2=-1))
        return 0.5 * jnp.sum(jnp.log(self.diagonal), axis=-1) + jnp.sum(of_lower, axis=-1)

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z and log q(z|x), the latter from the noise itself, so that no rounding of z − mean enters."""
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        return self.place(noise), standard_normal_log_prob(noise) - self.log_det[None]

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x), from the shortest of all noise (e₁, e₂) with z = mean + √v (e₁ + W e₂)."""
        whitened = _whitened(self.diagonal, self.factor)
        own = (z - self.mean[None]) * jax.lax.rsqrt(self.diagonal)[None]
        shared = jnp.zeros((*z.shape[:2], self.factor.shape[-1]), z.dtype)
        for _ in range(2):  # the second takes back what rounding did to the first where directions are parallel
            pull = _contract("bri,sbi->sbr", whitened, own) - shared
            away = _contract("bqr,sbq->sbr", self.inverse, _contract("bqr,sbr->sbq", self.inverse, pull))
            own, shared = own - _contract("bri,sbr->sbi", whitened, away), shared + away
        return standard_normal_log_prob(own) - 0.5 * jnp.sum(jnp.square(shared), axis=-1) - self.log_det[None]

    def kl_to_standard_normal(self) -> Float[Array, " B"]:
        """KL(q ‖ N(0, I)) = ½ (|mean|² + tr covariance − Z − log |covariance|), closed form (eq. 2.4)."""
        return 0.5 * jnp.sum(jnp.square(self.mean) + self.variance - 1, axis=-1) - self.log_det

    def place(self, noise: Float[Array, "S B Z"]) -> Float[Array, "S B Z"]:
        """The draw that standard normals stand for."""
        along = _contract("bri,sbi->sbr", _whitened(self.diagonal, self.factor), noise)
        along = _contract("bqr,sbr->sbq", self.inner, along)
        own = jnp.sqrt(self.diagonal)[None] * noise
        return self.mean[None] + own + _contract("bir,sbr->sbi", self.factor, along)


def from_factors(
    mean: Float[Array, "B Z"], diagonal: Float[Array, "B Z"], factor: Float[Array, "B Z R"]
) -> LowRankGaussian:
    """N(mean, diag v + U Uᵀ), by one or two Cholesky factorisations of R×R matrices, once for all draws and densities.

    Costs are linear in Z.
    """
    whitened = _whitened(diagonal, factor)
    lower = _lower(whitened)
    inner = inverse_of_lower(jnp.eye(lower.shape[-1], dtype=mean.dtype)[None] + lower)
    return LowRankGaussian(mean, diagonal, factor, lower, inner, inverse_of_lower(lower))


@jax.custom_jvp
def _lower(whitened: Float[Array, "B R Z"]) -> Float[Array, "B R R"]:
    """L, L Lᵀ = I + WᵀW; dL = L Φ(K + Kᵀ), K = (L⁻¹ dWᵀ) (L⁻¹ Wᵀ)ᵀ, with Φ `cholesky.lower_half` (derived)."""
    return _factorised(whitened)


@_lower.defjvp
def _(
    primals: tuple[Float[Array, "B R Z"]], tangents: tuple[Float[Array, "B R Z"]]
) -> tuple[Float[Array, "B R R"], Float[Array, "B R R"]]:
    ((whitened,), (tangent,)) = primals, tangents
    lower = _lower(whitened)
    inverse = inverse_of_lower(lower)
    inner = product(product(inverse, tangent), jnp.swapaxes(product(inverse, whitened), -1, -2))
    return lower, product(lower, lower_half(inner + jnp.swapaxes(inner, -1, -2)))


@jax.custom_batching.custom_vmap
def _factorised(whitened: Float[Array, "B R Z"]) -> Float[Array, "B R R"]:
    """In one factorisation, or, where any matrix in the batch is long enough to lose digits in it, in two."""
    is_short = jnp.max(jnp.sum(jnp.square(whitened), axis=(-2, -1)), initial=0) * jnp.finfo(whitened.dtype).eps < ONCE
    return jax.lax.cond(is_short, _in_one, _in_two, whitened)


@_factorised.def_vmap
def _(size: int, mapped: list[bool], whitened: Float[Array, "V B R Z"]) -> tuple[Float[Array, "V B R R"], bool]:
    """One batch again: of a condition mapped over, both branches would be computed."""
    lower = _factorised(whitened.reshape(-1, *whitened.shape[-2:]))
    return lower.reshape(*whitened.shape[:2], *lower.shape[-2:]), True


def _in_one(whitened: Float[Array, "B R Z"]) -> Float[Array, "B R R"]:
    return cholesky_and_inverse(jnp.eye(whitened.shape[-2], dtype=whitened.dtype)[None] + _products(whitened))[0]


def _in_two(whitened: Float[Array, "B R Z"]) -> Float[Array, "B R R"]:
    """L as a product of two factors, finite at any conditioning.

    Directions that are long and parallel would lose half of their digits in I + WᵀW. The first factor is that of this
    matrix, scaled and damped; the second, of what the first makes of the rows of (Wᵀ, I), which are orthonormal but
    for the damping, takes the damping back.
    """
    batch, rank, _ = whitened.shape
    identity = jnp.broadcast_to(jnp.eye(rank, dtype=whitened.dtype), (batch, rank, rank))
    rows = jnp.concatenate([whitened, identity], axis=-1)
    first, inverse = damped_cholesky(_products(rows))
    second, _ = damped_cholesky(_products(product(inverse, rows)))
    return product(first, second)


def _whitened(diagonal: Float[Array, "B Z"], factor: Float[Array, "B Z R"]) -> Float[Array, "B R Z"]:
    """Wᵀ: products of its rows are the cheaper ones."""
    return jnp.swapaxes(factor, -1, -2) * jax.lax.rsqrt(diagonal)[:, None]


def _contract(subscripts: str, *operands: Array) -> Array:
    """In the operands' own precision on every device."""
    return jnp.einsum(subscripts, *operands, precision="highest")


def _products(rows: Float[Array, "B R E"]) -> Float[Array, "B R R"]:
    return _contract("bri,bqi->brq", rows, rows)
