"""Gaussian posteriors over the weights of the error functions, f = Wψ(x): ∏_j N(w_j; w̄_j, S_j), prior N(0, τ² I)
(eq. 6.4, derived).

Shapes: W[Z, F], one row per latent j; ψ[B, F] features. Samples of f(x_b) need only its mean w̄ψ and variance
A_j = ψᵀS_jψ (eq. 6.7, derived: local reparameterisation), never a draw of W. Every family is a `WeightPosterior`,
pure functions on a dict of parameters; costs are stated per call. Covariance factors have positive diagonals, stored as
logarithms. Equations: docs/mathematics.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_at_least
from gpvae_jax.gaussians.cholesky import cholesky_and_inverse
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import LOG_STD_BOUND

ERRORS = ("mean", "std")  # f and h: names of their weights in φ and of their entries in a posterior's info
LOG_NOISE_BOUND = 2 * LOG_STD_BOUND  # |log v| stays below it, as a posterior's log-variance does


class WeightPosterior(NamedTuple):
    """One family q(W). Weight means start at zero; `start` is the variance of each weight."""

    init: Callable[[PRNGKeyArray, int, int, float], PyTree]  # (key, F, Z, start) -> parameters
    mean: Callable[[PyTree, Array], Array]  # (parameters, ψ[B, F]) -> E f [B, Z], O(B F Z)
    variance: Callable[[PyTree, Array], Array]  # (parameters, ψ[B, F]) -> Var f [B, Z]
    kl: Callable[[PyTree, Array | float], Array]  # (parameters, τ) -> KL(q ‖ N(0, τ² I)), nats, scalar
    draw: Callable[[PyTree, PRNGKeyArray, int], Array]  # (parameters, key, S) -> W[S, Z, F]


def diagonal() -> WeightPosterior:
    """S_j diagonal. Memory 2 F Z, variance O(B F Z), KL O(F Z)."""

    def init(key: PRNGKeyArray, num_features: int, num_outputs: int, start: float) -> PyTree:
        mean = _zeros(num_outputs, num_features)
        return {"mean": mean, "log_std": jnp.full_like(mean, 0.5) * jnp.log(jnp.asarray(start, mean.dtype))}

    def variance(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
        return jnp.square(psi) @ jnp.exp(2 * params["log_std"]).T

    def kl(params: PyTree, prior_scale: Array | float) -> Float[Array, ""]:
        trace, log_det = jnp.sum(jnp.exp(2 * params["log_std"])), 2 * jnp.sum(params["log_std"])
        return _kl(params["mean"], trace, log_det, prior_scale)

    def draw(params: PyTree, key: PRNGKeyArray, num_samples: int) -> Float[Array, "S Z F"]:
        noise = _noise(key, num_samples, params["mean"])
        return params["mean"][None] + jnp.exp(params["log_std"])[None] * noise

    return WeightPosterior(init, _mean, variance, kl, draw)


def low_rank(rank: int = 8) -> WeightPosterior:
    """S_j = D_j + L_j L_jᵀ, D_j diagonal, L_j[F, R]. Memory F Z (R + 2), variance O(B F Z R), KL O(F Z R² + Z R³).

    L starts random, for at L = 0 its gradient vanishes; D and L Lᵀ share the start variance equally, on average.
    Raises ValueError where rank < 1.
    """
    check_at_least(1, rank=rank)

    def init(key: PRNGKeyArray, num_features: int, num_outputs: int, start: float) -> PyTree:
        params = diagonal().init(key, num_features, num_outputs, 0.5 * start)
        shape, dtype = (num_outputs, num_features, rank), params["mean"].dtype
        return params | {"factor": (0.5 * start / rank) ** 0.5 * jax.random.normal(key, shape, dtype)}

    def variance(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
        projected = jnp.einsum("bf,zfr->bzr", psi, params["factor"])
        return diagonal().variance(params, psi) + jnp.sum(jnp.square(projected), axis=-1)

    def kl(params: PyTree, prior_scale: Array | float) -> Float[Array, ""]:
        # log det(D + L Lᵀ) = log det D + log det(I + Lᵀ D⁻¹ L)
        scaled = params["factor"] * jnp.exp(-params["log_std"])[..., None]
        inner = jnp.eye(scaled.shape[-1], dtype=scaled.dtype)[None] + jnp.einsum("zfr,zfs->zrs", scaled, scaled)
        diagonals = jnp.diagonal(cholesky_and_inverse(inner)[0], axis1=-2, axis2=-1)
        log_det = 2 * jnp.sum(params["log_std"]) + 2 * jnp.sum(jnp.log(diagonals))
        trace = jnp.sum(jnp.exp(2 * params["log_std"])) + jnp.sum(jnp.square(params["factor"]))
        return _kl(params["mean"], trace, log_det, prior_scale)

    def draw(params: PyTree, key: PRNGKeyArray, num_samples: int) -> Float[Array, "S Z F"]:
        key_diagonal, key_factor = jax.random.split(key)
        noise = _noise(key_factor, num_samples, params["factor"][:, 0])
        return diagonal().draw(params, key_diagonal, num_samples) + jnp.einsum("zfr,szr->szf", params["factor"], noise)

    return WeightPosterior(init, _mean, variance, kl, draw)


def full() -> WeightPosterior:
    """S_j = C_j C_jᵀ, C_j lower triangular. Memory F² Z, variance O(B F² Z), KL O(F² Z): no Cholesky is ever taken."""

    def init(key: PRNGKeyArray, num_features: int, num_outputs: int, start: float) -> PyTree:
        mean = _zeros(num_outputs, num_features)
        return {"mean": mean} | _init_factor(mean, start)

    def variance(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
        return jnp.sum(jnp.square(jnp.einsum("bf,zfg->bzg", psi, cholesky_factor(params))), axis=-1)

    def kl(params: PyTree, prior_scale: Array | float) -> Float[Array, ""]:
        trace, log_det = jnp.sum(jnp.square(cholesky_factor(params))), 2 * jnp.sum(params["log_diagonal"])
        return _kl(params["mean"], trace, log_det, prior_scale)

    def draw(params: PyTree, key: PRNGKeyArray, num_samples: int) -> Float[Array, "S Z F"]:
        noise = _noise(key, num_samples, params["mean"])
        return params["mean"][None] + jnp.einsum("zfg,szg->szf", cholesky_factor(params), noise)

    return WeightPosterior(init, _mean, variance, kl, draw)


def shared() -> WeightPosterior:
    """Matrix-normal, S_j = r_j C Cᵀ with one lower-triangular C for all latents and a positive scale r_j each.

    Memory F² + F Z, variance O(B F² + B Z), KL O(F² + F Z).
    """

    def init(key: PRNGKeyArray, num_features: int, num_outputs: int, start: float) -> PyTree:
        mean = _zeros(num_outputs, num_features)
        return {"mean": mean, "log_row_std": _zeros(num_outputs)} | _init_factor(mean[0], start)

    def variance(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
        column = jnp.sum(jnp.square(psi @ cholesky_factor(params)), axis=-1)
        return column[:, None] * jnp.exp(2 * params["log_row_std"])[None]

    def kl(params: PyTree, prior_scale: Array | float) -> Float[Array, ""]:
        num_outputs, num_features = params["mean"].shape
        row = params["log_row_std"]
        trace = jnp.sum(jnp.exp(2 * row)) * jnp.sum(jnp.square(cholesky_factor(params)))
        log_det = 2 * num_features * jnp.sum(row) + 2 * num_outputs * jnp.sum(params["log_diagonal"])
        return _kl(params["mean"], trace, log_det, prior_scale)

    def draw(params: PyTree, key: PRNGKeyArray, num_samples: int) -> Float[Array, "S Z F"]:
        noise = _noise(key, num_samples, params["mean"]) * jnp.exp(params["log_row_std"])[None, :, None]
        return params["mean"][None] + jnp.einsum("fg,szg->szf", cholesky_factor(params), noise)

    return WeightPosterior(init, _mean, variance, kl, draw)


WEIGHT_POSTERIORS: dict[str, Callable[..., WeightPosterior]] = {
    "diagonal": diagonal,
    "low_rank": low_rank,
    "full": full,
    "shared": shared,
}


def weight_posterior_by_name(name: str, rank: int) -> WeightPosterior:
    """A family by name; `rank` matters to "low_rank" alone. Raises ValueError on an unknown name."""
    if name not in WEIGHT_POSTERIORS:
        raise ValueError(unknown("weight posterior", name, WEIGHT_POSTERIORS))
    make = WEIGHT_POSTERIORS[name]
    return make(rank) if name == "low_rank" else make()


def cholesky_factor(params: PyTree) -> Float[Array, "*Z F F"]:
    """C of a "full" or "shared" family: strict lower triangle of `lower`, diagonal exp(log_diagonal)."""
    diagonal = jnp.exp(params["log_diagonal"])
    eye = jnp.eye(diagonal.shape[-1], dtype=diagonal.dtype)
    return jnp.tril(params["lower"], -1) + diagonal[..., None] * jnp.broadcast_to(eye, params["lower"].shape)


def init_white_noise(num_features: int, start: Float[Array, " Z"]) -> PyTree:
    """Parameters of v(x), which starts as the constant start[Z], or the nearest one well within v's bounds."""
    bias = LOG_NOISE_BOUND * jnp.arctanh(jnp.clip(jnp.log(start) / LOG_NOISE_BOUND, -0.99, 0.99))
    return {"weight": _zeros(*start.shape, num_features), "bias": bias}


def white_noise(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
    """v(x) of the kernel τ² ψᵀψ' + v(x) δ(x, x'): log v affine in ψ, smoothly bounded (eq. 6.16, derived)."""
    raw = psi @ params["weight"].T + params["bias"][None]
    return jnp.exp(LOG_NOISE_BOUND * jnp.tanh(raw / LOG_NOISE_BOUND))


def _mean(params: PyTree, psi: Float[Array, "B F"]) -> Float[Array, "B Z"]:
    return psi @ params["mean"].T


def _kl(mean: Float[Array, "Z F"], trace: Array, log_det: Array, prior_scale: Array | float) -> Float[Array, ""]:
    """½ [(tr S + |w̄|²)/τ² − ZF − log det S + ZF log τ²] (eq. 6.6, derived); trace and log det summed over latents."""
    scale = jnp.asarray(prior_scale, mean.dtype)
    fit = (trace + jnp.sum(jnp.square(mean))) / jnp.square(scale)
    return 0.5 * (fit - mean.size - log_det + 2 * mean.size * jnp.log(scale))


def _zeros(*shape: int) -> Array:
    return jnp.zeros(shape, jnp.result_type(float))


def _noise(key: PRNGKeyArray, num_samples: int, like: Array) -> Array:
    return jax.random.normal(key, (num_samples, *like.shape), like.dtype)


def _init_factor(like: Float[Array, "*Z F"], start: float) -> PyTree:
    log_diagonal = jnp.full_like(like, 0.5) * jnp.log(jnp.asarray(start, like.dtype))
    return {"log_diagonal": log_diagonal, "lower": jnp.zeros((*like.shape, like.shape[-1]), like.dtype)}
