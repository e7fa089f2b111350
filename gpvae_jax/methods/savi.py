"""Semi-amortized variational inference (Kim et al. 2018): an amortized start, refined by ascent on the ELBO.

Equations: docs/mathematics.md.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_above, check_at_least, check_limit
from gpvae_jax.gaussians.family import paired_noise, place
from gpvae_jax.methods.vae import vae
from gpvae_jax.objectives import analytic_loss
from gpvae_jax.posteriors import DiagonalGaussian, require_diagonal, require_standard_normal_prior
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params


def savi(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    steps: int = 2,
    step_size: float = 0.3,
    learn_step_size: bool = True,
    clip_norm: float = 5.0,
    first_order: bool = False,
    remat: bool = False,
    inner: optax.GradientTransformation | None = None,
    inner_samples: int = 2,
    num_samples: int = 1,
) -> InferenceMethod:
    """K steps λ ← λ + η g(λ), g = ∇_λ L(λ; x) clipped, on λ = (mean, log σ) of each example; trained through them
    (eq. 2.7, paper).

    base: any method whose posterior is a DiagonalGaussian, `vae` by default. steps: K; parameters trained with one
    K serve any other: a method built with more steps, on the same parameters, takes more at test time. step_size: η,
    learned (one per latent, for mean and log σ each, shared by the steps) with `learn_step_size`. clip_norm: the
    greatest Euclidean norm of one example's gradient, whatever its neighbours; without it the loop diverges.
    first_order: the steps' gradients count as constants, so λ_0 gets ∂L/∂λ_K and θ no gradient through the steps.
    remat: recompute each step in the backward pass, memory of one step instead of K. inner: an optax transformation
    in place of plain ascent (it sees −g, one example at a time; η still multiplies what it returns).
    inner_samples: draws of z per step; each step has fresh noise, because ascent on a fixed draw fits λ to that draw:
    its estimate of L rises, L itself need not (one sample, many steps). num_samples: draws for the final loss.
    Cost: each step is one forward and one backward pass of the decoder, about three times that in training. Raises
    ValueError on settings out of range, a base with another posterior, and a model whose prior is not N(0, I).
    """
    require_standard_normal_prior(model, "savi's inner bound")
    check_at_least(0, steps=steps)
    check_at_least(1, inner_samples=inner_samples, num_samples=num_samples)
    check_above(0, step_size=step_size)
    check_limit(clip_norm=clip_norm)
    base = vae(model, encoder) if base is None else base
    inner = optax.sgd(1.0) if inner is None else inner

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = base.init(key, x)
        inference = {"base": params.inference}
        if learn_step_size:
            start = jnp.full((model.latent_dim,), step_size, jnp.result_type(float))
            inference["log_step_size"] = {"mean": jnp.log(start), "log_std": jnp.log(start)}
        return Params(params.model, inference)

    def refine(params: Params, key: PRNGKeyArray, x: Array, beta: float | Array) -> tuple[DiagonalGaussian, Info]:
        key_base, key_steps = jax.random.split(key)
        start, _ = base.posterior(params.of("base"), key_base, x)
        start = require_diagonal(start, "savi")

        def bound(q: DiagonalGaussian, key: PRNGKeyArray) -> tuple[Array, Array]:
            z = place(q, paired_noise(key, inner_samples, q.mean))
            log_likelihood = jnp.mean(model.log_likelihood(params.model, x, z), axis=0)
            kl = q.kl_to_standard_normal()
            return jnp.sum(log_likelihood - beta * kl), log_likelihood - kl

        rates = _rates(params.inference, model.latent_dim, step_size, start.mean.dtype)
        step = _ascent_step(bound, inner, rates, clip_norm, first_order)
        step = jax.checkpoint(step) if remat else step
        with jax.numpy_dtype_promotion("standard"):
            state = jax.vmap(inner.init)(start)
        carry, (trace, norms) = jax.lax.scan(step, (start, state), jax.random.split(key_steps, steps))
        return carry[0], {"elbo_trace": trace, "gradient_norm": norms}

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[DiagonalGaussian, Info]:
        return refine(params, key, x, 1.0)

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = refine(params, key_posterior, x, beta)
        return analytic_loss(model, params.model, q, key_z, x, num_samples, beta)

    return InferenceMethod(init, posterior, loss)


def _rates(inference: PyTree, latent_dim: int, step_size: float, dtype: jnp.dtype) -> DiagonalGaussian:
    """Step sizes η [1, Z] for mean and log σ."""
    if "log_step_size" in inference:
        learned = jax.tree.map(lambda log_rate: jnp.exp(log_rate)[None], inference["log_step_size"])
        return DiagonalGaussian(**learned)
    fixed = jnp.full((1, latent_dim), step_size, dtype)
    return DiagonalGaussian(fixed, fixed)


def _ascent_step(
    bound: Callable[[DiagonalGaussian, PRNGKeyArray], tuple[Array, Array]],
    inner: optax.GradientTransformation,
    rates: DiagonalGaussian,
    clip_norm: float,
    first_order: bool,
) -> Callable:
    """One scan step: (λ, optimiser state), key -> the next, and the bound [B] and gradient norm [B] before it."""

    def step(carry: tuple[DiagonalGaussian, PyTree], key: PRNGKeyArray) -> tuple[tuple, tuple[Array, Array]]:
        q, state = carry
        at = jax.lax.stop_gradient(q) if first_order else q
        gradient, values = jax.grad(bound, has_aux=True)(at, key)
        if first_order:
            gradient = jax.lax.stop_gradient(gradient)
        clipped, norm = clip_per_example(gradient, clip_norm)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, our callers may be strict
            updates, state = jax.vmap(inner.update)(jax.tree.map(jnp.negative, clipped), state, q)
        q = jax.tree.map(lambda value, update, rate: value + rate * update, q, updates, rates)
        return (q, state), (values, norm)

    return step


def clip_per_example(gradient: PyTree, max_norm: float) -> tuple[PyTree, Float[Array, " B"]]:
    """Scale each example's gradient (leaves [B, Z]) to a Euclidean norm of at most `max_norm`; also the norms before.

    g min(1, c/|g|) is written g / √max(|g|²/c², 1), whose derivative exists at g = 0 as well; c may be infinite
    (eq. 2.8, derived).
    """
    squares = sum(jnp.sum(jnp.square(leaf), axis=-1) for leaf in jax.tree.leaves(gradient))
    factor = jax.lax.rsqrt(jnp.maximum(squares / max_norm / max_norm, 1))
    norm = jnp.sqrt(jax.lax.stop_gradient(squares))
    return jax.tree.map(lambda leaf: leaf * factor[:, None], gradient), norm
