"""Bounds by hand, their limits, and their arithmetic at extreme log-weights. The exact model is in test_exact."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.bounds import effective_sample_size, elbo, importance, iwae, log_weights, pareto_k
from tests.exact import latent_model, random_model

RNG = np.random.default_rng(0)


def test_by_hand():
    """Weights (1, 2, 3) and (4, 4, 4): means of logs, logs of means, (Σw)²/Σw²."""
    log_w = jnp.log(jnp.array([[1.0, 4.0], [2.0, 4.0], [3.0, 4.0]]))
    np.testing.assert_allclose(elbo(log_w), [np.log(6) / 3, np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(iwae(log_w), [np.log(2), np.log(4)], rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(log_w), [36 / 14, 3], rtol=1e-6)


def test_one_sample_is_the_elbo():
    log_w = jnp.asarray(RNG.normal(0, 3, (1, 5)), jnp.float32)
    np.testing.assert_allclose(iwae(log_w), elbo(log_w), rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(log_w), np.ones(5), rtol=1e-5)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 10.0, 1e3])
def test_order_and_limits(spread):
    log_w = jnp.asarray(RNG.normal(0, spread, (50, 40)), jnp.float32)
    assert (iwae(log_w) >= elbo(log_w) - 1e-4).all()
    ess = effective_sample_size(log_w)
    assert ((ess >= 1 - 1e-4) & (ess <= 50 * (1 + 1e-4))).all()


def test_equal_and_single_weights_are_the_limits_of_ess():
    equal, single = jnp.full((8, 1), -3.0), jnp.full((8, 1), -200.0).at[2].set(0.0)
    np.testing.assert_allclose(effective_sample_size(equal), [8], rtol=1e-5)
    np.testing.assert_allclose(effective_sample_size(single), [1], rtol=1e-5)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_a_common_factor_of_e_to_the_ten_thousand_changes_nothing_else(shift):
    log_w = RNG.normal(0, 2, (6, 4))  # the reference is in float64
    shifted = jnp.asarray(log_w + shift, jnp.float32)
    expected = np.log(np.exp(log_w).mean(0)) + shift
    np.testing.assert_allclose(iwae(shifted), expected, rtol=1e-6)
    ess = np.exp(log_w).sum(0) ** 2 / np.exp(2 * log_w).sum(0)
    np.testing.assert_allclose(effective_sample_size(shifted), ess, rtol=0.02)
    streamed = importance(lambda start, n: shifted[:n], 6, 6)
    np.testing.assert_allclose(streamed.iwae, expected, rtol=1e-6)
    np.testing.assert_allclose(streamed.ess, ess, rtol=0.02)


def test_both_extremes_together_stay_finite():
    log_w = jnp.array([[-1e4], [1e4]])
    np.testing.assert_allclose(iwae(log_w), [1e4 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(effective_sample_size(log_w), [1], rtol=1e-3)
    assert np.isfinite(jax.grad(lambda w: iwae(w).sum())(log_w)).all()


@pytest.mark.parametrize("k", [0.0, 0.3, 0.5, 0.7, 1.0, 1.5])
def test_pareto_k_of_weights_whose_tail_is_known(k):
    weights = stats.genpareto(k).rvs((4000, 300), random_state=np.random.default_rng(2))
    found = np.asarray(pareto_k(jnp.asarray(np.log(weights), jnp.float32)))
    count = 3 * 4000**0.5
    spread = (1 + k) / np.sqrt(count)  # the estimator's asymptotic standard deviation
    prior = 10 * (0.5 - k) / (count + 10)  # of its pull towards one half
    assert abs(found.mean() - k - prior) < 5 * spread / np.sqrt(300) + 0.02
    assert 0.6 * spread < found.std() < 1.4 * spread
    several = np.sort(weights[:, :5], axis=0)[::-1][: int(np.ceil(count)) + 1]
    reference = [stats.genpareto.fit(w[:-1] - w[-1], floc=0)[0] for w in several.T]
    np.testing.assert_allclose(found[:5], reference, atol=0.12)


def test_pareto_k_at_the_limits():
    normal = jnp.asarray(RNG.standard_normal((20, 3)), jnp.float32)
    assert np.isnan(pareto_k(normal)).all()  # too few to fit
    single = jnp.full((1000, 2), -1e4).at[7].set(0.0)
    assert np.isposinf(pareto_k(single)).all()
    wide = jnp.asarray(RNG.normal(0, 30, (1000, 4)), jnp.float32)
    assert (np.asarray(pareto_k(wide)) > 0.7).all()
    shifted = jnp.asarray(RNG.normal(-1e3, 1, (1000, 4)), jnp.float32)
    np.testing.assert_allclose(pareto_k(shifted), pareto_k(shifted + 1e3), atol=0.02)
    equal = jnp.asarray(RNG.normal(-100, 1e-5, (1000, 2)), jnp.float32)
    assert np.isneginf(pareto_k(equal)).all()
    assert np.isneginf(pareto_k(jnp.zeros((1000, 2)))).all()


def test_log_weights_are_the_three_densities():
    exact = random_model()
    model, theta, x = latent_model(exact), exact.theta(), exact.data(0, 4)
    q, x = exact.diagonal_posterior(x), jnp.asarray(x, jnp.float32)
    key = jax.random.key(0)
    z, log_q = q.sample_and_log_prob(key, 6)
    likelihood, prior = model.log_likelihood(theta, x, z), model.log_prior(theta, z)
    for beta in (1.0, 0.25, jnp.asarray(0.0)):
        got = log_weights(model, theta, q, key, x, 6, beta=beta)
        assert got.shape == (6, 4)
        np.testing.assert_allclose(got, likelihood + beta * (prior - log_q), rtol=1e-5, atol=1e-5)
