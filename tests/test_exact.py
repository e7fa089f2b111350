"""Bounds and importance sampling on a model whose evidence is known exactly."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.bounds import effective_sample_size, elbo, importance, iwae, log_weights, pareto_k
from tests.exact import latent_model, random_model

EXACT = random_model()
MODEL = latent_model(EXACT)
X = EXACT.data(seed=1, count=4)
TOTAL = 2**16  # log-weights per example


def weights_of(posterior, theta, key, x, num_samples):
    return log_weights(MODEL, theta, posterior, key, x, num_samples)


@pytest.fixture(scope="module")
def log_w() -> np.ndarray:
    """log w[TOTAL, B] of a diagonal Gaussian, in float32 as the library runs by default."""
    run = jax.jit(weights_of, static_argnums=4)
    x = jnp.asarray(X, jnp.float32)
    return np.asarray(run(EXACT.diagonal_posterior(X), EXACT.theta(), jax.random.key(0), x, TOTAL))


def test_closed_forms_agree_with_each_other():
    """Bayes' rule at any z: log p(x) = log p(x, z) − log p(z|x), in numpy alone."""
    z = np.random.default_rng(2).standard_normal(3)
    mean, covariance = EXACT.posterior(X)
    residual = X - EXACT.bias - z @ EXACT.weights.T
    joint = stats.norm.logpdf(z).sum() + stats.norm.logpdf(residual, scale=EXACT.variance**0.5).sum(-1)
    posterior = np.array([stats.multivariate_normal(m, covariance).logpdf(z) for m in mean])
    np.testing.assert_allclose(joint - posterior, EXACT.log_evidence(X), rtol=1e-12)


def test_library_and_closed_form_densities_agree():
    z, x = np.random.default_rng(3).standard_normal((2, len(X), 3)), X
    residual = x - EXACT.bias - z @ EXACT.weights.T
    expected = stats.norm.logpdf(residual, scale=EXACT.variance**0.5).sum(-1)
    got = MODEL.log_likelihood(EXACT.theta(), jnp.asarray(x, jnp.float32), jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    mean, covariance = EXACT.posterior(x)
    q = EXACT.exact_posterior(x).log_prob(jnp.asarray(z, jnp.float32))
    expected = stats.multivariate_normal(np.zeros(3), covariance).logpdf(z - mean)
    np.testing.assert_allclose(q, expected, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_the_exact_posterior_has_constant_weights(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        q = EXACT.exact_posterior(X, dtype)
        log_w = weights_of(q, EXACT.theta(dtype), jax.random.key(0), jnp.asarray(X, dtype), 200)
        evidence = EXACT.log_evidence(X)
        assert log_w.dtype == dtype
        np.testing.assert_allclose(log_w, np.broadcast_to(evidence, (200, 4)), rtol=tolerance)
        np.testing.assert_allclose(effective_sample_size(log_w), np.full(4, 200.0), rtol=10 * tolerance)
        np.testing.assert_allclose(elbo(log_w), evidence, rtol=tolerance)
        np.testing.assert_allclose(iwae(log_w) - elbo(log_w), np.zeros(4), atol=20 * tolerance)


def test_the_elbo_misses_the_evidence_by_the_closed_form_gap(log_w):
    error = log_w.std(axis=0) / TOTAL**0.5
    assert EXACT.diagonal_gap() > 0.2
    difference = EXACT.log_evidence(X) - np.asarray(elbo(jnp.asarray(log_w))) - EXACT.diagonal_gap()
    assert (np.abs(difference) < 5 * error + 1e-4).all()


def test_bounds_rise_with_samples_to_the_evidence(log_w):
    """E IWAE-K, K = 1, 4, …, from the same log-weights in groups of K, and paired differences."""
    evidence, previous = EXACT.log_evidence(X), None
    for samples in (1, 4, 16, 64, 256):
        groups = jnp.asarray(log_w.reshape(-1, samples, len(X)).swapaxes(0, 1))  # [K, groups, B]
        bound = np.asarray(jax.jit(jax.vmap(iwae, in_axes=1))(groups), np.float64)
        error = bound.std(axis=0) / bound.shape[0] ** 0.5
        assert (bound.mean(axis=0) < evidence + 5 * error).all()
        if previous is not None:
            gain = bound - previous.reshape(bound.shape[0], -1, len(X)).mean(axis=1)
            assert (gain > -1e-5).all()  # Jensen holds group by group, not only on average
            assert (gain.mean(axis=0) > 1e-3).all()
        previous = bound
    assert (evidence - bound.mean(axis=0) < 0.03).all()
    np.testing.assert_allclose(iwae(jnp.asarray(log_w)), evidence, atol=0.02)


def test_weights_average_to_one(log_w):
    _, covariance = EXACT.posterior(X)
    precision = 2 * np.linalg.inv(covariance) - np.diag(1 / np.diagonal(covariance))
    assert np.linalg.eigvalsh(precision).min() > 0  # the weights' variance is finite, so their error is known
    weight = np.exp(log_w - EXACT.log_evidence(X))
    assert (np.abs(weight.mean(axis=0) - 1) < 5 * weight.std(axis=0) / TOTAL**0.5).all()


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(103, 20), (7, 20), (40, 20), (5, 1), (400, 3)])
def test_streaming_equals_one_shot(num_samples, chunk_size):
    log_w = jnp.asarray(np.random.default_rng(5).normal(-100, 3, (num_samples, 4)), jnp.float32)

    @jax.jit
    def stream(log_w):
        rows = partial(jax.lax.dynamic_slice_in_dim, log_w)
        return importance(rows, num_samples, min(chunk_size, num_samples))

    result = stream(log_w)
    np.testing.assert_allclose(result.elbo, elbo(log_w), rtol=1e-5)
    np.testing.assert_allclose(result.iwae, iwae(log_w), rtol=1e-5)
    np.testing.assert_allclose(result.ess, effective_sample_size(log_w), rtol=1e-4)
    np.testing.assert_allclose(result.pareto_k, pareto_k(log_w), rtol=1e-4)
    weights = np.exp(np.asarray(log_w, np.float64) + 100)
    relative = weights.std(axis=0) / weights.mean(axis=0) / num_samples**0.5
    np.testing.assert_allclose(result.standard_error, relative, rtol=1e-3)


@pytest.mark.parametrize("level", [-7000.0, 0.0, 7000.0])
def test_many_small_chunks_lose_nothing(level):
    """A chunk's share of a long sum is below the rounding of numbers as large as log p(x)."""
    total, chunk = 200_000, 8
    spread = jax.random.normal(jax.random.key(0), (total, 1)) * 0.5

    @jax.jit
    def stream(spread):
        return importance(lambda start, n: level + jax.lax.dynamic_slice_in_dim(spread, start, n), total, chunk)

    result, exact = stream(spread), np.asarray(level + spread, np.float64)
    weights = np.exp(exact - level)
    rounding = np.spacing(np.float32(abs(level)))
    np.testing.assert_allclose(result.iwae, level + np.log(weights.mean(axis=0)), atol=rounding + 1e-4, rtol=0)
    np.testing.assert_allclose(result.elbo, exact.mean(axis=0), atol=rounding + 1e-4, rtol=0)
    np.testing.assert_allclose(result.ess, weights.sum(axis=0) ** 2 / np.square(weights).sum(axis=0), rtol=1e-3)


def temporary_bytes(num_samples: int, chunk_size: int) -> int:
    def run(q, theta, key, x):
        def draw(start, n):
            return weights_of(q, theta, jax.random.fold_in(key, start), x, n)

        return importance(draw, num_samples, chunk_size)

    arguments = EXACT.diagonal_posterior(X), EXACT.theta(), jax.random.key(0), jnp.asarray(X, jnp.float32)
    return jax.jit(run).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_one_chunk():
    small, large = temporary_bytes(1000, 50), temporary_bytes(100_000, 50)
    assert small > 0
    tail = 3 * 100_000**0.5 * len(X) * 4  # bytes of the largest weights, the one thing that is kept of every example
    assert large < 1.1 * small + 3 * tail
    assert temporary_bytes(100_000, 100_000) > 100 * large  # what it would be in one piece
