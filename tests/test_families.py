"""Per-example optima of any family, on models whose gaps are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.evaluate.families import Found, best_flow, best_own, unconstrained
from gpvae_jax.flows.posteriors import HouseholderPosterior
from gpvae_jax.gaussians.full import FullGaussian
from gpvae_jax.gaussians.low_rank import LowRankGaussian, from_factors
from gpvae_jax.gp.posterior import GaussianScaleMixture
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Params
from tests.exact import latent_model, random_model

EXACT = random_model()
MODEL, PARAMS = latent_model(EXACT), Params(EXACT.theta(), {})
X = EXACT.data(seed=1, count=4)
DATA = jnp.asarray(X, jnp.float32)
EVIDENCE = EXACT.log_evidence(X)
PRECISION = np.linalg.inv(EXACT.posterior(X)[1])
MEAN_FIELD = 0.5 * (np.log(np.diagonal(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
KEY = jax.random.key(0)


def method(posterior) -> InferenceMethod:
    return InferenceMethod(lambda key, x: PARAMS, lambda params, key, x: (posterior(len(x)), {}), lambda *_: None)


def standard(count: int) -> DiagonalGaussian:
    return DiagonalGaussian(jnp.zeros((count, 3)), jnp.zeros((count, 3)))


def own(posterior) -> Found:
    found = jax.jit(lambda x: best_own(method(posterior), MODEL, PARAMS, x, KEY, steps=600, learning_rate=0.05))
    return found(DATA)


def test_a_diagonal_gaussian_reaches_its_known_gap():
    found = own(standard)
    error = 5 * np.asarray(found.standard_error) + 0.02
    assert np.all(np.abs(EVIDENCE - found.elbo - MEAN_FIELD) < error)
    assert np.all(found.elbo > found.start + 0.5)
    assert np.all(np.asarray(found.last_gain) < 0.1)


def test_a_flow_and_reflections_express_the_correlations_a_diagonal_cannot():
    search = jax.jit(lambda x, around: best_flow(MODEL, PARAMS.model, x, around, KEY, width=20, steps=600))
    flow = search(DATA, EXACT.diagonal_posterior(X))
    np.testing.assert_allclose(EVIDENCE - flow.start, EXACT.diagonal_gap(), atol=0.1)  # it starts as exactly that
    assert np.all(EVIDENCE - np.asarray(flow.elbo) < 0.3 * MEAN_FIELD)

    def turned(count):
        vectors = jax.random.normal(jax.random.key(3), (1, 3, 3))
        return HouseholderPosterior(standard(count), jnp.broadcast_to(vectors, (count, 3, 3)))

    assert np.all(EVIDENCE - np.asarray(own(turned).elbo) < 0.3 * MEAN_FIELD)


@pytest.mark.parametrize("kind", ["full", "low rank"])
def test_correlated_gaussians_end_at_the_evidence_and_not_above(kind):
    """The exact posterior is one of them; freed beyond what they are, their bound would be none."""

    def start(count: int) -> FullGaussian | LowRankGaussian:
        mean = jnp.zeros((count, 3))
        if kind == "full":
            return FullGaussian(mean, jnp.broadcast_to(0.8 * jnp.eye(3), (count, 3, 3)))
        factor = 0.1 * jax.random.normal(jax.random.key(1), (1, 3, 2))
        return from_factors(mean, 0.6 * jnp.ones((count, 3)), jnp.broadcast_to(factor, (count, 3, 2)))

    found = own(start)
    error = 5 * np.asarray(found.standard_error) + 0.02
    assert np.all(np.abs(EVIDENCE - found.elbo) < error)


@pytest.mark.slow
def test_a_mixture_and_a_scale_mixture_are_no_worse_than_a_gaussian():
    def mixture(count):
        means = jnp.stack([jnp.zeros((count, 3)), jnp.full((count, 3), 0.5)])
        return GaussianMixture(means, jnp.zeros((2, count, 3)), jnp.full((count, 2), -np.log(2.0), jnp.float32))

    def scales(count):
        ones = jnp.ones((count, 3))
        return GaussianScaleMixture(0 * ones, 0.1 * ones, ones, 0.1 * ones)

    for start, least in ((mixture, -0.02), (scales, -0.05)):
        found = own(start)
        gap = EVIDENCE - np.asarray(found.elbo)
        error = 5 * np.asarray(found.standard_error)
        assert np.all(gap < MEAN_FIELD - least + error)
        assert np.all(gap > -error)
    values, rebuild = unconstrained(mixture(2))
    moved = rebuild(values._replace(log_alpha=values.log_alpha + 3))
    np.testing.assert_allclose(jnp.exp(moved.log_alpha).sum(axis=-1), 1, rtol=1e-5)


def test_steps_that_make_no_whole_rounds_are_refused():
    with pytest.raises(ValueError, match="multiple of 200, got 100"):
        best_own(method(standard), MODEL, PARAMS, DATA, KEY, steps=100)
