"""The weight posterior of a GPVAE in closed form, from a trained base and per-example optima (derived).

To second order at its own optimum (μ*, σ*) the ELBO of example i is, up to a constant,
−½ Σ_j λ_ij (μ_j − μ*_ij)² − ½ Σ_j γ_ij (σ_j − σ*_ij)² (eq. 6.17, derived: the diagonal of its curvature, as the rows
of W are independent).
With μ = m + Wψ and σ = s + Uψ that is Bayesian linear regression of the residuals μ* − m and σ* − s on ψ. White noise
v(x) in the kernel adds to each residual's variance and is fitted by marginal likelihood, by EM.
Equations: docs/mathematics.md.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.gaussians.per_example import optimize
from gpvae_jax.gp.regression import Regression, regress
from gpvae_jax.gp.weights import full, init_white_noise, white_noise
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import Info, LatentModel, Params


class Optima(NamedTuple):
    """The best diagonal Gaussian of each example, and minus the ELBO's second derivative there."""

    mean: Float[Array, "N Z"]  # μ*
    std: Float[Array, "N Z"]  # σ*
    mean_precision: Float[Array, "N Z"]  # λ = −∂²L/∂μ²
    std_precision: Float[Array, "N Z"]  # γ = −∂²L/∂σ²


class Laplace(NamedTuple):
    """What `laplace` fitted."""

    params: Params
    mean_log_evidence: Float[Array, " Z"]  # nats; comparable over τ, and with and without white noise
    std_log_evidence: Float[Array, " Z"]


def optima(q: DiagonalGaussian) -> Optima:
    """Curvatures of per-example optima q: λ = 1/σ*², γ = 2/σ*² (eq. 6.18, derived).

    λ is exact: σ*² = −1 / E_q[∂²log p/∂z²] is the ELBO's own stationarity in σ, and ∂²L/∂μ² = E_q[∂²log p/∂z²]. γ
    takes that expectation not to change with σ (Gauss–Newton): ∂²L/∂σ² = E_q[∂²log p/∂z²] − 1/σ². Both are positive.
    """
    precision = jnp.exp(-2 * q.log_std)
    return Optima(q.mean, q.std, precision, 2 * precision)


def find_optima(
    model: LatentModel,
    theta: PyTree,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    start: DiagonalGaussian,
    *,
    max_steps: int = 1000,
    learning_rate: float = 0.1,
    num_samples: int = 8,
) -> Optima:
    """`optima` of a batch, by gradient ascent on each example's ELBO from `start`; pure, to be jitted and batched over.

    learning_rate: Adam's, in posterior standard deviations. See `per_example.optimize`.
    """
    found = optimize(
        model,
        theta,
        x,
        start,
        key,
        optax.adam(learning_rate),
        max_steps=max_steps,
        num_samples=num_samples,
        eval_samples=1,
    )
    assert isinstance(found.posterior, DiagonalGaussian)  # the family of `start` is the one searched
    return optima(found.posterior)


def regress_with_noise(
    psi: Float[Array, "N F"],
    residual: Float[Array, "N Z"],
    precision: Float[Array, "N Z"],
    prior_scale: float,
    *,
    rounds: int = 10,
    steps: int = 100,
    learning_rate: float = 0.05,
    chunk_size: int = 2048,
) -> tuple[Regression, PyTree]:
    """`regress` with white noise: r_i ~ N(Wψ_i, 1/λ_i + v(x_i)), log v affine in ψ, by `rounds` of EM
    (eq. 6.21, derived).

    E: the weight posterior given v. M: `steps` of Adam on E_{q(W)} Σ_i log N(r_i; Wψ_i, 1/λ_i + v(x_i)) less
    ½ |weights of log v|², a standard normal prior, without which v runs away where few examples meet many features.
    v starts as the constant that explains the residuals' mean square. Returns the regression and v's parameters
    (`white_noise`).
    """
    family = full()
    excess = jnp.mean(jnp.square(residual) - 1 / precision, axis=0)
    start = jnp.maximum(excess, 1e-2 * jnp.mean(jnp.square(residual), axis=0) + 1e-6)
    fit = partial(regress, psi, residual, prior_scale=prior_scale, chunk_size=chunk_size)

    def weighted(noise: PyTree) -> Regression:
        return fit(precision=1 / (1 / precision + white_noise(noise, psi)))

    def em_round(noise: PyTree, _: None) -> tuple[PyTree, None]:
        weights = weighted(noise).weights
        spread = jnp.square(residual - family.mean(weights, psi)) + family.variance(weights, psi)

        def negative(noise: PyTree) -> Array:
            total = 1 / precision + white_noise(noise, psi)
            prior = jnp.sum(jnp.square(noise["weight"])) / len(psi)
            return 0.5 * (jnp.mean(jnp.sum(jnp.log(total) + spread / total, axis=-1)) + prior)

        return _minimize(negative, noise, steps, learning_rate), None

    noise, _ = jax.lax.scan(em_round, init_white_noise(psi.shape[1], start), None, length=rounds)
    return weighted(noise), noise


def _minimize(function: Callable[[PyTree], Array], start: PyTree, steps: int, learning_rate: float) -> PyTree:
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
        params, state = carry
        grads = jax.grad(function)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, our callers may be strict
            updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=steps)
    return params


def laplace(
    params: Params,
    info: Info,
    found: Optima,
    *,
    prior_scale: float = 1.0,
    rounds: int = 10,
    chunk_size: int = 2048,
) -> Laplace:
    """`params` of a `gpvae(…, weight_posterior="full")` with q(W), q(U) in closed form, and white noise if it has it.

    info: what that method's posterior returned for the same N examples as `found`; only its features and base
    posterior are used. Fit on examples the base was not trained on, and the errors are those of new inputs.
    rounds: of EM, where `params` hold white noise. Raises ValueError where the weight posterior is not "full".
    """
    phi = dict(params.inference)
    if set(phi["mean"]) != {"mean", "log_diagonal", "lower"} or phi["mean"]["lower"].ndim != 3:
        raise ValueError('The closed-form weight posterior has a covariance per latent: use weight_posterior="full".')
    parts = {
        "mean": (found.mean - info["base_mean"], found.mean_precision),
        "std": (found.std - info["base_std"], found.std_precision),
    }
    noise, evidence = {}, {}
    for part, (residual, precision) in parts.items():
        if "noise" in phi:
            fit, noise[part] = regress_with_noise(
                info["features"], residual, precision, prior_scale, rounds=rounds, chunk_size=chunk_size
            )
        else:
            fit = regress(info["features"], residual, precision, prior_scale, chunk_size=chunk_size)
        phi[part], evidence[part] = fit.weights, fit.log_evidence
    if noise:
        phi["noise"] = noise
    return Laplace(Params(params.model, phi), evidence["mean"], evidence["std"])
