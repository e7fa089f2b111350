"""The variational autoencoder: one amortized diagonal Gaussian (Kingma & Welling 2014).

Equations: docs/mathematics.md.
"""

import math

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.networks import check_encoder, linear
from gpvae_jax.objectives import analytic_loss, sampled_loss
from gpvae_jax.posteriors import DiagonalGaussian, diagonal_gaussian
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params


def vae(
    model: LatentModel,
    encoder: Network,
    *,
    num_samples: int = 1,
    analytic_kl: bool = True,
    std_scale: float = 1.0,
) -> InferenceMethod:
    """Amortized inference, q(z|x) = N(m_φ(x), diag s_φ(x)²) (eq. 2.1, paper), in one feed-forward pass.

    model: the generative model; encoder: x[B, *D] -> features h[B, H], on which an affine head puts (m, log s).
    num_samples: draws of z per example and step. analytic_kl: the KL to the prior in closed form, otherwise
    estimated by the same draws (β weighs it either way). std_scale: multiplies s; over trained parameters, with a
    factor chosen on validation data, it is the rival of every method that gains by a wider q alone.
    Raises ValueError on a setting out of range and on an encoder that does not take the model's examples.
    """
    check_encoder(encoder, model.data_shape)
    check_above(0, std_scale=std_scale)
    check_at_least(1, num_samples=num_samples)
    head = linear(encoder.out_shape[-1], 2 * model.latent_dim)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        key_model, key_encoder, key_head = jax.random.split(key, 3)
        inference = {"encoder": encoder.init(key_encoder), "head": head.init(key_head)}
        return Params(model.init(key_model, x), inference)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[DiagonalGaussian, Info]:
        phi = params.inference
        q = diagonal_gaussian(head.apply(phi["head"], encoder.apply(phi["encoder"], x)))
        return (q if std_scale == 1 else q._replace(log_std=q.log_std + math.log(std_scale))), {}

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = posterior(params, key_posterior, x)
        if analytic_kl:
            return analytic_loss(model, params.model, q, key_z, x, num_samples, beta)
        z, log_q = q.sample_and_log_prob(key_z, num_samples)
        log_likelihood = model.log_likelihood(params.model, x, z)
        return sampled_loss(log_likelihood, log_q - model.log_prior(params.model, z), beta)

    return InferenceMethod(init, posterior, loss)
