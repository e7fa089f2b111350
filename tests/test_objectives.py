"""Importance-weighted training: its identities, and the doubly-reparameterised gradient against the plain one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.bounds import iwae, log_weights
from gpvae_jax.gaussians.full import FullGaussian
from gpvae_jax.methods.iwae import iwae as iwae_method
from gpvae_jax.methods.mixture import mixture as mixture_method
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.bounds import importance_weighted
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.objectives import doubly_reparameterized_log_weights, iwae_trained
from gpvae_jax.types import InferenceMethod, Params
from tests.cases import X, assert_close, compiled, paths, perturb, small_encoder, small_model
from tests.exact import latent_model, random_model

MODEL, DATA = small_model(), jnp.asarray(X)
BASE = compiled(vae(MODEL, small_encoder(), analytic_kl=False))
PARAMS = perturb(BASE.init(jax.random.key(0), DATA), 0, 0.3)


def gradients(method: InferenceMethod, beta: float, count: int) -> Params:
    """Gradients of `count` independent losses, leaves [count, …]."""
    grad = jax.grad(lambda p, key: method.loss(p, key, DATA, beta=beta)[0])
    return jax.jit(jax.vmap(grad, in_axes=(None, 0)))(PARAMS, jax.random.split(jax.random.key(1), count))


@pytest.mark.parametrize("doubly", [False, True])
def test_one_sample_is_the_elbo(doubly):
    method, key = iwae_trained(BASE, MODEL, num_samples=1, doubly_reparameterized=doubly), jax.random.key(2)
    expected, metrics = BASE.loss(PARAMS, key, DATA)
    value, own = jax.jit(method.loss)(PARAMS, key, DATA)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose((own["elbo"], own["iwae"]), (metrics["elbo"], metrics["elbo"]), rtol=1e-5)


def test_more_samples_tighten_the_bound_and_the_posterior_is_the_base_s():
    method = iwae_method(MODEL, small_encoder(), num_samples=20)
    keys = jax.random.split(jax.random.key(3), 50)
    _, metrics = jax.jit(jax.vmap(method.loss, in_axes=(None, 0, None)))(PARAMS, keys, DATA)
    assert (metrics["iwae"] > metrics["elbo"]).all()
    assert_close(jax.jit(method.posterior)(PARAMS, keys[0], DATA)[0], BASE.posterior(PARAMS, keys[0], DATA)[0], 0.0)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_the_doubly_reparameterized_gradient_is_right_on_average(beta):
    """Equal in expectation for φ, and draw by draw for θ."""
    plain = gradients(iwae_trained(BASE, MODEL, num_samples=4), beta, 4000)
    doubly = gradients(iwae_trained(BASE, MODEL, num_samples=4, doubly_reparameterized=True), beta, 4000)
    assert_close(doubly.model, plain.model, 1e-4)
    for path, leaf in paths(plain.inference).items():
        one, other = np.asarray(leaf, np.float64), np.asarray(paths(doubly.inference)[path], np.float64)
        error = (one - other).std(axis=0) / np.sqrt(len(one))
        assert (np.abs((one - other).mean(axis=0)) < 5 * error + 1e-6).all(), path
        assert (np.abs(one.mean(axis=0)) > 5 * error).any(), "the test must see a gradient at all"


def test_the_values_are_the_log_weights():
    theta, key = PARAMS.model, jax.random.key(4)
    q, _ = BASE.posterior(PARAMS, key, DATA)
    draws = [f(MODEL, theta, q, key, DATA, 5, beta=0.7) for f in (log_weights, doubly_reparameterized_log_weights)]
    np.testing.assert_allclose(*draws, rtol=1e-5)


def test_no_noise_at_the_exact_posterior():
    """There all weights are equal and nothing pulls: the doubly-reparameterised gradient is zero for every draw."""
    exact = random_model()
    model, x = latent_model(exact), exact.data(0, 4)
    with jax.enable_x64(True):
        mean, covariance = exact.posterior(x)
        start = FullGaussian(jnp.asarray(mean), jnp.asarray(np.broadcast_to(np.linalg.cholesky(covariance), (4, 3, 3))))

        def bound(draw, q):
            log_w = draw(model, exact.theta(np.float64), q, jax.random.key(0), jnp.asarray(x), 6)
            return jnp.mean(iwae(log_w))

        doubly = jax.jit(jax.grad(partial(bound, doubly_reparameterized_log_weights)))(start)
        plain = jax.jit(jax.grad(partial(bound, log_weights)))(start)
        assert all(np.abs(leaf).max() < 1e-12 for leaf in jax.tree.leaves(doubly))
        assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(plain))


def test_a_mixture_is_trained_on_a_bound_with_a_gradient_in_its_weights():
    """Between the ELBO and log p(x), tighter with more draws; and its slope in the weights is the bound's own."""
    exact = random_model()
    model, x, theta = latent_model(exact), exact.data(0, 4), exact.theta()
    start = exact.diagonal_posterior(x)
    means = jnp.stack([start.mean + shift for shift in (-0.5, 0.0, 0.8)])
    log_stds = jnp.broadcast_to(start.log_std, means.shape)
    logits = jnp.asarray([0.3, -0.2, 0.5])

    @partial(jax.jit, static_argnums=2)
    def bounds(logits, key, count):
        log_alpha = jnp.broadcast_to(jax.nn.log_softmax(logits), (4, 3))
        mixture = GaussianMixture(means, log_stds, log_alpha)
        z, log_q = mixture.sample_strata(key, count)
        return importance_weighted(model, theta, mixture, z, log_q, jnp.asarray(x, jnp.float32), 1.0)

    def mean(logits, count):
        found = np.asarray(jax.vmap(lambda key: jnp.stack(bounds(logits, key, count)))(keys), np.float64)
        return found.mean(axis=0), found.std(axis=0) / len(keys) ** 0.5

    keys = jax.random.split(jax.random.key(0), 4000)
    (one, elbo_of_one), error = mean(logits, 1)
    (eight, elbo_of_eight), error_of_eight = mean(logits, 8)
    noise = 4 * np.hypot(error, error_of_eight)
    assert np.all(elbo_of_one < one)
    assert np.all(one < eight + noise[0])
    assert np.all(eight < exact.log_evidence(x) + 4 * error_of_eight[0])
    assert np.all(np.abs(elbo_of_one - elbo_of_eight) < noise[1])
    categorical = jax.vmap(lambda key: _elbo_of_choices(model, theta, means, log_stds, logits, key, x))(keys)
    categorical = np.asarray(categorical, np.float64)
    other = categorical.std(axis=0) / len(keys) ** 0.5
    assert np.all(np.abs(categorical.mean(axis=0) - elbo_of_eight) < 4 * np.hypot(other, error_of_eight[1]))

    step = jnp.asarray([0.1, 0.0, 0.0])
    slopes = jax.vmap(jax.grad(lambda logits, key: jnp.mean(bounds(logits, key, 2)[0])), in_axes=(None, 0))(
        logits, keys
    )
    moved = [mean(logits + sign * step, 2)[0][0].mean() for sign in (1, -1)]  # the same draws
    np.testing.assert_allclose(np.mean(slopes[:, 0]), (moved[0] - moved[1]) / 0.2, rtol=0.02)


def _elbo_of_choices(model, theta, means, log_stds, logits, key, x):
    q = GaussianMixture(means, log_stds, jnp.broadcast_to(jax.nn.log_softmax(logits), (4, 3)))
    return jnp.mean(log_weights(model, theta, q, key, jnp.asarray(x, jnp.float32), 8), axis=0)


def test_bad_settings_are_told():
    mixture = mixture_method(MODEL, small_encoder(), num_components=2)
    start = mixture.init(jax.random.key(0), DATA)
    with pytest.raises(ValueError, match="a mixture chooses a component"):
        iwae_trained(mixture, MODEL, num_samples=2, doubly_reparameterized=True).loss(start, jax.random.key(0), DATA)

    class Silent:
        def sample_and_log_prob(self, key, num_samples):
            return jnp.zeros((num_samples, 5, 3)), jnp.zeros((num_samples, 5))

    with pytest.raises(ValueError, match="num_samples must be at least 1, got 0"):
        iwae_trained(BASE, MODEL, num_samples=0)
    method = BASE._replace(posterior=lambda params, key, x: (Silent(), {}))
    with pytest.raises(ValueError, match="Silent has no log_prob"):
        iwae_trained(method, MODEL, num_samples=2, doubly_reparameterized=True).loss(PARAMS, jax.random.key(0), DATA)
