"""What to look at in a trained mixture: who explains what, how narrow, how alike, and which components are dead.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.types import LatentModel


class MixtureDiagnostics(NamedTuple):
    """Per example, so that batches can be joined along the first axis."""

    alpha: Float[Array, "B M"]  # weights
    responsibility: Float[Array, "B M"]  # share of the true posterior that each component accounts for
    epsilon: Float[Array, "B M1"]  # the recursion's ε_1 … ε_{M−1}
    smallest_std: Float[Array, "B M"]  # of each component over its latents, in units of z
    pairwise_kl: Float[Array, "B M M"]  # KL(q_i ‖ q_j) in nats at [b, i, j]


def diagnose(
    model: LatentModel,
    theta: PyTree,
    q: GaussianMixture,
    key: PRNGKeyArray,
    x: Float[Array, "B *D"],
    *,
    num_samples: int = 100,
) -> MixtureDiagnostics:
    """Weights, shares, sticks, widths and divergences of a mixture posterior at x.

    The share of component m is E_{p(z|x)}[α_m q_m(z) / Q(z)], by self-normalised importance sampling from Q with
    `num_samples` draws (eq. 5.13, derived): it equals α_m where Q is the true posterior, and shows which weights lie.
    """
    z, log_q = q.sample_and_log_prob(key, num_samples)
    log_w = model.log_likelihood(theta, x, z) + model.log_prior(theta, z) - log_q
    share = jnp.sum(jax.nn.softmax(log_w, axis=0)[None] * q.responsibilities(z), axis=1)
    return MixtureDiagnostics(
        alpha=jnp.exp(q.log_alpha),
        responsibility=share.T,
        epsilon=sticks(q.log_alpha),
        smallest_std=jnp.exp(jnp.min(q.log_stds, axis=-1)).T,
        pairwise_kl=jnp.moveaxis(q.pairwise_kl(), -1, 0),
    )


def sticks(log_alpha: Float[Array, "B M"]) -> Float[Array, "B M1"]:
    """The ε_1 … ε_{M−1} of any weights: ε_m = α_m / Σ_{j≤m} α_j, `stick_breaking` inverted (eq. 5.3, derived)."""
    return jnp.exp(log_alpha - jax.lax.cumlogsumexp(log_alpha, axis=1))[:, 1:]


class DeadComponent(NamedTuple):
    """A component that adds nothing, and what says so."""

    component: int
    reason: str


def dead_components(
    diagnostics: MixtureDiagnostics, *, min_alpha: float = 0.01, min_std: float = 0.01, min_kl: float = 0.1
) -> list[DeadComponent]:
    """Name the components that are unused, point-like or copies of another (derived thresholds).

    Unused: mean α below min_alpha. Point-like: the smallest σ, its median over the examples, below min_std, when a
    posterior's is a few hundredths at least. Copy: the median KL to an earlier component below min_kl nats.
    """
    alpha = np.mean(np.asarray(diagnostics.alpha), axis=0)
    std = np.median(np.asarray(diagnostics.smallest_std), axis=0)
    kl = np.median(np.asarray(diagnostics.pairwise_kl), axis=0)
    dead = []
    for m in range(len(alpha)):
        copies = [j for j in range(m) if kl[m, j] < min_kl]
        if alpha[m] < min_alpha:
            dead.append(DeadComponent(m, f"unused: its mean weight is {alpha[m]:.2g}"))
        elif std[m] < min_std:
            dead.append(DeadComponent(m, f"point-like: its smallest standard deviation is {std[m]:.2g}"))
        elif copies:
            j = copies[0]
            dead.append(DeadComponent(m, f"a copy of component {j}: their divergence is {kl[m, j]:.2g} nats"))
    return dead
