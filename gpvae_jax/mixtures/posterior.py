"""Q(z|x) = Σ_m α_m(x) q_m(z|x), a mixture of diagonal Gaussians, and the stick-breaking weights of a recursion.

Shapes: components lead, means[M, B, Z]; samples z[S, B, Z], stratified samples z[M, S, B, Z]; log-densities in nats.
Equations: docs/mathematics.md.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gpvae_jax.posteriors import DiagonalGaussian


class GaussianMixture(NamedTuple):
    """A batch of mixtures of M diagonal Gaussians with weights α = exp(log_alpha), which sum to one over M."""

    means: Float[Array, "M B Z"]
    log_stds: Float[Array, "M B Z"]
    log_alpha: Float[Array, "B M"]

    @property
    def num_components(self) -> int:
        """Number of components M."""
        return self.means.shape[0]

    @property
    def components(self) -> DiagonalGaussian:
        """All components as one `DiagonalGaussian` of fields [M, B, Z]; vmap its methods over M."""
        return DiagonalGaussian(self.means, self.log_stds)

    @property
    def mean(self) -> Float[Array, "B Z"]:
        """E z = Σ_m α_m mean_m."""
        return jnp.sum(self._alpha() * self.means, axis=0)

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Var z per latent = Σ_m α_m (σ_m² + (mean_m − E z)²), the law of total variance."""
        spread = jnp.square(self.means - self.mean[None])
        return jnp.sum(self._alpha() * (self.components.variance + spread), axis=0)

    def component_log_probs(self, z: Float[Array, "S B Z"]) -> Float[Array, "M S B"]:
        """log q_m(z|x) of every component."""
        return jax.vmap(lambda q: q.log_prob(z))(self.components)

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log Q(z|x) = logsumexp_m (log α_m + log q_m(z|x)), over all components (eq. 5.4)."""
        return jax.nn.logsumexp(self._joint(z), axis=0)

    def responsibilities(self, z: Float[Array, "S B Z"]) -> Float[Array, "M S B"]:
        """Posterior probability that z came from component m: α_m q_m(z) / Q(z)."""
        return jax.nn.softmax(self._joint(z), axis=0)

    def sample_categories(self, key: PRNGKeyArray, num_samples: int) -> Int[Array, "S B"]:
        """Component indices c ~ Categorical(α(x)), S per example."""
        return jax.random.categorical(key, self.log_alpha, axis=-1, shape=(num_samples, self.means.shape[1]))

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """c ~ Categorical(α), z = mean_c + σ_c e; the density is the whole mixture's, never q_c's.

        No gradient flows through the choice of c: to train, use `sample_strata`.
        """
        key_category, key_noise = jax.random.split(key)
        c = self.sample_categories(key_category, num_samples)
        b = jnp.broadcast_to(jnp.arange(c.shape[1])[None], c.shape)
        noise = jax.random.normal(key_noise, (*c.shape, self.means.shape[-1]), self.means.dtype)
        z = self.means[c, b] + jnp.exp(self.log_stds)[c, b] * noise
        return z, self.log_prob(z)

    def sample_strata(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "M S B Z"], Float[Array, "M S B"]]:
        """S reparameterised draws of *every* component, and log Q of each: for `stratified_mean`."""
        z = self.strata(self.noise(key, num_samples))
        return z, jax.vmap(self.log_prob)(z)

    def noise(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "M S B Z"]:
        """Standard normal noise for `strata`."""
        components, batch, latents = self.means.shape
        return jax.random.normal(key, (components, num_samples, batch, latents), self.means.dtype)

    def strata(self, noise: Float[Array, "M S B Z"]) -> Float[Array, "M S B Z"]:
        """z_m = mean_m + σ_m e_m for each component."""
        return self.means[:, None] + jnp.exp(self.log_stds)[:, None] * noise

    def pairwise_kl(self) -> Float[Array, "M M B"]:
        """KL(q_i ‖ q_j) between components, closed form, at [i, j]; zero on the diagonal."""
        return jax.vmap(lambda p: jax.vmap(lambda q: gaussian_kl(p, q))(self.components))(self.components)

    def _alpha(self) -> Float[Array, "M B 1"]:
        return jnp.exp(self.log_alpha).T[:, :, None]

    def _joint(self, z: Float[Array, "S B Z"]) -> Float[Array, "M S B"]:
        return self.component_log_probs(z) + self.log_alpha.T[:, None]


def stick_breaking(logits: Float[Array, "... M1"]) -> Float[Array, "... M"]:
    """log α of the recursion Q_m = (1 − ε_m) Q_{m−1} + ε_m q_m (eq. 5.1, paper), from the logits of ε_1 … ε_{M−1}.

    α_m = ε_m ∏_{j>m} (1 − ε_j) with ε_0 := 1 (eq. 5.2, paper); in logarithms, log α_m = log ε_m + Σ_{j>m} log(1 − ε_j),
    so that no weight underflows and none is a difference of near-equal numbers. No logits give the one weight 1.
    """
    nothing = jnp.zeros((*logits.shape[:-1], 1), logits.dtype)
    log_new = jnp.concatenate([nothing, jax.nn.log_sigmoid(logits)], axis=-1)
    log_kept = jnp.concatenate([jax.nn.log_sigmoid(-logits), nothing], axis=-1)
    return log_new + jax.lax.cumsum(log_kept, axis=logits.ndim - 1, reverse=True)


def stratified_mean(log_alpha: Float[Array, "B M"], values: Float[Array, "M S B"]) -> Float[Array, " B"]:
    """E_Q[v] ≈ Σ_m α_m mean_S v(z_m), z_m ~ q_m: unbiased, with the exact gradient in α (eq. 5.10, paper)."""
    return jnp.sum(jnp.exp(log_alpha).T * jnp.mean(values, axis=1), axis=0)


def gaussian_kl(p: DiagonalGaussian, q: DiagonalGaussian) -> Float[Array, " B"]:
    """KL(p ‖ q) between diagonal Gaussians, closed form, summed over the latents."""
    scaled = jnp.square(p.mean - q.mean) * jnp.exp(-2 * q.log_std)
    log_ratio = p.log_std - q.log_std
    return 0.5 * jnp.sum(jnp.expm1(2 * log_ratio) - 2 * log_ratio + scaled, axis=-1)


def gaussian_entropy(log_stds: Float[Array, "... Z"]) -> Float[Array, "..."]:
    """Entropy of a diagonal Gaussian, Σ log σ + Z/2 · log 2πe, in nats."""
    return jnp.sum(log_stds, axis=-1) + 0.5 * log_stds.shape[-1] * math.log(2 * math.pi * math.e)
