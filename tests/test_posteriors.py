"""The diagonal Gaussian against numpyro, closed forms and numerical integration."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from gpvae_jax.posteriors import LOG_STD_BOUND, DiagonalGaussian, diagonal_gaussian, standard_normal_log_prob

RNG = np.random.default_rng(0)
MEAN, LOG_STD = RNG.normal(size=(4, 3)), RNG.normal(-0.5, 0.7, size=(4, 3))
DRAWS = 50_000


@pytest.fixture(scope="module")
def q() -> DiagonalGaussian:
    return DiagonalGaussian(jnp.asarray(MEAN, jnp.float32), jnp.asarray(LOG_STD, jnp.float32))


def reference() -> dist.Distribution:
    return dist.Normal(MEAN, np.exp(LOG_STD)).to_event(1)


def test_standard_normal():
    z = RNG.normal(size=(2, 4, 3)).astype(np.float32)
    got = standard_normal_log_prob(jnp.asarray(z))
    np.testing.assert_allclose(got, stats.norm.logpdf(z).sum(-1), rtol=1e-5)


def test_log_prob_is_numpyros():
    z = RNG.normal(size=(5, 4, 3))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        got = DiagonalGaussian(jnp.asarray(MEAN), jnp.asarray(LOG_STD)).log_prob(jnp.asarray(z))
        with jax.numpy_rank_promotion("allow"):
            np.testing.assert_allclose(got, reference().log_prob(z), rtol=1e-12)


def test_kl_is_numpyros_and_the_samples(q):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = dist.kl_divergence(reference(), dist.Normal(np.zeros((4, 3)), 1.0).to_event(1))
    np.testing.assert_allclose(q.kl_to_standard_normal(), expected, rtol=1e-5)
    z, log_q = q.sample_and_log_prob(jax.random.key(0), DRAWS)
    ratio = np.asarray(log_q - standard_normal_log_prob(z), np.float64)
    assert (np.abs(ratio.mean(0) - expected) < 5 * ratio.std(0) / DRAWS**0.5).all()


def test_kl_of_the_prior_is_zero():
    prior = DiagonalGaussian(jnp.zeros((2, 3)), jnp.zeros((2, 3)))
    np.testing.assert_array_equal(prior.kl_to_standard_normal(), np.zeros(2))


def test_integrates_to_one(q):
    """Over a grid in two dimensions, 12 standard deviations wide."""
    flat = DiagonalGaussian(q.mean[:, :2], q.log_std[:, :2])
    u = np.linspace(-6, 6, 121)
    noise = np.stack(np.meshgrid(u, u), -1).reshape(-1, 1, 2)
    z = np.asarray(flat.mean) + np.asarray(flat.std) * noise  # [grid, B, 2]
    cell = (u[1] - u[0]) ** 2 * np.prod(np.asarray(flat.std), axis=-1)
    density = np.exp(np.asarray(flat.log_prob(jnp.asarray(z, jnp.float32)), np.float64))
    np.testing.assert_allclose(density.sum(0) * cell, 1, rtol=1e-4)


def test_samples_have_the_moments_and_the_density(q):
    z, log_q = q.sample_and_log_prob(jax.random.key(1), DRAWS)
    assert z.shape == (DRAWS, 4, 3)
    np.testing.assert_allclose(log_q, q.log_prob(z), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(q.variance, np.exp(2 * LOG_STD), rtol=1e-5)
    assert (np.abs(z.mean(0) - q.mean) < 5 * q.std / DRAWS**0.5).all()
    assert (np.abs(z.var(0) / q.variance - 1) < 5 * (2 / DRAWS) ** 0.5).all()


def test_density_of_samples_is_exact_far_from_zero():
    """At mean 1e4 and σ 1e-4 float32 holds nothing of z − mean, but the noise is known."""
    q = DiagonalGaussian(jnp.full((2, 3), 1e4), jnp.full((2, 3), np.log(1e-4)))
    _, log_q = q.sample_and_log_prob(jax.random.key(2), DRAWS)
    entropy = 3 * (0.5 * np.log(2 * np.pi * np.e) + np.log(1e-4))
    assert (np.abs(log_q.mean(0) + entropy) < 5 * (1.5 / DRAWS) ** 0.5).all()


def test_reparameterised_gradient(q):
    """d/dmean E[Σ z] = 1 and d/dlog σ E[Σ z²] = 2σ²."""

    def moments(q, key):
        z, _ = q.sample_and_log_prob(key, 20_000)
        return jnp.mean(jnp.sum(z, axis=(1, 2))), jnp.mean(jnp.sum(jnp.square(z), axis=(1, 2)))

    first, second = (jax.jit(jax.grad(lambda q, i=i: moments(q, jax.random.key(3))[i]))(q) for i in (0, 1))
    np.testing.assert_allclose(first.mean, np.ones((4, 3)), rtol=1e-4)
    np.testing.assert_allclose(second.log_std, 2 * q.variance, rtol=0.1, atol=0.02)


def test_network_outputs_split_into_mean_and_bounded_log_std():
    raw = np.array([[1.0, -2.0, 0.5, -0.3], [0.0, 3.0, 1e6, -1e6]], np.float32)
    q = diagonal_gaussian(jnp.asarray(raw))
    np.testing.assert_array_equal(q.mean, raw[:, :2])
    assert (np.abs(q.log_std) <= LOG_STD_BOUND).all()
    # b tanh(r/b) is r up to r³/(3b²) near zero, and b far out
    assert (np.abs(q.log_std[0] - raw[0, 2:]) <= np.abs(raw[0, 2:]) ** 3 / (3 * LOG_STD_BOUND**2) + 1e-7).all()
    np.testing.assert_allclose(q.log_std[1], [LOG_STD_BOUND, -LOG_STD_BOUND])
    z, log_q = q.sample_and_log_prob(jax.random.key(0), 100)
    values = (q.variance, q.kl_to_standard_normal(), z, log_q, jnp.square(z))
    assert all(np.isfinite(value).all() for value in values)
