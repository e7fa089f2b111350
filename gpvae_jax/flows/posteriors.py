"""Posteriors that pass a Gaussian sample through invertible maps: inverse autoregressive and Householder flows.

Equations: docs/mathematics.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.posteriors import DiagonalGaussian

Autoregressive = Callable[[PyTree, Array, Array], tuple[Array, Array]]  # a Made's apply

FAR, MAX_EXPONENT = 1e6, 60.0  # of an inverted latent, and of the factor 1/g that leads to it
TINY = 1e-12  # |v|² of a Householder vector is kept above it, so that v = 0 means no reflection


def iaf_step(
    network: Autoregressive, params: PyTree, shift: Float[Array, "B G"], z: Float[Array, "S B Z"], gate_bias: float
) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
    """z ← g z + (1 − g) m with (m, s) = network(z), g = sigmoid(s + b), and log |∂z'/∂z| = Σ log g
    (eq. 4.1, paper)."""
    mean, gate = network(params, shift, z)
    log_gate = jax.nn.log_sigmoid(gate + gate_bias)
    kept = jnp.exp(log_gate)
    return kept * z + (1 - kept) * mean, jnp.sum(log_gate, axis=-1)


def invert_iaf_step(
    network: Autoregressive, params: PyTree, shift: Float[Array, "B G"], z: Float[Array, "S B Z"], gate_bias: float
) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
    """The z that `iaf_step` maps to the given one, and the step's log-determinant there.

    Latent j needs the latents before it only, so they are found one after the other: Z network passes. A point that
    only a z beyond ±FAR reaches is taken to come from there: its density is zero for any purpose, but not NaN.
    """

    def body(found: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], None]:
        before, log_gates = found
        mean, gate = network(params, shift, before)
        log_gate = jax.nn.log_sigmoid(gate + gate_bias)
        here = (jnp.arange(z.shape[-1]) == j)[None, None]
        grown = (z - mean) * jnp.exp(jnp.minimum(-log_gate, MAX_EXPONENT))
        value = jnp.clip(mean + grown, -FAR, FAR)  # (z' − (1 − g) m) / g
        return (jnp.where(here, value, before), jnp.where(here, log_gate, log_gates)), None

    nothing = jnp.zeros_like(z)
    (before, log_gates), _ = jax.lax.scan(body, (nothing, nothing), jnp.arange(z.shape[-1]))
    return before, jnp.sum(log_gates, axis=-1)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["base", "shifts", "params"],
    meta_fields=["network", "gate_bias"],
)
@dataclass(frozen=True)
class IAFPosterior:
    """q(z|x): T autoregressive steps after a Gaussian, every second one in reversed order of the latents.

    The flow's parameters are leaves beside the per-example ones, so an example is not picked by indexing all leaves.
    """

    base: DiagonalGaussian
    shifts: Float[Array, "B T G"]  # what each step's network makes of the context
    params: PyTree  # of the T networks, leaves [T, …]
    network: Autoregressive
    gate_bias: float

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z = z_T of z_0 ~ base; log q = log base(z_0) − Σ_t Σ log g_t (eq. 4.2, paper)."""
        z, log_q = self.base.sample_and_log_prob(key, num_samples)
        z, log_det = self.forward(z)
        return z, log_q - log_det

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x) at any z, by inverting the steps: T·Z network passes."""

        def step(carry: tuple[Array, Array], layer: tuple[PyTree, Array]) -> tuple[tuple[Array, Array], None]:
            z, total = carry
            # the order was reversed after each step
            z, log_det = invert_iaf_step(self.network, layer[0], layer[1], z[..., ::-1], self.gate_bias)
            return (z, total + log_det), None

        start = (self._undo_reversal(z), jnp.zeros_like(z[..., 0]))
        (z, log_det), _ = jax.lax.scan(step, start, self._layers(), reverse=True)
        return self.base.log_prob(z) - log_det

    def forward(self, z: Float[Array, "S B Z"]) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """z_0 -> z_T and log |∂z_T/∂z_0|."""

        def step(carry: tuple[Array, Array], layer: tuple[PyTree, Array]) -> tuple[tuple[Array, Array], None]:
            z, total = carry
            z, log_det = iaf_step(self.network, layer[0], layer[1], z, self.gate_bias)
            return (z[..., ::-1], total + log_det), None

        (z, log_det), _ = jax.lax.scan(step, (z, jnp.zeros_like(z[..., 0])), self._layers())
        return self._undo_reversal(z), log_det

    def _layers(self) -> tuple[PyTree, Array]:
        return self.params, jnp.moveaxis(self.shifts, 1, 0)

    def _undo_reversal(self, z: Array) -> Array:
        """One reversal per step is one too many where T is odd: latent j of z is latent j of the base."""
        return z[..., ::-1] if self.shifts.shape[1] % 2 else z


class HouseholderPosterior(NamedTuple):
    """q(z|x): a diagonal Gaussian reflected T times, z ← z − 2 v (vᵀz)/|v|², a Gaussian with a rotated covariance."""

    base: DiagonalGaussian
    vectors: Float[Array, "B T Z"]  # v_1 … v_T

    @property
    def mean(self) -> Float[Array, "B Z"]:
        """The reflected mean."""
        return reflect(self.vectors, self.base.mean[None])[0]

    @property
    def variance(self) -> Float[Array, "B Z"]:
        """Marginal variances: squared reflected axes of the base, each of its length σ_j, summed."""
        axes = jax.vmap(jnp.diag)(self.base.std)  # [B, Z, Z]: row j is σ_j e_j
        return jnp.sum(jnp.square(reflect(self.vectors, jnp.moveaxis(axes, 1, 0))), axis=0)

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num_samples: int
    ) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
        """The reflections have determinant ±1, so the density is the base's."""
        z, log_q = self.base.sample_and_log_prob(key, num_samples)
        return reflect(self.vectors, z), log_q

    def log_prob(self, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
        """log q(z|x): a reflection is its own inverse, so the same ones in reversed order lead back."""
        return self.base.log_prob(reflect(self.vectors[:, ::-1], z))

    def kl_to_standard_normal(self) -> Float[Array, " B"]:
        """The base's: N(0, I) does not change under reflection (derived)."""
        return self.base.kl_to_standard_normal()


def reflect(vectors: Float[Array, "B T Z"], z: Float[Array, "S B Z"]) -> Float[Array, "S B Z"]:
    """z ← z − 2 v (vᵀz)/|v|² for v_1, …, v_T in turn (eq. 4.3, paper)."""

    def step(z: Array, v: Float[Array, "B Z"]) -> tuple[Array, None]:
        scaled = 2 * v / jnp.maximum(jnp.sum(jnp.square(v), axis=-1, keepdims=True), TINY)
        along = jnp.einsum("sbz,bz->sb", z, v)
        return z - along[:, :, None] * scaled[None], None

    return jax.lax.scan(step, z, jnp.moveaxis(vectors, 1, 0))[0]


def stacked(init: Callable[[PRNGKeyArray], PyTree], key: PRNGKeyArray, count: int) -> PyTree:
    """`count` independent initialisations, leaves [count, …]; none at all gives empty leaves of the same shapes."""
    if count:
        return jax.vmap(init)(jax.random.split(key, count))
    shapes = jax.eval_shape(init, key)
    return jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape), np.dtype(leaf.dtype)), shapes)
