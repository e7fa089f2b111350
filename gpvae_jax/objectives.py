"""Training objectives that are not tied to one method: the ELBO with a closed-form KL, and the K-sample bound.

Equations: docs/mathematics.md.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.bounds import elbo, iwae, log_weights
from gpvae_jax.checks import check_at_least
from gpvae_jax.mixtures.bounds import importance_weighted
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.naming import unknown
from gpvae_jax.posteriors import require_standard_normal_prior
from gpvae_jax.types import InferenceMethod, LatentModel, Metrics, Params, Posterior

FROZEN = ("model", "base")


def analytic_elbo(
    model: LatentModel,
    theta: PyTree,
    posterior: Any,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    num_samples: int,
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """The two parts of L(q; x) = E_q[log p_θ(x|z)] − KL(q ‖ p(z)) (eq. 1.8) per example: the first from S draws,
    the KL exact. The posterior must offer `kl_to_standard_normal`. Raises ValueError where the prior is not N(0, I).
    """
    require_standard_normal_prior(model, "The exact KL")
    z, _ = posterior.sample_and_log_prob(key, num_samples)
    return jnp.mean(model.log_likelihood(theta, x, z), axis=0), posterior.kl_to_standard_normal()


def analytic_loss(
    model: LatentModel,
    theta: PyTree,
    posterior: Posterior,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    num_samples: int,
    beta: float | Array,
) -> tuple[Float[Array, ""], Metrics]:
    """β KL − E_q[log p_θ(x|z)], the mean over the batch, with the metrics every such method reports."""
    per_example = analytic_elbo(model, theta, posterior, key, x, num_samples)
    log_likelihood, kl = jax.tree.map(jnp.mean, per_example)
    return beta * kl - log_likelihood, {
        "elbo": log_likelihood - kl,
        "log_likelihood": log_likelihood,
        "kl": kl,
    }


def analytic_objective(
    model: LatentModel, posterior: Callable[[Params, PRNGKeyArray, Array], tuple[Any, Any]], num_samples: int
) -> Callable[..., tuple[Float[Array, ""], Metrics]]:
    """The `loss` of a method whose posterior has a closed-form KL: `analytic_loss` of its posterior at x."""

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = posterior(params, key_posterior, x)
        return analytic_loss(model, params.model, q, key_z, x, num_samples, beta)

    return loss


def sampled_loss(log_likelihood: Array, log_ratio: Array, beta: float | Array) -> tuple[Array, Metrics]:
    """β KL − E_q[log p_θ(x|z)] with the KL from the draws: log_ratio[S, B] = log q(z|x) − log p(z)."""
    log_likelihood, kl = jnp.mean(log_likelihood), jnp.mean(log_ratio)
    return beta * kl - log_likelihood, {
        "elbo": log_likelihood - kl,
        "log_likelihood": log_likelihood,
        "kl": kl,
    }


def iwae_trained(
    method: InferenceMethod, model: LatentModel, *, num_samples: int, doubly_reparameterized: bool = False
) -> InferenceMethod:
    """The same inference trained on the K-sample bound, E[logsumexp_K log w − log K] (eq. 1.10, paper: Burda et al.
    2016).

    method: any whose posterior gives samples and log-densities; its own loss, with whatever terms it may have
    beside the ELBO, is replaced (`methods.with_weight_kl` gives a GPVAE's back). num_samples: K; K = 1 is the ELBO
    with a sampled KL. Of a mixture K draws of every component, weighted by α_m
    (`mixtures.bounds.importance_weighted`). doubly_reparameterized: the gradient of Tucker et al. (2019) for the
    posterior's parameters, whose signal does not vanish as K grows; the posterior must then offer `log_prob` and be
    no mixture, and one decoder pass (of four) is added. β weighs log p(z) − log q.
    """
    check_at_least(1, num_samples=num_samples)

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = method.posterior(params, key_posterior, x)
        if isinstance(q, GaussianMixture) and not doubly_reparameterized:
            z, log_q = q.sample_strata(key_z, num_samples)
            bounds = importance_weighted(model, params.model, q, z, log_q, x, beta)
            bound, of_logs = jax.tree.map(jnp.mean, bounds)
            return -bound, {"elbo": of_logs, "iwae": bound}
        draw = doubly_reparameterized_log_weights if doubly_reparameterized else log_weights
        log_w = draw(model, params.model, q, key_z, x, num_samples, beta=beta)
        bound = jnp.mean(iwae(log_w))
        return -bound, {"elbo": jnp.mean(elbo(log_w)), "iwae": bound}

    return method._replace(loss=loss)


def frozen(method: InferenceMethod, part: str) -> InferenceMethod:
    """The same inference, part of whose parameters get no gradient: "model", θ; or "base", θ and the φ of the method's
    base, so that only what the method adds to its base is learned.

    Of use where they are trained already: a posterior for a model that has to stay as it is. Raises ValueError on
    another part, and in use where nothing would be left to learn.
    """
    if part not in FROZEN:
        raise ValueError(unknown("part to freeze", part, FROZEN))

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        fixed = is_frozen(params, part)
        params = jax.tree.map(lambda leaf, held: jax.lax.stop_gradient(leaf) if held else leaf, params, fixed)
        return method.loss(params, key, x, beta=beta)

    return method._replace(loss=loss)


def with_base_loss(method: InferenceMethod, base: InferenceMethod, weight: float) -> InferenceMethod:
    """The same inference, trained on (1 − w) of its own loss and w of that of its base: ℒ = (1 − w) ℒ_K + w ℒ_0 (eq.
    3.15, derived).

    A method that is trained through its steps alone leaves the posterior they start from to itself, and on inputs
    unlike the training ones that start is far off. base: what the method was built over, whose φ is φ["base"]. weight:
    w, in [0, 1). The metrics get the base's bound, "base_elbo", in nats. Cost: the base's own, of which the encoder's
    pass is shared. Raises ValueError on another weight, and in use where φ has no base.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"The base's weight in the loss must be at least 0 and below 1, got {weight}.")

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        if not (isinstance(params.inference, dict) and "base" in params.inference):
            raise ValueError(
                "A weight of the base's loss takes a method that is built over one base and trained on, such as "
                "newton, savi, iterative or gpvae; choose one of them, or leave base_weight out."
            )
        key_own, key_base = jax.random.split(key)
        after, metrics = method.loss(params, key_own, x, beta=beta)
        before, of_base = base.loss(params.of("base"), key_base, x, beta=beta)
        return (1 - weight) * after + weight * before, metrics | {"base_elbo": of_base["elbo"]}

    return method._replace(loss=loss)


def is_frozen(params: Params, part: str) -> Params:
    """For every leaf whether `frozen` holds it fixed. Raises ValueError where nothing would be left to learn."""
    theta, phi = params
    with_base = part == "base"
    if with_base and not {"base"} < set(phi):
        raise ValueError(
            "To freeze the base takes a method that adds something to one, but this one's parameters are "
            f"{sorted(phi)}; freeze the model alone, or choose a method such as newton, savi or gpvae."
        )

    def all_of(tree: PyTree, value: bool) -> PyTree:
        return jax.tree.map(lambda _: value, tree)

    inference = {name: all_of(value, with_base and name == "base") for name, value in phi.items()}
    return Params(all_of(theta, True), inference)


def doubly_reparameterized_log_weights(
    model: LatentModel,
    theta: PyTree,
    posterior: Posterior,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    num_samples: int,
    *,
    beta: float | Array = 1.0,
) -> Float[Array, "S B"]:
    """`bounds.log_weights` in value; under `iwae` its gradient is the doubly-reparameterised one.

    With normalised weights w̃, the posterior's parameters λ get Σ_k (1 − β (1 − w̃_k)) w̃_k ∂_z log w_k ∂_λ z_k, which at
    β = 1 is Σ_k w̃_k² ∂_z log w_k ∂_λ z_k (eq. 1.12, paper; other β derived the same way: the score term
    −β w̃ ∂_λ log q is reparameterised once more); θ gets Σ_k w̃_k ∂_θ log p as ever. Gradients of the ELBO
    through these weights are not meant to be taken. Raises ValueError where the posterior has no `log_prob` or is a
    mixture, whose choice of a component has no derivative.
    """
    if isinstance(posterior, GaussianMixture):
        raise ValueError(
            "The doubly-reparameterised gradient needs draws that move with the posterior's parameters, but a mixture "
            "chooses a component; train it with doubly_reparameterized=False."
        )
    if not hasattr(posterior, "log_prob"):
        raise ValueError(
            f"The doubly-reparameterised gradient needs the posterior's density at given points, but "
            f"{type(posterior).__name__} has no log_prob; train it with doubly_reparameterized=False."
        )
    z, _ = posterior.sample_and_log_prob(key, num_samples)
    density = jax.lax.stop_gradient(posterior)

    def weights_at(z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        ratio = model.log_prior(theta, z) - density.log_prob(z)
        return model.log_likelihood(theta, x, z) + beta * ratio

    fixed = jax.lax.stop_gradient(z)
    share = jax.lax.stop_gradient(jax.nn.softmax(weights_at(fixed), axis=0))
    factor = (1 - beta * (1 - share))[:, :, None]
    return weights_at(fixed + factor * (z - fixed))
