"""Inverse autoregressive flow (Kingma et al. 2016): an amortized Gaussian, then T autoregressive steps.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_at_least, check_finite
from gpvae_jax.flows.made import made
from gpvae_jax.flows.posteriors import IAFPosterior, stacked
from gpvae_jax.keys import FLOW_KEY
from gpvae_jax.methods.vae import vae
from gpvae_jax.networks import linear
from gpvae_jax.objectives import sampled_loss
from gpvae_jax.posteriors import diagonal_gaussian
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params


def iaf(
    model: LatentModel,
    encoder: Network,
    *,
    steps: int = 2,
    width: int = 512,
    layers: int = 1,
    gate_bias: float = 2.0,
    num_samples: int = 1,
) -> InferenceMethod:
    """z_0 = μ + σε, then T times (m, s) = MADE_t(z, h(x)), g = sigmoid(s + b), z ← g z + (1 − g) m; log q −= Σ log g
    (eqs. 4.1 and 4.2, paper).

    The encoder's features h are the context of every step; the order of the latents is reversed between steps.
    steps: T; 0 is the vae with a sampled KL. width, layers: hidden units and layers of each MADE. gate_bias: b;
    positive, so that a new flow keeps most of z. num_samples: draws of z for the loss.
    φ is that of `vae`, {"encoder", "head"}, and "flow", whose leaves lead with the step axis [T, …]. Raises ValueError
    on a setting out of range.
    """
    check_at_least(0, steps=steps)
    check_at_least(1, num_samples=num_samples)
    check_finite(gate_bias=gate_bias)
    amortized = vae(model, encoder)
    head = linear(encoder.out_shape[-1], 2 * model.latent_dim)
    network = made(model.latent_dim, encoder.out_shape[-1], width, layers)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = amortized.init(key, x)
        flow = stacked(network.init, jax.random.fold_in(key, FLOW_KEY), steps)
        return Params(params.model, params.inference | {"flow": flow})

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[IAFPosterior, Info]:
        phi = params.inference
        features = encoder.apply(phi["encoder"], x)
        start = diagonal_gaussian(head.apply(phi["head"], features))
        if steps:
            shifts = jax.vmap(network.shifts, in_axes=(0, None), out_axes=1)(phi["flow"], features)
        else:
            shifts = jnp.zeros((x.shape[0], 0, network.shift_dim), features.dtype)
        return IAFPosterior(start, shifts, phi["flow"], network.apply, gate_bias), {}

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = posterior(params, key_posterior, x)
        z, log_q = q.sample_and_log_prob(key_z, num_samples)
        log_ratio = log_q - model.log_prior(params.model, z)
        return sampled_loss(model.log_likelihood(params.model, x, z), log_ratio, beta)

    return InferenceMethod(init, posterior, loss)
