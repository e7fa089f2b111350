"""What a GPVAE says about its errors: how uncertain inference is at an example, and samples by drawing the weights.

Equations: docs/mathematics.md.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.gp.posterior import VARIANCE_FLOOR
from gpvae_jax.gp.weights import weight_posterior_by_name, white_noise
from gpvae_jax.posteriors import standard_normal_log_prob
from gpvae_jax.types import Info, Params


class Uncertainty(NamedTuple):
    """Posterior variance of the errors of each example, summed over latents."""

    mean: Float[Array, " B"]  # of f: A, with v where there is white noise
    std: Float[Array, " B"]  # of h: B, likewise
    total: Float[Array, " B"]  # both


def uncertainty(info: Info, *, relative: bool = False) -> Uncertainty:
    """How uncertain amortized inference is at each example (eq. 6.15, paper), from what `gpvae`'s posterior returned.

    The scores per latent are info["mean_variance"] and info["std_variance"], [B, Z]. relative: in units of the
    base's variance s² (derived), so that a latent known to 0.01 and one known to 1 weigh alike.
    """
    unit = jnp.square(info["base_std"]) if relative else jnp.ones_like(info["base_std"])
    mean, std = (jnp.sum(info[name] / unit, axis=-1) for name in ("mean_variance", "std_variance"))
    return Uncertainty(mean, std, mean + std)


def redraw(
    params: Params, info: Info, key: PRNGKeyArray, num_samples: int, *, weight_posterior: str = "diagonal"
) -> tuple[Float[Array, "S B Z"], Float[Array, "S B"]]:
    """The estimator without marginalisation: (W, U) ~ q anew per sample, shared by the batch, z ~ N(m + Wψ, (s + Uψ)²).

    Returns z and log q(z|x, W, U). z is distributed as the marginal posterior's; the mean of log p − log q over
    samples is the expected ELBO, and exp of it is still an unbiased weight for p(x). Costs S Z F memory. params and
    info are `gpvae`'s, `weight_posterior` its setting; white noise is redrawn per example.
    """
    family = weight_posterior_by_name(weight_posterior, 1)
    key_z, *keys = jax.random.split(key, 5)
    phi, psi = params.inference, info["features"]

    def errors(part: str, key_weights: PRNGKeyArray, key_noise: PRNGKeyArray) -> Float[Array, "S B Z"]:
        f = jnp.einsum("szf,bf->sbz", family.draw(phi[part], key_weights, num_samples), psi)
        if "noise" not in phi:
            return f
        spread = jnp.sqrt(white_noise(phi["noise"][part], psi))
        return f + spread[None] * jax.random.normal(key_noise, f.shape, f.dtype)

    mean = info["base_mean"][None] + errors("mean", keys[0], keys[1])
    std = info["base_std"][None] + errors("std", keys[2], keys[3])
    std = jnp.sqrt(jnp.maximum(jnp.square(std), VARIANCE_FLOOR))
    noise = jax.random.normal(key_z, mean.shape, mean.dtype)
    return mean + std * noise, standard_normal_log_prob(noise) - jnp.sum(jnp.log(std), axis=-1)
