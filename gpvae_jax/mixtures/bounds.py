"""Estimators of L(Q) = E_Q[log p_θ(x, z) − log Q(z|x)] for a mixture Q, and the metrics its training reports.

β weighs log p(z) − log Q throughout; metrics are at β = 1. Bounds are means over the batch, nats per example.
Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.mixtures.posterior import GaussianMixture, stratified_mean
from gpvae_jax.types import LatentModel, Metrics


def all_to_all(
    model: LatentModel,
    theta: PyTree,
    q: GaussianMixture,
    z: Float[Array, "M S B Z"],
    x: Float[Array, "B *D"],
    beta: float | Array,
) -> tuple[Float[Array, ""], Metrics]:
    """Σ_m α_m E_{q_m}[log p − log Q] from stratified draws z_m ~ q_m, each against every component
    (eq. 5.10, paper).

    M decoder calls per draw, and M² component densities. Its gradient in α is exact for the draws at hand.
    """
    likelihood = stratified_mean(q.log_alpha, over_components(model.log_likelihood, theta, x, z))
    kl = stratified_mean(q.log_alpha, jax.vmap(q.log_prob)(z) - model.log_prior(theta, z))
    return _bound(likelihood, kl, beta)


def importance_weighted(
    model: LatentModel,
    theta: PyTree,
    q: GaussianMixture,
    z: Float[Array, "M S B Z"],
    log_q: Float[Array, "M S B"],
    x: Float[Array, "B *D"],
    beta: float | Array,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """log Σ_m α_m mean_S w and Σ_m α_m mean_S log w, w = p(x|z) (p(z) / Q(z|x))^β, of `q.sample_strata`'s draws.

    Two lower bounds per example with exact gradients in the weights, which the choice of a component does not have: the
    second is `all_to_all`'s (eq. 5.10, paper), the first the same with the logarithm outside.
    """
    log_w = over_components(model.log_likelihood, theta, x, z) + beta * (model.log_prior(theta, z) - log_q)
    weighted = log_w + q.log_alpha.T[:, None]
    inside = stratified_mean(q.log_alpha, log_w)
    return jax.nn.logsumexp(weighted, axis=(0, 1)) - math.log(z.shape[1]), inside


def some_to_all(
    model: LatentModel,
    theta: PyTree,
    q: GaussianMixture,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    beta: float | Array,
    *,
    num_drawn: int,
    num_samples: int,
) -> tuple[Float[Array, ""], Metrics]:
    """`all_to_all` estimated from K = `num_drawn` components per example, drawn without replacement.

    Σ_m α_m v_m = E[(M/K) Σ_{m ∈ A} α_m v_m] for a uniformly random A of K components, so the estimate is unbiased
    for any weights; the denominator log Q keeps all M components (eq. 5.11, paper: Hotti et al. 2024, there with
    α = 1/M). K decoder calls per draw and K·M component densities.
    """
    key_choice, key_noise = jax.random.split(key)
    uniform = jax.random.uniform(key_choice, q.log_alpha.shape)
    drawn = jnp.argsort(uniform, axis=1)[:, :num_drawn]  # [B, K], a random K-subset per example
    b = jnp.broadcast_to(jnp.arange(drawn.shape[0])[:, None], drawn.shape)
    # the chosen components as a mixture of their own, whose weights are (M/K) α and need not sum to one
    scale = jnp.log(jnp.asarray(q.num_components / num_drawn, q.means.dtype))
    chosen = GaussianMixture(q.means[drawn.T, b.T], q.log_stds[drawn.T, b.T], q.log_alpha[b, drawn] + scale)
    z = chosen.strata(chosen.noise(key_noise, num_samples))
    likelihood = stratified_mean(chosen.log_alpha, over_components(model.log_likelihood, theta, x, z))
    kl = stratified_mean(chosen.log_alpha, jax.vmap(q.log_prob)(z) - model.log_prior(theta, z))
    return _bound(likelihood, kl, beta)


def over_components(
    log_likelihood: Callable, theta: PyTree, x: Float[Array, "B *D"], z: Float[Array, "M S B Z"]
) -> Float[Array, "M S B"]:
    """A model's log-likelihood at M·S draws per example, in one call."""
    return log_likelihood(theta, x, z.reshape(-1, *z.shape[2:])).reshape(z.shape[:-1])


def component_metrics(q: GaussianMixture) -> Metrics:
    """Per component the batch's smallest σ and mean weight α."""
    smallest = jnp.exp(jnp.min(q.log_stds, axis=(1, 2)))
    alpha = jnp.mean(jnp.exp(q.log_alpha), axis=0)
    count = range(q.num_components)
    return {f"smallest_std_{m}": smallest[m] for m in count} | {f"alpha_{m}": alpha[m] for m in count}


def _bound(
    likelihood: Float[Array, " B"], kl: Float[Array, " B"], beta: float | Array
) -> tuple[Float[Array, ""], Metrics]:
    likelihood, kl = jnp.mean(likelihood), jnp.mean(kl)
    return likelihood - beta * kl, {"elbo": likelihood - kl, "log_likelihood": likelihood, "kl": kl}
