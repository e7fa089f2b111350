"""What each component of a recursive mixture maximises, with everything that is not its own held constant.

Every criterion takes the same `Draws` and returns [M, B], one value per component and example, whose gradient in
component m's parameters is that of its own criterion and whose gradient in anything else is zero. β weighs
log p(z) − log q throughout; β = 1 is the true criterion. Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gpvae_jax.mixtures.posterior import GaussianMixture, gaussian_entropy, stratified_mean

OBJECTIVES = ("bkl", "greedy", "entropy")
AGAINST = ("earlier", "others")
CAPS = ("example", "sample")


class Draws(NamedTuple):
    """One reparameterised set of draws z[M, S, B, Z], z_m ~ q_m, and the model's log-density at them."""

    posterior: GaussianMixture
    z: Float[Array, "M S B Z"]
    log_joint: Float[Array, "M S B"]  # log p(x|z) + β log p(z), θ held constant
    beta: float | Array


def current_mixture(num_components: int, against: str) -> Bool[np.ndarray, "M M"]:
    """Row m marks the components of the mixture that component m is held against.

    "earlier": components j < m, the recursion Q_{m−1} itself (paper). "others": all j ≠ m, the mixture without
    component m (derived: the same functional gradient at Q_M with q_m taken out). A row may be empty.
    """
    every = np.ones((num_components, num_components), bool)
    return np.tril(every, -1) if against == "earlier" else every & ~np.eye(num_components, dtype=bool)


def bounded_kl(draws: Draws, current: Bool[np.ndarray, "M M"], *, cap: float, cap_on: str) -> Float[Array, "M B"]:
    """L(q_m) + β min(KL(q_m ‖ Q), C), Q the current mixture without q_m (eq. 5.7, paper; β derived).

    Its uncapped form is E_{q_m}[log p − log Q], the functional gradient of KL(Q ‖ p(z|x)), which a Dirac maximises.
    cap_on: "example", min(mean_S log q_m/Q, C), or "sample", mean_S min(log q_m/Q, C) (derived). A component with
    no current mixture maximises L(q_m).
    """
    own = _own_log_probs(draws)
    difference = _only(current, own - _log_current(draws, current))
    if cap_on == "sample":
        kl = jnp.mean(jnp.minimum(difference, cap), axis=1)
    else:
        kl = jnp.minimum(jnp.mean(difference, axis=1), cap)
    return jnp.mean(draws.log_joint - draws.beta * own, axis=1) + draws.beta * kl


def entropy_regularized(
    draws: Draws, current: Bool[np.ndarray, "M M"], *, entropy_weight: float
) -> Float[Array, "M B"]:
    """E_{q_m}[log p − log Q] + λ H(q_m), boosted variational inference's (eq. 5.9, paper: Guo et al. 2016; Locatello
    et al. 2018).

    The entropy is closed form. A component with no current mixture maximises L(q_m).
    """
    own = _own_log_probs(draws)
    entropy = entropy_weight * gaussian_entropy(draws.posterior.log_stds)
    repulsion = jnp.mean(own - _log_current(draws, current), axis=1) + entropy
    return jnp.mean(draws.log_joint - draws.beta * own, axis=1) + draws.beta * _only(current, repulsion)


def greedy(draws: Draws, current: Bool[np.ndarray, "M M"]) -> Float[Array, "M B"]:
    """L(Q') of the current mixture together with q_m, as a function of q_m alone (eq. 5.8, derived).

    Q' has the current components' and q_m's weights, renormalised: with "earlier" it is the recursion's Q_m.
    """
    q, z = draws.posterior, draws.z
    live_z, live_q = _cross(jax.lax.stop_gradient(q), z), _cross(q, jax.lax.stop_gradient(z))
    own = _own_log_probs(draws)
    count = q.num_components

    def one(m: Array, members: Array) -> Float[Array, " B"]:
        here = jnp.arange(count) == m
        of_z, of_q = here[:, None, None, None], here[None, :, None, None]
        # log q_j(z_k): only z_m and q_m are functions of component m's parameters
        log_q = jnp.where(of_z, live_z, jnp.where(of_q, live_q, jax.lax.stop_gradient(live_z)))
        log_q = jnp.where(of_z & of_q, own[:, None], log_q)
        log_alpha = _renormalized(q.log_alpha, members[None])
        log_mixture = jax.nn.logsumexp(log_alpha.T[None, :, None] + log_q, axis=1)
        log_joint = jnp.where(here[:, None, None], draws.log_joint, jax.lax.stop_gradient(draws.log_joint))
        return stratified_mean(log_alpha, log_joint - draws.beta * log_mixture)

    members = jnp.asarray(current | np.eye(count, dtype=bool))
    return jax.vmap(one)(jnp.arange(count), members)


def _cross(q: GaussianMixture, z: Float[Array, "K S B Z"]) -> Float[Array, "K M S B"]:
    """log q_m(z_k)."""
    return jax.vmap(q.component_log_probs)(z)


def _own_log_probs(draws: Draws) -> Float[Array, "M S B"]:
    """log q_m(z_m)."""
    return jax.vmap(lambda q, z: q.log_prob(z))(draws.posterior.components, draws.z)


def _log_current(draws: Draws, current: Bool[np.ndarray, "M M"]) -> Float[Array, "M S B"]:
    """log Q(z_m) of the current mixture as a fixed density; arbitrary but finite where that mixture is empty."""
    fixed = jax.lax.stop_gradient(draws.posterior)
    members = jnp.asarray(current | ~current.any(axis=1, keepdims=True))
    log_alpha = _renormalized(fixed.log_alpha[None], members[:, None])  # [M, B, M]
    return jax.nn.logsumexp(jnp.swapaxes(log_alpha, 1, 2)[:, :, None] + _cross(fixed, draws.z), axis=1)


def _renormalized(log_alpha: Float[Array, "*K B M"], members: Array) -> Float[Array, "*K B M"]:
    """Log-weights of the members alone, summing to one; −∞ for the rest. They are constants of every criterion."""
    masked = jnp.where(members, jax.lax.stop_gradient(log_alpha), -jnp.inf)
    return jax.nn.log_softmax(masked, axis=-1)


def _only(current: Bool[np.ndarray, "M M"], values: Float[Array, "M *rest"]) -> Float[Array, "M *rest"]:
    """`values` for the components that have a current mixture, zero for the others."""
    exists = jnp.asarray(current.any(axis=1)).reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(exists, values, jnp.zeros_like(values))
