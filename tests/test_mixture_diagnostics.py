"""Diagnostics on mixtures built to have each fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.mixtures.diagnostics import MixtureDiagnostics, dead_components, diagnose, sticks
from gpvae_jax.mixtures.posterior import GaussianMixture, stick_breaking
from tests.cases import small_model
from tests.exact import latent_model, random_model

KEY = jax.random.key(0)


def test_sticks_invert_stick_breaking():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    np.testing.assert_allclose(sticks(stick_breaking(logits)), jax.nn.sigmoid(logits), rtol=1e-5)


def test_shares_follow_the_true_posterior_and_not_the_weights():
    """One component is the exact marginal posterior's place, the other is elsewhere with a weight of one half."""
    exact = random_model(variance=4.0)
    x = exact.data(0, 3)
    right = exact.diagonal_posterior(x)
    q = GaussianMixture(
        jnp.stack([right.mean, right.mean + 8.0]),
        jnp.stack([right.log_std, right.log_std]),
        jnp.full((3, 2), np.log(0.5), jnp.float32),
    )
    model = latent_model(exact)
    run = jax.jit(lambda q, x: diagnose(model, exact.theta(), q, KEY, x, num_samples=500))
    result = run(q, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(result.alpha, 0.5, rtol=1e-5)
    np.testing.assert_allclose(result.responsibility.sum(axis=1), 1.0, rtol=1e-4)
    assert (result.responsibility[:, 0] > 0.99).all()
    assert result.epsilon.shape == (3, 1)


def test_shares_are_the_weights_where_the_mixture_is_the_posterior():
    """Two copies of the exact posterior with weights 0.3 and 0.7."""
    exact = random_model()
    weights = exact.weights * 0  # no data dependence: the posterior is the prior
    exact = exact._replace(weights=weights)
    log_alpha = jnp.log(jnp.asarray([[0.3, 0.7]]))
    q = GaussianMixture(jnp.zeros((2, 1, 3)), jnp.zeros((2, 1, 3)), log_alpha)
    run = jax.jit(lambda q, x: diagnose(latent_model(exact), exact.theta(), q, KEY, x))
    result = run(q, jnp.asarray(exact.data(0, 1), jnp.float32))
    np.testing.assert_allclose(result.responsibility, [[0.3, 0.7]], rtol=1e-4)


def test_fields_are_per_example():
    model, b, m = small_model(), 5, 3
    means = jnp.asarray(np.random.default_rng(0).normal(size=(m, b, 3)), jnp.float32)
    q = GaussianMixture(means, means - 1, jnp.full((b, m), np.log(1 / 3), jnp.float32))
    x = jnp.zeros((b, 4, 4, 1))
    result = jax.jit(lambda q: diagnose(model, model.init(KEY, x), q, KEY, x))(q)
    assert [leaf.shape for leaf in result] == [(b, m), (b, m), (b, m - 1), (b, m), (b, m, m)]
    np.testing.assert_allclose(result.smallest_std.T, np.exp(np.min(means - 1, axis=-1)), rtol=1e-5)
    np.testing.assert_allclose(result.pairwise_kl[2], q.pairwise_kl()[:, :, 2], rtol=1e-6)


def healthy(m=3, b=4):
    kl = np.full((b, m, m), 3.0) * (1 - np.eye(m))
    alpha = np.full((b, m), 1 / m)
    return MixtureDiagnostics(alpha, alpha, np.full((b, m - 1), 0.4), np.full((b, m), 0.1), kl)


def test_a_healthy_mixture_has_no_dead_component():
    assert dead_components(healthy()) == []


def unused(d):
    d.alpha[:, 1] = 0.004


def narrow(d):
    d.smallest_std[:, 2] = 4e-4


def alike(d):
    d.pairwise_kl[:, 2, 0] = 0.02


@pytest.mark.parametrize(
    ("fault", "component", "reason"),
    [
        (unused, 1, "unused: its mean weight is 0.004"),
        (narrow, 2, "point-like: its smallest standard deviation is 0.0004"),
        (alike, 2, "a copy of component 0: their divergence is 0.02 nats"),
    ],
)
def test_each_fault_is_named(fault, component, reason):
    diagnostics = healthy()
    fault(diagnostics)
    assert dead_components(diagnostics) == [(component, reason)]


def test_a_fault_in_a_few_examples_is_none():
    diagnostics = healthy()
    diagnostics.smallest_std[0, 2] = 1e-5
    diagnostics.pairwise_kl[0, 2, 0] = 0.0
    assert dead_components(diagnostics) == []
