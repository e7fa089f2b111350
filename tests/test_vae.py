"""The VAE's own settings; what it shares with every method is in test_conformance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods import mixture, svi, vae
from gpvae_jax.networks import mlp
from tests.cases import X, small_encoder, small_model

MODEL, ENCODER, KEY = small_model(), small_encoder(), jax.random.key(0)


def test_std_scale_widens_the_posterior_and_leaves_the_mean():
    plain, wide = vae(MODEL, ENCODER), vae(MODEL, ENCODER, std_scale=1.5)
    params = plain.init(KEY, X)
    q, wider = (method.posterior(params, KEY, jnp.asarray(X))[0] for method in (plain, wide))
    np.testing.assert_array_equal(wider.mean, q.mean)
    np.testing.assert_allclose(wider.std, 1.5 * q.std, rtol=1e-6)
    with pytest.raises(ValueError, match="std_scale must be above 0, got 0"):
        vae(MODEL, ENCODER, std_scale=0.0)


def test_the_sampled_kl_agrees_with_the_closed_form_on_average():
    params = vae(MODEL, ENCODER).init(KEY, X)
    exact, sampled = (
        vae(MODEL, ENCODER, num_samples=5000, analytic_kl=analytic).loss(params, KEY, jnp.asarray(X))[1]
        for analytic in (True, False)
    )
    np.testing.assert_array_equal(exact["log_likelihood"], sampled["log_likelihood"])
    np.testing.assert_allclose(sampled["kl"], exact["kl"], atol=5 * 2 / np.sqrt(5000 * len(X)))


def test_an_encoder_for_other_examples_is_told():
    for factory in (vae, mixture, svi):
        with pytest.raises(ValueError, match=r"The encoder takes examples of shape \(5,\), but the model's have"):
            factory(MODEL, mlp((5,), (3,)))
    with pytest.raises(ValueError, match=r"a vector \[F\], but the encoder makes"):
        vae(MODEL, mlp(MODEL.data_shape, (3,), (2, 6)))
