"""The variational Laplace autoencoder (Park et al. 2019): a full-covariance Gaussian at the posterior's mode.

Equations: docs/mathematics.md.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.gaussians.full import FullGaussian, from_diagonal, from_precision
from gpvae_jax.gaussians.gauss_newton import JACOBIANS, LocalModel, gauss_newton
from gpvae_jax.gaussians.line_search import best_factor
from gpvae_jax.methods.vae import vae
from gpvae_jax.naming import unknown
from gpvae_jax.objectives import analytic_objective
from gpvae_jax.posteriors import require_diagonal
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params


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

    Where the decoder is piecewise linear and the output Gaussian this is the piece's exact posterior (eq. 3.7, paper).
    base: any method whose posterior is a DiagonalGaussian, `vae` by default; its mean is μ_0. steps: T; with 0 no
    Laplace approximation is made and q is the base's own. halvings: each step tries the factors 1, ½, …, 2^−halvings
    in one decoder call and keeps, per example, the best, or none if all lower log p(x, z) (derived: a full step
    overshoots where the decoder bends). With 0 the factor is step_size / (t + 1) at step t, the published rule.
    jacobian: see `gauss_newton.gauss_newton`. num_samples: draws of z for the loss.

    Trained through the steps, by the exact gradient. Cost: (T + 1) Jacobians of Z decoder tangents each, so about
    2 (T + 1) Z decoder passes per example to infer, and about three times that to train: an order above SAVI.
    Raises ValueError on a setting out of range, a base with another posterior and a prior that is not N(0, I).
    """
    check_at_least(0, steps=steps, halvings=halvings)
    check_at_least(1, num_samples=num_samples)
    check_above(0, step_size=step_size)
    if jacobian not in JACOBIANS:
        raise ValueError(unknown("jacobian", jacobian, JACOBIANS))
    base = vae(model, encoder) if base is None else base

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = base.init(key, x)
        return Params(params.model, {"base": params.inference})

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[FullGaussian, Info]:
        theta = params.model
        start = require_diagonal(base.posterior(params.of("base"), key, x)[0], "vlae")
        if steps == 0:
            return from_diagonal(start), {}

        def log_joint(z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
            return model.log_likelihood(theta, x, z) + model.log_prior(theta, z)

        mode, factors = start.mean, []
        for t in range(steps):
            local = gauss_newton(model, theta, x, mode, jacobian=jacobian)
            direction = newton_direction(local)
            if halvings:
                factor = best_factor(log_joint, mode, direction, halvings)
            else:
                factor = jnp.full(mode.shape[:1], step_size / (t + 1), mode.dtype)
            mode = mode + factor[:, None] * direction
            factors.append(factor)
        local = gauss_newton(model, theta, x, mode, jacobian=jacobian)
        info = {"step_factor": jnp.stack(factors), "gradient_norm": jnp.linalg.norm(local.gradient, axis=-1)}
        return from_precision(mode, local.precision), info

    return InferenceMethod(init, posterior, analytic_objective(model, posterior, num_samples))


def newton_direction(local: LocalModel) -> Float[Array, "B Z"]:
    """P⁻¹ ∇ log p(x, z): the step to the local quadratic's maximum, by the covariance's Cholesky factor."""
    q = from_precision(local.gradient, local.precision)
    return jnp.einsum("bij,bkj,bk->bi", q.cholesky, q.cholesky, local.gradient)
