"""The variational Laplace autoencoder (Park et al. 2019): a full-covariance Gaussian at the posterior's mode."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.gaussians.full import FullGaussian, from_diagonal, from_precision
from gpvae_jax.gaussians.gauss_newton import JACOBIANS, LocalModel, gauss_newton
from gpvae_jax.methods.vae import vae
from gpvae_jax.naming import unknown
from gpvae_jax.objectives import analytic_loss
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params


def vlae(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    steps: int = 2,
    halvings: int = 0,
    step_size: float = 0.5,
    jacobian: str = "forward",
    num_samples: int = 1,
) -> InferenceMethod:
    """q(z|x) = N(μ_T, P(μ_T)⁻¹), P = I + JᵀHJ at a mode found by T Gauss–Newton steps from the encoder's mean.

    Where the decoder is piecewise linear and the output Gaussian this is the exact posterior of the piece (paper).
    base: any method whose posterior is a DiagonalGaussian, `vae` by default; its mean is μ_0. steps: T; with 0 no
    Laplace approximation is made and q is the base's own. halvings: each step tries the factors 1, ½, …, 2^−halvings
    in one decoder call and keeps, per example, the best, or none if all lower log p(x, z) (derived: a full step
    overshoots where the decoder bends). With 0 the factor is step_size / (t + 1) at step t, the published rule.
    jacobian: see `gauss_newton.gauss_newton`. num_samples: draws of z for the loss.

    Trained through the steps, by the exact gradient. Cost: (T + 1) Jacobians of Z decoder tangents each, so about
    2 (T + 1) Z decoder passes per example to infer, and about three times that to train: an order above SAVI.
    """
    if steps < 0 or halvings < 0:
        raise ValueError(f"vlae expects steps ≥ 0 and halvings ≥ 0, got {steps} and {halvings}.")
    if jacobian not in JACOBIANS:
        raise ValueError(unknown("jacobian", jacobian, JACOBIANS))
    base = vae(model, encoder) if base is None else base

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = base.init(key, x)
        return Params(params.model, {"base": params.inference})

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[FullGaussian, Info]:
        theta = params.model
        start, _ = base.posterior(Params(theta, params.inference["base"]), key, x)
        if steps == 0:
            return from_diagonal(start), {}
        mode, factors = start.mean, []
        for t in range(steps):
            local = gauss_newton(model, theta, x, mode, jacobian=jacobian)
            direction = newton_direction(local)
            if halvings:
                factor = _best_factor(model, theta, x, mode, direction, halvings)
            else:
                factor = jnp.full(mode.shape[:1], step_size / (t + 1), mode.dtype)
            mode = mode + factor[:, None] * direction
            factors.append(factor)
        local = gauss_newton(model, theta, x, mode, jacobian=jacobian)
        info = {"step_factor": jnp.stack(factors), "gradient_norm": jnp.linalg.norm(local.gradient, axis=-1)}
        return from_precision(mode, local.precision), info

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = posterior(params, key_posterior, x)
        return analytic_loss(model, params.model, q, key_z, x, num_samples, beta)

    return InferenceMethod(init, posterior, loss)


def newton_direction(local: LocalModel) -> Float[Array, "B Z"]:
    """P⁻¹ ∇ log p(x, z): the step to the local quadratic's maximum, by the covariance's Cholesky factor."""
    q = from_precision(local.gradient, local.precision)
    return jnp.einsum("bij,bkj,bk->bi", q.cholesky, q.cholesky, local.gradient)


def _best_factor(
    model: LatentModel, theta: PyTree, x: Array, z: Array, direction: Array, halvings: int
) -> Float[Array, " B"]:
    """The factor in {1, ½, …, 2^−halvings, 0} with the greatest log p(x, z + factor · direction), a constant."""
    theta, z, direction = jax.lax.stop_gradient((theta, z, direction))
    factors = jnp.concatenate([0.5 ** jnp.arange(halvings + 1, dtype=z.dtype), jnp.zeros(1, z.dtype)])
    tried = z[None] + factors[:, None, None] * direction[None]
    value = model.log_likelihood(theta, x, tried) + model.log_prior(theta, tried)
    # a NaN never wins
    return factors[jnp.argmax(jnp.where(jnp.isnan(value), -jnp.inf, value), axis=0)]
