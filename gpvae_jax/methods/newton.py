"""Newton refinement: the posterior given the input itself, by one well-chosen step from an amortized start (derived).

The amortized answer is a prior on where the posterior's mean lies; the likelihood's own gradient and a curvature say
where it really is. Related: the Laplace posterior of Park et al. (2019), here `vlae`; iterative amortized inference
(Marino et al. 2018), whose learned update sees the gradient; SAVI (Kim et al. 2018), many small gradient steps.
Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.gaussians.family import AnyGaussian, paired_noise, place
from gpvae_jax.gaussians.gauss_newton import gauss_newton
from gpvae_jax.gaussians.line_search import best_factor
from gpvae_jax.gaussians.preconditioner import Preconditioner, bounded, hessian, positive
from gpvae_jax.gp.features import encode_with_features
from gpvae_jax.keys import beyond_base
from gpvae_jax.methods.vae import vae
from gpvae_jax.naming import unknown
from gpvae_jax.networks import linear
from gpvae_jax.objectives import analytic_objective
from gpvae_jax.posteriors import LOG_STD_BOUND, DiagonalGaussian, require_diagonal
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params

CURVATURES = ("learned", "lowrank", "encoder", "gauss_newton", "hessian")
COVARIANCES = ("base", "diagonal", "full")
SMALLEST_ERROR = 1e-12  # variance of a base's mean below which its precision is not finite enough for a derivative
LARGEST_LOG_RATIO = 2 * LOG_STD_BOUND  # a log-variance's bound; trained ones are nowhere near it


def newton(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    steps: int = 1,
    curvature: str = "lowrank",
    rank: int = 10,
    covariance: str = "full",
    step_size: float = 0.5,
    halvings: int = 0,
    largest_move: float = 1.0,
    inner_samples: int = 0,
    use_gp_prior: bool = False,
    first_order: bool = False,
    remat: bool = False,
    num_samples: int = 1,
) -> InferenceMethod:
    """K steps μ ← μ + η (Λ + P)⁻¹ (∇ log p(x, μ) − P (μ − μ₀)) from the base's mean μ₀; trained through them
    (eq. 3.1, derived).

    base: any method whose posterior is a `DiagonalGaussian`, `vae` by default. With a GPVAE (`methods.as_gaussian`) and
      use_gp_prior, 1/P is the variance of its mean error: the amortized answer's own uncertainty is the trust
      region. Otherwise P = 0, which wins more but for steps that overshoot (docs/closing_the_gap.md).
    curvature: Λ⁻¹ is, from cheap to exact,
      "encoder", diag s²(x), nothing learned; η = 1 overshoots;
      "learned", diag s²(x) r(x), r a positive output of the encoder that starts near 1;
      "lowrank", that and a term of `rank` directions, from the encoder as well: with the covariance "full" by far the
      best for its price where it can be trained, hence the default;
      "gauss_newton", (I + JᵀHJ)⁻¹ (eq. 3.2, derived), exact for a piecewise linear decoder: Z Jacobian-vector
      products, and η = 1 with halvings is best;
      "hessian", the exact Hessian, of several draws their mean, with eigenvalues made positive: for small Z.
    covariance: of the result, "full", Λ⁻¹ at the final mean, that of "lowrank" kept in its factors; "diagonal", 1/Λ_jj,
      the best diagonal for a Gaussian posterior; "base", the base's.
    step_size: η. halvings: try η, η/2, …, η 2^−halvings in one decoder call and keep per example the best, or no step
      if all lower log p(x, z) − ½ |√P (z − μ₀)|² (eq. 3.5, derived); not differentiated.
    largest_move: of one step, root mean square over latents in the prior's standard deviations. Before training the
      base's s is near 1, and η s² ∇ log p of a confident likelihood leaves the prior's support altogether; the losses
      there are what an optimiser such as Adam remembers for thousands of steps.
    inner_samples: S. With 0, gradient and curvature are those at the mean and the steps lead to the mode, a Laplace
      posterior. With S > 0 they are means over S draws from the current posterior, in mirrored pairs: the steps then
      lead to the Gaussian with the greatest ELBO, where E_q ∇ log p = 0 and Λ = −E_q ∇² log p (eq. 3.10, paper:
      Opper and Archambeau 2009), which is another one where the posterior is wide or skew. Each step costs S times as
      much.
    first_order: ∇ log p, and a curvature made of its derivatives, count as constants; what is learned of the step is
      still trained through it. remat: recompute each step in the backward pass.
    φ = {"base", and "metric" and perhaps "features" for the learned curvatures}. With steps = 0 and covariance "base"
    it is the base. Trained parameters may have "reduced" as well (`reduced_outputs.with_reduced_outputs`): with a
    curvature of the encoder's the steps' gradients are then those of a few directions of the decoder's output, for
    less than half the price.
    Cost per step: one decoder gradient, for "gauss_newton" Z tangents more, for halvings their decoder passes.
    Raises ValueError on a setting out of range.
    """
    for kind, value, names in (("curvature", curvature, CURVATURES), ("covariance", covariance, COVARIANCES)):
        if value not in names:
            raise ValueError(unknown(kind, value, names))
    check_at_least(0, steps=steps, halvings=halvings, inner_samples=inner_samples)
    check_at_least(1, rank=rank, num_samples=num_samples)
    check_above(0, step_size=step_size, largest_move=largest_move)
    is_learned = curvature in ("learned", "lowrank")
    latents, columns = model.latent_dim, rank if curvature == "lowrank" else 0
    encoding = encode_with_features(model, encoder, base, None, 0, own_features=False)
    head = linear(encoding.width, latents * (1 + columns))
    start_base = vae(model, encoder) if base is None else base

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = start_base.init(key, x)
        phi: PyTree = {"base": params.inference}
        if is_learned:
            key_head, key_features = jax.random.split(beyond_base(key, 0))
            # no feature counts for much at first: r is near 1, whatever the input
            phi["metric"] = jax.tree.map(lambda leaf: 0.1 * leaf, head.init(key_head))
            if own := encoding.init(key_features):
                phi["features"] = own
        return Params(params.model, phi)

    def amortized(params: Params, key: PRNGKeyArray, x: Array) -> tuple[DiagonalGaussian, Info, Array | None]:
        if is_learned:
            return encoding.apply(params, key, x)
        q, info = start_base.posterior(params.of("base"), key, x)
        return require_diagonal(q, "newton"), info, None

    def amortized_metric(params: Params, q: DiagonalGaussian, psi: Array | None) -> Preconditioner:
        """Λ⁻¹ of the encoder, wherever z is."""
        if psi is None:
            return Preconditioner(q.variance)
        # ψ comes scaled by 1/√F; the head is an ordinary affine layer on the features themselves
        out = head.apply(params.of("metric").inference, psi * math.sqrt(encoding.width))
        out = out.reshape(-1, 1 + columns, latents)
        ratio = jnp.exp(jnp.clip(out[:, 0], -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))  # of s², finite at any input
        factor = jnp.swapaxes(out[:, 1:], 1, 2) * q.std[:, :, None] if columns else None
        return Preconditioner(q.variance * ratio, factor)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[AnyGaussian, Info]:
        key_base, key_draws = jax.random.split(key)
        q, base_info, psi = amortized(params, key_base, x)
        keys = jax.random.split(key_draws, steps + 1)
        exact = curvature in ("gauss_newton", "hessian")
        amortized_here = None if exact else amortized_metric(params, q, psi)
        log_joint, prior = _log_joint(model, params, x), None
        if use_gp_prior:
            if "mean_variance" not in base_info:
                raise ValueError("use_gp_prior takes the variance of a gpvae's mean error, so it needs one as base.")
            # the variance is 0 where no feature is active
            prior = 1 / jnp.maximum(base_info["mean_variance"], SMALLEST_ERROR)

        def objective(z: Float[Array, "C B Z"]) -> Float[Array, "C B"]:
            value = model.log_likelihood(params.model, x, z) + model.log_prior(params.model, z)
            if prior is None:
                return value
            away = z - q.mean[None]
            return value - 0.5 * jnp.sum(jax.vmap(lambda a: _times(prior, a) * a)(away), axis=-1)

        def draws(key: PRNGKeyArray) -> Float[Array, "S B Z"] | None:
            return paired_noise(key, inner_samples, q.mean) if inner_samples else None

        def at(z: Float[Array, "B Z"]) -> tuple[Array, Preconditioner]:
            """∇ log p(x, z) and Λ⁻¹ there."""
            if amortized_here is not None:
                return jax.grad(lambda z: jnp.sum(log_joint(z)))(z), amortized_here
            if curvature == "gauss_newton":
                found = gauss_newton(model, params.model, x, z)
                return found.gradient, Preconditioner(q.variance, precision=found.precision)
            slope, precision = hessian(model, params.model, x, z)  # any symmetric matrix: see `local`
            return slope, Preconditioner(q.variance, precision=precision)

        def local(current: AnyGaussian, noise: Array | None) -> tuple[Array, Preconditioner]:
            if noise is None:
                slope, here = at(current.mean)
            else:
                each = jax.vmap(at)(place(current, noise))
                slope, here = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), each)
            if curvature == "hessian":  # after the mean over draws, of which only that has to be positive
                here = here._replace(precision=positive(here.precision))
            if first_order:
                slope = jax.lax.stop_gradient(slope)
                here = here if here.precision is None else jax.lax.stop_gradient(here)
            return slope, here

        def step(current: AnyGaussian, key: PRNGKeyArray) -> tuple[AnyGaussian, Array]:
            noise = draws(key)
            slope, here = local(current, noise)
            if prior is not None:
                slope = slope - _times(prior, current.mean - q.mean)
            if covariance != "base":
                current = here.gaussian(current.mean, full=covariance == "full")
            move = bounded(step_size * here.direction(slope, prior), largest_move)
            factor = jnp.ones(move.shape[:1], move.dtype)
            if halvings:
                # the draws spread around each candidate, which is then judged by its mean
                spread = jnp.zeros_like(move)[None] if noise is None else place(current, noise) - current.mean[None]
                over_draws = jax.vmap(lambda z, e: objective(z + e[None]), in_axes=(None, 0))
                factor = best_factor(lambda z: jnp.mean(over_draws(z, spread), axis=0), current.mean, move, halvings)
            return current._replace(mean=current.mean + factor[:, None] * move), factor

        step = jax.checkpoint(step) if remat else step
        current: AnyGaussian = q
        factors = []
        for k in range(steps):
            current, factor = step(current, keys[k])
            factors.append(factor)
        info = {"base": base_info, "base_mean": q.mean, "base_std": q.std}
        if factors:
            info["step_factor"] = jnp.stack(factors)
        if covariance == "base":
            return current, info
        _, here = local(current, draws(keys[-1]))
        return here.gaussian(current.mean, full=covariance == "full"), info

    return InferenceMethod(init, posterior, analytic_objective(model, posterior, num_samples))


def _log_joint(model: LatentModel, params: Params, x: Array) -> Callable[[Float[Array, "B Z"]], Float[Array, " B"]]:
    """log p(x, z) of z, whose gradient a step follows; up to a constant where the outputs are reduced."""
    theta, reduced = params.model, params.inference.get("reduced")
    if reduced is None or model.reduced is None:
        return lambda z: model.log_likelihood(theta, x, z[None])[0] + model.log_prior(theta, z)
    log_likelihood, c = model.reduced.log_likelihood, model.reduced.observe(reduced, x)
    return lambda z: log_likelihood(theta, reduced, c, z[None])[0] + model.log_prior(theta, z)


def _times(prior: Float[Array, "B Z"], move: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
    """P (μ − μ₀), zero where nothing has moved, whatever P."""
    return jnp.where(move == 0, jnp.zeros_like(move), prior * move)
