"""q(z|x) = ∫ q(z|x, W, U) q(W, U) (eq. 6.10, derived): a Gaussian whose mean and standard deviation are Gaussian.

Per latent, z ~ N(μ, σ²) with μ ~ N(c, A) and σ ~ N(a, B), hence z ~ N(c, A + σ²): a scale mixture over the scalar σ.
Only σ² matters, so σ may be negative; σ² is floored at VARIANCE_FLOOR, in samples and density alike.
Equations: docs/mathematics.md.
"""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.posteriors import DiagonalGaussian

VARIANCE_FLOOR = 1e-6
NODE_RANGE = 5.0  # quadrature nodes reach this many standard deviations of σ: the rest has mass 6e-7
LOG_TWO_PI = math.log(2 * math.pi)


def scale_nodes(
    std_mean: Float[Array, "B Z"],
    std_variance: Float[Array, "B Z"],
    resolution: Float[Array, "B Z"],
    num_nodes: int,
) -> tuple[Float[Array, "K B Z"], Float[Array, "K B Z"]]:
    """Nodes t and weights ω of E_t[g(a + √B t)], t ~ N(0, 1), for g that varies fastest where σ = 0
    (eq. 6.12, derived).

    A trapezoidal rule in u with t = t₀ + δ sinh u: fine around the zero crossing t₀ = −a/√B, plain where the crossing
    is out of reach, with Σ ω = 1 exactly. `resolution` is the variance below which g no longer resolves σ². The
    nodes lie symmetrically about t₀, so that the principal value in d/da E log σ² comes out right. Gauss–Hermite
    nodes know nothing of t₀: with 32 of them E log σ² is off by up to 0.6 nats and its gradient by up to 20/√B
    where |a| < 3√B, here by 2e-3 and 0.02/√B. Nodes carry no gradient: they are a choice, not a quantity.
    """
    root = jnp.sqrt(jnp.maximum(std_variance, 1e-30))
    crossing = jnp.clip(-std_mean / root, -24.0, 24.0)
    width = jnp.clip(jnp.sqrt(jnp.maximum(resolution, VARIANCE_FLOOR)) / root, 0.01, 100.0)
    # a crossing far out in the tail of t needs no fine nodes
    width = jnp.minimum(width * jnp.exp(jnp.minimum(jnp.square(crossing) / 4, 20.0)), 100.0)
    low = jnp.arcsinh((-NODE_RANGE - crossing) / width)
    step = (jnp.arcsinh((NODE_RANGE - crossing) / width) - low) / (num_nodes - 1)
    low = low + step * (jnp.mod(-low / step, 1.0) - 0.5)
    grow = jnp.exp(low[None] + step[None] * jnp.arange(num_nodes, dtype=low.dtype)[:, None, None])
    shrink = 1 / grow  # sinh u and cosh u are half their difference and sum; |u| is below 9
    t = crossing[None] + 0.5 * width[None] * (grow - shrink)
    weights = (grow + shrink) * jnp.exp(-0.5 * jnp.square(t))  # |t| is at most NODE_RANGE: nothing underflows
    return jax.lax.stop_gradient((t, weights / jnp.sum(weights, axis=0, keepdims=True)))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["mean", "mean_variance", "std_mean", "std_variance"],
    meta_fields=["quadrature"],
)
@dataclass(frozen=True)
class GaussianScaleMixture:
    """A batch of marginal posteriors; z = c + √(A + σ²) e₁ with σ = a + √B e₂.

    In distribution this is the three-noise form z = c + √A e₁ + (a + √B e₂) e₃; one noise the less lowers the
    variance of its gradient and has no √A at A = 0 (eq. 6.8, derived). A = B = 0 is N(c, a²).
    """

    mean: Float[Array, "B Z"]  # c = m + E f
    mean_variance: Float[Array, "B Z"]  # A = Var f
    std_mean: Float[Array, "B Z"]  # a = s + E h
    std_variance: Float[Array, "B Z"]  # B = Var h
    quadrature: int = 32  # nodes K over σ; static

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Var z = A + a² + B."""
        return self.mean_variance + jnp.square(self.std_mean) + self.std_variance

    def moment_matched(self) -> DiagonalGaussian:
        """The Gaussian of the same mean and variance: a starting point for methods that need a Gaussian."""
        return DiagonalGaussian(self.mean, 0.5 * jnp.log(jnp.maximum(self.variance, VARIANCE_FLOOR)))

    def draw(self, key: PRNGKeyArray, num_samples: int) -> tuple[Float[Array, "S B Z"], Float[Array, "S B Z"]]:
        """z, and the variance A + σ² it was drawn with.

        e₁ is what `DiagonalGaussian` draws from the same key, so that at A = B = 0 the samples are its samples.
        """
        shape, dtype = (num_samples, *self.mean.shape), self.mean.dtype
        variance = self.mean_variance[None] + self._scale(jax.random.normal(jax.random.fold_in(key, 1), shape, dtype))
        z = self.mean[None] + jnp.sqrt(variance) * jax.random.normal(key, shape, dtype)
        return z, variance

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """Exact draws and their log-density."""
        z, _ = self.draw(key, num_samples)
        return z, self.log_prob(z)

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q = Σ_j log Σ_k ω_k N(z_j; c_j, A_j + (a_j + √B_j t_k)²) (eq. 6.11, derived), normalised; O(K S B Z)."""
        return jnp.sum(self._log_density(z), axis=-1)

    def expected_kl(self) -> Float[Array, " B"]:
        """E_{μ,σ} KL(N(μ, σ²) ‖ N(0, I)) = ½ Σ [c² + A + a² + B − 1 − E log σ²] (eq. 6.9, derived)."""
        return self._kl(self._expected_log(jnp.zeros_like(self.mean_variance)))

    def marginal_kl(self, z: Float[Array, "S B Z"], variance: Float[Array, "S B Z"]) -> Float[Array, " B"]:
        """Unbiased estimate of KL(q ‖ N(0, I)), q the marginal, from what `draw` returned.

        ½ Σ [c² + A + a² + B − 1 − E log(A + σ²)] − I(z; σ), the mutual information by the draws' mean of
        log N(z; c, A + σ²) − log q(z) (eq. 6.14, derived): its noise vanishes with B, and it is at most `expected_kl`.
        """
        squared = jnp.square(z - self.mean[None])
        conditional = -0.5 * (squared / variance + jnp.log(variance) + LOG_TWO_PI)
        information = jnp.mean(jnp.sum(conditional - self._log_density(z), axis=-1), axis=0)
        return self._kl(self._expected_log(self.mean_variance)) - information

    def _scale(self, t: Float[Array, "K B Z"]) -> Float[Array, "K B Z"]:
        """σ² at σ = a + √B t, floored."""
        return jnp.maximum(jnp.square(self.std_mean[None] + _safe_sqrt(self.std_variance)[None] * t), VARIANCE_FLOOR)

    def _expected_log(self, extra: Float[Array, "B Z"]) -> Float[Array, "B Z"]:
        """E log(extra + σ²)."""
        t, weights = scale_nodes(self.std_mean, self.std_variance, extra, self.quadrature)
        return jnp.sum(weights * jnp.log(extra[None] + self._scale(t)), axis=0)

    def _kl(self, expected_log: Float[Array, "B Z"]) -> Float[Array, " B"]:
        return 0.5 * jnp.sum(jnp.square(self.mean) + self.variance - 1 - expected_log, axis=-1)

    def _log_density(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B Z"]:
        t, weights = scale_nodes(self.std_mean, self.std_variance, self.mean_variance, self.quadrature)
        precision = 1 / (self.mean_variance[None] + self._scale(t))
        exponent = -0.5 * jnp.square(z - self.mean[None])
        # the node with the least precision has the largest exponent: with that factor before the sum nothing
        # overflows and one term is ω √precision, so that there is one logarithm per z and none per node
        least = jax.lax.stop_gradient(jnp.min(precision, axis=0))
        total = _over_nodes(weights * jnp.sqrt(precision), precision - least[None], exponent)
        return exponent * least[None] + jnp.log(total) - 0.5 * LOG_TWO_PI


def _over_nodes(
    front: Float[Array, "K B Z"], rate: Float[Array, "K B Z"], exponent: Float[Array, "S B Z"]
) -> Float[Array, "S B Z"]:
    """Σ_k front_k exp(rate_k exponent). On a CPU node by node: in one sum over [K, S, B, Z] the compiler computes the
    nodes anew for every sample, and takes twice as long for one sample, 35 times as long for 50 (measured)."""
    if jax.default_backend() != "cpu":
        return jnp.sum(front[:, None] * jnp.exp(rate[:, None] * exponent[None]), axis=0)

    def add(total: Array, node: tuple[Array, Array]) -> tuple[Array, None]:
        return total + node[0][None] * jnp.exp(node[1][None] * exponent), None

    return jax.lax.scan(add, jnp.zeros_like(exponent), (front, rate))[0]


def _safe_sqrt(x: Array) -> Array:
    """√x whose gradient is 0, not infinite, where x is."""
    positive = x > jnp.finfo(x.dtype).tiny
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, jnp.ones_like(x))), jnp.zeros_like(x))
