"""The generative model against plain loops over its likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.likelihoods import LIKELIHOODS
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from tests.cases import DATA_SHAPE, LATENT_DIM, small_model

RNG = np.random.default_rng(0)
GREY = jnp.asarray(RNG.integers(0, 256, (3, *DATA_SHAPE)) / 255, jnp.float32)
Z = jnp.asarray(RNG.normal(size=(2, 3, LATENT_DIM)), jnp.float32)


@pytest.fixture(scope="module", params=sorted(LIKELIHOODS))
def built(request):
    """Model, θ and the likelihood it was made with."""
    likelihood = LIKELIHOODS[request.param]()
    model = small_model(likelihood)
    return model, model.init(jax.random.key(0), GREY), likelihood


def test_log_likelihood_equals_a_plain_loop(built):
    model, theta, likelihood = built
    decoder = mlp((LATENT_DIM,), (6,), DATA_SHAPE, activation="tanh")
    got = model.log_likelihood(theta, GREY, Z)
    assert got.shape == (2, 3)
    for s in range(2):
        for b in range(3):
            output = decoder.apply(theta["decoder"], Z[s, b][None])[0]
            expected = likelihood.log_prob(theta["likelihood"], output, GREY[b])
            np.testing.assert_allclose(got[s, b], expected, rtol=1e-5)


def test_samples(built):
    model, theta, likelihood = built
    z, x = jax.jit(model.sample, static_argnums=2)(theta, jax.random.key(1), 2000)
    assert z.shape == (2000, LATENT_DIM)
    assert x.shape == (2000, *DATA_SHAPE)
    assert x.dtype == z.dtype == jnp.float32
    likelihood.check(np.asarray(x))
    assert stats.kstest(np.asarray(z).ravel(), "norm").pvalue > 1e-4
    # E[x] = E[E[x|z]]; the Gaussian's 2000 draws are the same z, so only p(x|z)'s noise remains
    residual = np.asarray(x - model.mean(theta, z), np.float64)
    error = residual.std(axis=0) / 2000**0.5
    assert (np.abs(residual.mean(axis=0)) < 5 * error + 1e-4).all()


def test_mean_is_the_likelihoods(built):
    model, theta, likelihood = built
    decoder = mlp((LATENT_DIM,), (6,), DATA_SHAPE, activation="tanh")
    mean = model.mean(theta, Z[0])
    assert mean.shape == (3, *DATA_SHAPE)
    expected = likelihood.mean(theta["likelihood"], decoder.apply(theta["decoder"], Z[0]))
    np.testing.assert_allclose(mean, expected, rtol=1e-5)


def test_theta_and_shapes(built):
    model, theta, likelihood = built
    assert set(theta) == {"decoder", "likelihood"}
    assert theta["likelihood"].keys() == likelihood.init(GREY).keys()
    assert (model.data_shape, model.latent_dim) == (DATA_SHAPE, LATENT_DIM)
    np.testing.assert_allclose(model.log_prior(theta, Z), stats.norm.logpdf(Z).sum(-1), rtol=1e-5)


def test_data_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"makes examples of shape \(4, 4, 1\), but the data have shape \(8, 8, 1\)"):
        small_model().init(jax.random.key(0), jnp.zeros((2, 8, 8, 1)))


def test_a_decoder_of_images_is_refused():
    with pytest.raises(ValueError, match=r"takes a vector of latents \[Z\], but this one takes \(4, 4, 1\)"):
        latent_model(mlp((4, 4, 1), (), DATA_SHAPE), LIKELIHOODS["bernoulli"]())
