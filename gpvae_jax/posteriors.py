"""Approximate posteriors q(z|x): batches of distributions as pytrees, with exact samples and densities.

Shapes: the batch axis B leads every field; samples are z[S, B, Z]; log-densities are in nats, summed over Z.
Equations: docs/mathematics.md.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.types import LatentModel

LOG_STD_BOUND = 8.0  # |log σ| stays below it: σ between 3.4e-4 and 3.0e3, safe to square in float32


def standard_normal_log_prob(z: Float[Array, "*S Z"]) -> Float[Array, "*S"]:
    """log N(z; 0, I), summed over the last axis."""
    return -0.5 * (jnp.sum(jnp.square(z), axis=-1) + z.shape[-1] * math.log(2 * math.pi))


def standard_normal_prior(theta: PyTree, z: Float[Array, "*S Z"]) -> Float[Array, "*S"]:
    """log p(z) = log N(z; 0, I) (eq. 1.1): the `log_prior` of every `LatentModel` that has no prior of its own."""
    return standard_normal_log_prob(z)


def require_standard_normal_prior(model: LatentModel, what: str) -> None:
    """Raise ValueError, one sentence, where a formula that holds for N(0, I) alone meets a prior of the user's own."""
    if model.log_prior is not standard_normal_prior:
        raise ValueError(
            f"{what} holds for the prior N(0, I) alone, but this model has a log_prior of its own; take a method whose "
            "KL is sampled (vae with analytic_kl=False, iwae, iaf, mixture, recmix), or give the model "
            "posteriors.standard_normal_prior if its prior is that."
        )


class DiagonalGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, diag exp(2 log_std_b))."""

    mean: Float[Array, "B Z"]
    log_std: Float[Array, "B Z"]

    @property
    def std(self) -> Float[Array, "B Z"]:
        """Standard deviation σ."""
        return jnp.exp(self.log_std)

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Variance σ²."""
        return jnp.exp(2 * self.log_std)

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z = mean + σ e with e ~ N(0, I); log q from e itself, so that no rounding of (z − mean)/σ enters."""
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        z = self.mean[None] + self.std[None] * noise
        return z, standard_normal_log_prob(noise) - jnp.sum(self.log_std, axis=-1)[None]

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x)."""
        noise = (z - self.mean[None]) * jnp.exp(-self.log_std)[None]
        return standard_normal_log_prob(noise) - jnp.sum(self.log_std, axis=-1)[None]

    def kl_to_standard_normal(self) -> Float[Array, " B"]:
        """KL(q ‖ N(0, I)) = ½ Σ_j (mean² + σ² − 1 − log σ²), closed form (eq. 2.2)."""
        return 0.5 * jnp.sum(jnp.square(self.mean) + self.variance - 1 - 2 * self.log_std, axis=-1)


def require_diagonal(q: Any, method: str) -> DiagonalGaussian:
    """q, where a method needs its base to give a `DiagonalGaussian`. Raises ValueError, one sentence, otherwise."""
    if not isinstance(q, DiagonalGaussian):
        raise ValueError(
            f"{method} needs a base whose posterior is a DiagonalGaussian, but this one's is a {type(q).__name__}; "
            "take another base (of newton, one with covariance=diagonal)."
        )
    return q


def diagonal_gaussian(output: Float[Array, "B twoZ"]) -> DiagonalGaussian:
    """A network's 2Z outputs as mean and log σ, the latter bounded smoothly by b·tanh(·/b), b = LOG_STD_BOUND.

    Near zero the bound is the identity to third order; a runaway output cannot overflow exp (eq. 2.3, derived).
    """
    mean, raw = jnp.split(output, 2, axis=-1)
    return DiagonalGaussian(mean, bounded_log(raw))


def bounded_log(raw: Float[Array, "*B"]) -> Float[Array, "*B"]:
    """A logarithm between ±LOG_STD_BOUND (eq. 2.3, derived)."""
    return LOG_STD_BOUND * jnp.tanh(raw / LOG_STD_BOUND)
