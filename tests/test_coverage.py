"""Estimates within their own standard errors, over many seeds, on a model whose evidence is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.bounds import importance
from gpvae_jax.evaluate.ais import ais, reverse_ais, sigmoid_schedule
from gpvae_jax.evaluate.importance import log_weights_from
from gpvae_jax.gaussians.per_example import elbo_with_error
from tests.exact import latent_model, random_model

EXACT = random_model()
MODEL, THETA = latent_model(EXACT), EXACT.theta()
COUNT, SEEDS = 20, 40
X = EXACT.data(seed=1, count=COUNT)
DATA = jnp.asarray(X, jnp.float32)
TRUTH = EXACT.log_evidence(X)
Q = EXACT.diagonal_posterior(X)


def covered(estimates, errors, truth, within=2.0):
    """Share of the intervals, 95.4 % of normal ones, that hold the truth."""
    return np.mean(np.abs(np.asarray(estimates, np.float64) - truth) < within * np.asarray(errors, np.float64))


def test_iwae_covers_the_evidence():
    def estimate(key):
        def draw(start, n):
            return log_weights_from(MODEL, THETA, Q, key, DATA, start, n)

        return importance(draw, 4000, 800)

    found = jax.lax.map(jax.jit(estimate), jax.random.split(jax.random.key(0), SEEDS))
    assert np.all(np.asarray(found.pareto_k).mean(axis=0) < 0.7)  # or its error would mean nothing
    assert 0.93 < covered(found.iwae, found.standard_error, TRUTH) < 0.975  # 0.954 ± 4 binomial errors
    z = (np.asarray(found.iwae, np.float64) - TRUTH) / np.asarray(found.standard_error)
    assert abs(z.mean()) < 0.2


def test_the_elbo_covers_the_closed_form():
    run = jax.jit(lambda key: elbo_with_error(MODEL, THETA, Q, key, DATA, 200))
    found, errors = jax.lax.map(run, jax.random.split(jax.random.key(1), SEEDS))
    assert 0.92 < covered(found, errors, TRUTH - EXACT.diagonal_gap()) < 0.98


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_annealing_covers_the_evidence(direction):
    estimates, errors = [], []
    for seed in range(8):
        key = jax.random.key(seed)
        settings = {"schedule": sigmoid_schedule(100), "num_chains": 32, "num_leapfrog": 5}
        if direction == "forward":
            found = ais(MODEL, THETA, DATA, key, **settings)
        else:  # exact samples of p(z|x), one for all chains of an example, which therefore are not independent
            z, _ = EXACT.exact_posterior(X).sample_and_log_prob(jax.random.fold_in(key, 1), 1)
            found = reverse_ais(MODEL, THETA, DATA, z[0], key, **settings)
        estimates.append(found.log_evidence)
        errors.append(found.standard_error)
    share = covered(estimates, errors, TRUTH)
    assert (0.88 if direction == "forward" else 0.75) < share < 0.995
