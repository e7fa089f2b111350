"""Bayesian linear regression with a precision per example, in the square-root form that float32 can bear.

Equations: docs/mathematics.md.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


class Regression(NamedTuple):
    """Bayesian linear regression of Z targets."""

    weights: PyTree  # parameters of the "full" weight posterior, exact
    log_evidence: Float[Array, " Z"]  # log N(r; 0, τ² ΨΨᵀ + diag 1/λ), nats


def regress(
    psi: Float[Array, "N F"],
    target: Float[Array, "N Z"],
    precision: Float[Array, "N Z"],
    prior_scale: float,
    *,
    chunk_size: int = 2048,
) -> Regression:
    """q(w_j) ∝ N(w_j; 0, τ² I) ∏_i N(r_ij; w_jᵀψ_i, 1/λ_ij), targets r and precisions λ > 0 (eq. 6.19, derived).

    S_j⁻¹ = P_j = Σ_i λ_ij ψ_iψ_iᵀ + I/τ² and w̄_j = S_j Σ_i λ_ij r_ij ψ_i. One pass over the examples, O(N F² Z), as a
    running QR factor R of the rows √λ [ψ, r]: P = RᵀR is never formed, so that float32 meets the square root of its
    condition number, which many examples make large. Features are taken in reverse, because the flip of an upper
    triangular R⁻¹ is the lower triangular factor of S.
    """
    num_data, num_features = psi.shape
    chunk_size = min(chunk_size, num_data)
    chunks = -(-num_data // chunk_size)

    def chunked(a: Array) -> Array:  # filled up with zeros, rows of zero weight
        filled = jnp.zeros((chunks * chunk_size, *a.shape[1:]), a.dtype).at[:num_data].set(a)
        return filled.reshape(chunks, chunk_size, *a.shape[1:])

    features = chunked(psi[:, ::-1])
    prior = jnp.diag(jnp.full((num_features + 1,), 1 / prior_scale, psi.dtype).at[-1].set(0))

    def add(factor: Array, chunk: tuple[Array, Array, Array]) -> tuple[Array, None]:
        block, r, weight = chunk
        rows = jnp.sqrt(weight)[:, None] * jnp.concatenate([block, r[:, None]], axis=1)
        return jnp.linalg.qr(jnp.concatenate([factor, rows]), mode="r"), None

    def of_one(pair: tuple[Float[Array, " N"], Float[Array, " N"]]) -> Regression:
        r, weight = pair
        factor, _ = jax.lax.scan(add, prior, (features, chunked(r), chunked(weight)))
        return Regression(_solve(factor), _log_evidence(factor, weight, prior_scale))

    return jax.lax.map(of_one, (target.T, precision.T))


def _solve(factor: Float[Array, "F1 F1"]) -> PyTree:
    """Weight mean and covariance factor from the QR factor [R, y; 0, ρ] of the reversed problem."""
    sign = jnp.sign(jnp.diagonal(factor)[:-1])
    triangle, target = sign[:, None] * factor[:-1, :-1], sign * factor[:-1, -1]
    inverse = jax.scipy.linalg.solve_triangular(triangle, jnp.eye(len(sign), dtype=factor.dtype))
    mean = jax.scipy.linalg.solve_triangular(triangle, target)
    lower = inverse[::-1, ::-1]
    return {"mean": mean[::-1], "log_diagonal": jnp.log(jnp.diagonal(lower)), "lower": jnp.tril(lower, -1)}


def _log_evidence(factor: Float[Array, "F1 F1"], weight: Float[Array, " N"], prior_scale: float) -> Array:
    """−½ [N log 2π − Σ log λ + log det(τ² P) + ρ²], ρ² = min_w Σ λ (r − wᵀψ)² + |w|²/τ² (eq. 6.20, derived)."""
    log_det = 2 * jnp.sum(jnp.log(jnp.abs(jnp.diagonal(factor)[:-1]) * prior_scale))
    noise = jnp.sum(math.log(2 * math.pi) - jnp.log(weight))
    return -0.5 * (noise + log_det + jnp.square(factor[-1, -1]))
