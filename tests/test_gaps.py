"""The gaps of a posterior, on a model where evidence and optimum are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.evaluate.gaps import gaps, moments, optimal_elbos
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Params
from tests.exact import latent_model, random_model

EXACT = random_model()
MODEL = latent_model(EXACT)
PARAMS = Params(EXACT.theta(), {})
X = EXACT.data(seed=1, count=7).astype(np.float32)
EVIDENCE = EXACT.log_evidence(X)
KEY = jax.random.key(0)


def encoder(posterior) -> InferenceMethod:
    """A method whose posterior is a given function of x."""
    return InferenceMethod(lambda key, x: PARAMS, lambda params, key, x: (posterior(x), {}), lambda *_: None)


def shifted(x):
    """The best diagonal Gaussian with its mean moved: its amortization gap is known in closed form."""
    _, covariance = EXACT.posterior(np.zeros((1, 5)))
    slope = jnp.asarray(covariance @ EXACT.weights.T / EXACT.variance, x.dtype)
    best = (x - jnp.asarray(EXACT.bias, x.dtype)[None]) @ slope.T
    log_std = jnp.asarray(-0.5 * np.log(np.diagonal(np.linalg.inv(covariance))), x.dtype)
    return DiagonalGaussian(best + SHIFT[None], jnp.broadcast_to(log_std, best.shape))


SHIFT = jnp.asarray([0.5, -0.3, 0.0], jnp.float32)


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_gaps_of_a_shifted_gaussian(family):
    method = encoder(shifted)
    found = list(optimal_elbos(method, MODEL, PARAMS, X, KEY, family=family, batch_size=4, eval_samples=20_000))
    assert [number for number, _ in found] == [0, 1]
    optimum = np.concatenate([o.elbo for _, o in found])
    _, covariance = EXACT.posterior(X)
    precision = np.linalg.inv(covariance)
    mean_field = 0.5 * (np.log(np.diagonal(precision)).sum() + np.linalg.slogdet(covariance)[1])
    cost = 0.5 * np.asarray(SHIFT) @ precision @ np.asarray(SHIFT)
    own = EVIDENCE - mean_field - cost
    result = gaps(EVIDENCE, optimum, own)
    tolerance = 5 * np.concatenate([o.standard_error for _, o in found]).max() + 2e-3
    best = mean_field if family == "diagonal" else 0.0
    np.testing.assert_allclose(result.approximation, best, atol=tolerance)
    np.testing.assert_allclose(result.amortization, mean_field + cost - best, atol=tolerance)
    np.testing.assert_allclose(result.inference, result.approximation + result.amortization, rtol=1e-12)


def test_an_interrupted_search_goes_on():
    method = encoder(shifted)
    whole = list(optimal_elbos(method, MODEL, PARAMS, X, KEY, batch_size=4, max_steps=100))
    rest = list(optimal_elbos(method, MODEL, PARAMS, X, KEY, batch_size=4, max_steps=100, first=1))
    assert [number for number, _ in rest] == [1]
    np.testing.assert_array_equal(rest[0][1].elbo, whole[1][1].elbo)


def test_moments_of_a_posterior_that_has_only_samples():
    class Sampled:
        def __init__(self, q):
            self.sample_and_log_prob = q.sample_and_log_prob

    q = EXACT.diagonal_posterior(X)
    found = moments(encoder(lambda x: Sampled(q)), PARAMS, KEY, jnp.asarray(X), num_samples=20_000)
    np.testing.assert_allclose(found.mean, q.mean, atol=5 * float(q.std.max()) / 20_000**0.5)
    np.testing.assert_allclose(found.std, q.std, rtol=5 / (2 * 20_000) ** 0.5)
    same = moments(encoder(lambda x: q), PARAMS, KEY, jnp.asarray(X))
    np.testing.assert_allclose(same.std, q.std, rtol=1e-5)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="one value per example"):
        gaps(EVIDENCE, EVIDENCE[:3], EVIDENCE)
    with pytest.raises(ValueError, match="did you mean 'diagonal'"):
        optimal_elbos(encoder(shifted), MODEL, PARAMS, X, KEY, family="diagnal")
