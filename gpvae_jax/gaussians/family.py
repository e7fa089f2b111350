"""The two Gaussian families as spaces to move in: local coordinates u around a posterior, in units of its spread.

u has the posterior's own type and shapes. A draw of the posterior at u is, in the one at u = 0, the draw of a deformed
noise: place(retract(q, u), e) = place(q, deform(u, e)) (eq. 2.6, derived). In these units the ELBO's curvature is near
1 whatever the data's scale, and no density needs a triangular solve. Equations: docs/mathematics.md.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gaussians.full import FullGaussian
from gpvae_jax.gaussians.low_rank import LowRankGaussian
from gpvae_jax.posteriors import DiagonalGaussian

Gaussian = DiagonalGaussian | FullGaussian
AnyGaussian = Gaussian | LowRankGaussian  # the last is no space to move in: its factors are not unique


def place(q: AnyGaussian, noise: Float[Array, "S B Z"]) -> Float[Array, "S B Z"]:
    """The draw of q that standard noise stands for: mean + σ e, mean + L e, or mean + √v A e."""
    if isinstance(q, LowRankGaussian):
        return q.place(noise)
    if isinstance(q, DiagonalGaussian):
        return q.mean[None] + q.std[None] * noise
    return q.mean[None] + jnp.einsum("bij,sbj->sbi", q.cholesky, noise)


def log_scale(q: Gaussian) -> Float[Array, " B"]:
    """Σ log σ, or log |L|."""
    return jnp.sum(q.log_std, axis=-1) if isinstance(q, DiagonalGaussian) else q.log_det


def deform(u: Gaussian, noise: Float[Array, "S B Z"]) -> Float[Array, "S B Z"]:
    """e ← u_mean + exp(u_log_std) e, or u_mean + M(u) e with the lower triangular M of `retract`."""
    if isinstance(u, DiagonalGaussian):
        return place(u, noise)
    return place(u._replace(cholesky=_growth(u)), noise)


def retract(q: Gaussian, u: Gaussian) -> Gaussian:
    """The Gaussian at local coordinates u; u = 0 is q itself.

    Diagonal: mean + σ u_mean, log σ + u_log_std. Full: mean + L u_mean, L M(u), where M is the strict lower part of
    u_cholesky plus the exponential of its diagonal.
    """
    if isinstance(q, DiagonalGaussian) and isinstance(u, DiagonalGaussian):
        return DiagonalGaussian(q.mean + q.std * u.mean, q.log_std + u.log_std)
    assert isinstance(q, FullGaussian) and isinstance(u, FullGaussian)  # noqa: PT018
    return FullGaussian(q.mean + jnp.einsum("bij,bj->bi", q.cholesky, u.mean), q.cholesky @ _growth(u))


def paired_noise(key: PRNGKeyArray, num_samples: int, like: Float[Array, "B Z"]) -> Float[Array, "S B Z"]:
    """Standard noise in pairs ±e, the last one alone where S is odd; `like` gives B, Z and the dtype."""
    half = jax.random.normal(key, (-(-num_samples // 2), *like.shape), like.dtype)
    return jnp.concatenate([half, -half])[:num_samples]


def matched_noise(key: PRNGKeyArray, num_samples: int, like: Float[Array, "B Z"]) -> Float[Array, "S B Z"]:
    """Standard noise in pairs ±e whose covariance over the S draws is exactly I: averages of quadratics have no error.

    `like` gives B, Z and the dtype; S must be even and at least 2 Z.
    """
    half = num_samples // 2
    columns = jax.random.normal(key, (like.shape[0], half, like.shape[1]), like.dtype)
    noise = jnp.moveaxis(jnp.linalg.qr(columns)[0], 1, 0) * math.sqrt(half)
    return jnp.concatenate([noise, -noise])


def _growth(u: FullGaussian) -> Float[Array, "B Z Z"]:
    diagonal = jnp.exp(jnp.diagonal(u.cholesky, axis1=-2, axis2=-1))
    return jnp.tril(u.cholesky, -1) + jax.vmap(jnp.diag)(diagonal)
