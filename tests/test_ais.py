"""Annealed importance sampling and its reverse, on a model whose evidence is known exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.evaluate import hmc
from gpvae_jax.evaluate.ais import ais, bidirectional, linear_schedule, reverse_ais, sigmoid_schedule
from gpvae_jax.evaluate.annealing import Watch
from tests.exact import latent_model, random_model

EXACT = random_model(variance=0.3)
MODEL, THETA = latent_model(EXACT), EXACT.theta()
COUNT = 60
X = EXACT.data(seed=1, count=COUNT)
DATA = jnp.asarray(X, jnp.float32)
TRUTH = EXACT.log_evidence(X)


def run(schedule, key=0, **settings):
    return ais(MODEL, THETA, DATA, jax.random.key(key), schedule=schedule, **settings)


@pytest.fixture(scope="module", params=["prior", "posterior"])
def found(request):
    start = None if request.param == "prior" else EXACT.diagonal_posterior(X)
    return run(sigmoid_schedule(200), start=start)


def test_the_evidence_within_its_standard_error(found):
    z = (found.log_evidence - TRUTH) / found.standard_error
    # chi-square of 60 values with heavier tails than normal: its mean is near 1, and far from 1 where errors lie
    assert 0.4 < np.mean(z**2) < 2.0
    assert np.mean(np.abs(z) < 2) > 0.85
    assert abs(np.mean(found.log_evidence - TRUTH)) < 4 * np.sqrt(np.mean(found.standard_error**2) / COUNT) + 0.01
    assert np.all((found.acceptance > 0.5) & (found.acceptance < 0.8))
    assert np.all((found.ess > 1) & (found.ess <= 16))


@pytest.mark.parametrize("schedule", [linear_schedule(8), sigmoid_schedule(8)], ids=["linear", "sigmoid"])
def test_weights_are_unbiased_however_short_the_path(schedule):
    found = run(schedule, num_chains=200, num_leapfrog=3)
    ratio = np.exp(found.log_weights - TRUTH)
    assert abs(ratio.mean() - 1) < 4 * ratio.mean(axis=1).std() / np.sqrt(200)
    assert ratio.mean(axis=1).std() / np.sqrt(200) < 0.1  # or the test says nothing
    assert np.all(found.log_weights.mean(axis=0) < TRUTH)  # and their logarithm is too low


def test_reverse_weights_are_unbiased_and_bound_from_above():
    z, x = MODEL.sample(THETA, jax.random.key(2), COUNT)
    truth = EXACT.log_evidence(np.asarray(x, np.float64))
    found = reverse_ais(
        MODEL, THETA, x, z, jax.random.key(3), schedule=sigmoid_schedule(30), num_chains=50, num_leapfrog=3
    )
    ratio = np.exp(found.log_weights + truth).mean(axis=0)  # chains of one example share their first point
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(COUNT)
    assert np.mean(found.log_evidence - truth) > 0


def test_the_bracket_holds_and_narrows():
    widths = []
    for count in (20, 200):
        bracket = bidirectional(MODEL, THETA, jax.random.key(4), COUNT, schedule=sigmoid_schedule(count))
        truth = EXACT.log_evidence(np.asarray(bracket.x, np.float64))
        low, high = bracket.lower.log_evidence - truth, bracket.upper.log_evidence - truth
        assert low.mean() < 2 * low.std() / np.sqrt(COUNT)
        assert high.mean() > -2 * high.std() / np.sqrt(COUNT)
        widths.append((high - low).mean())
    assert 0 < widths[1] < 0.3 * widths[0]
    for seed in range(5, 10):
        bracket = bidirectional(MODEL, THETA, jax.random.key(seed), COUNT, schedule=sigmoid_schedule(20))
        truth = EXACT.log_evidence(np.asarray(bracket.x, np.float64))
        low, high = bracket.lower.log_evidence - truth, bracket.upper.log_evidence - truth
        assert low.mean() < 3 * low.std() / np.sqrt(COUNT)
        assert high.mean() > -3 * high.std() / np.sqrt(COUNT)


def test_transitions_leave_the_target_invariant():
    chains, beta = 4000, jnp.float32(1.0)
    x = DATA[:2]
    mean, covariance = EXACT.posterior(X[:2])
    z, _ = EXACT.exact_posterior(X[:2]).sample_and_log_prob(jax.random.key(5), chains)
    point = hmc.point_at(MODEL, THETA, x, None, z)
    move = jax.jit(lambda p, k: hmc.move(lambda z: hmc.point_at(MODEL, THETA, x, None, z), p, beta, LOG_STEP, 4, k))
    for key in jax.random.split(jax.random.key(6), 10):
        point, accepted = move(point, key)
        assert 0.3 < accepted.mean() < 0.98  # a proposal is refused now and then, or there would be nothing to test
    moved = np.asarray(point.z, np.float64) - mean
    assert np.max(np.abs(moved.mean(axis=0)) / np.sqrt(np.diagonal(covariance) / chains)) < 4.5
    for b in range(2):
        error = np.cov(moved[:, b].T) - covariance
        assert np.max(np.abs(error)) < 6 * np.max(np.diagonal(covariance)) / np.sqrt(chains)


LOG_STEP = jnp.full((2,), np.log(0.25), jnp.float32)


def test_a_key_decides_everything_and_progress_is_told():
    told: list[int] = []
    one, two = (run(sigmoid_schedule(60), key, num_chains=2, watch=Watch(told.append)) for key in (7, 7))
    np.testing.assert_array_equal(one.log_weights, two.log_weights)
    assert told[: len(told) // 2] == sorted(told[: len(told) // 2])
    assert told[-1] == 2 * 60


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_run_goes_on_from_any_state_it_was_in(direction):
    schedule, states = sigmoid_schedule(60), []

    def anneal(watch):
        settings = {"schedule": schedule, "num_chains": 2, "num_leapfrog": 2, "num_pilot": 2, "watch": watch}
        if direction == "forward":
            return ais(MODEL, THETA, DATA[:5], jax.random.key(8), **settings)
        return reverse_ais(MODEL, THETA, DATA[:5], jnp.zeros((5, 3)), jax.random.key(8), **settings)

    whole = anneal(Watch(keep=states.append))
    assert [int(s["stage"]) for s in states] == [0, 0, 0, 0, 1, 1, 1]
    for state in states[1::2]:
        np.testing.assert_array_equal(anneal(Watch(resume=state)).log_weights, whole.log_weights)


def test_double_precision_and_one_chain():
    with jax.enable_x64(True):
        x = jnp.asarray(X[:3])
        found = ais(MODEL, EXACT.theta(np.float64), x, jax.random.key(0), schedule=linear_schedule(50), num_chains=1)
    assert found.log_weights.dtype == np.float64
    assert np.all(np.isnan(found.standard_error))
    assert np.all(np.isfinite(found.log_evidence))


def test_far_outliers_give_a_low_but_finite_bound():
    found = ais(MODEL, THETA, 1e3 * DATA[:4], jax.random.key(0), schedule=sigmoid_schedule(100))
    assert np.all(np.isfinite(found.log_evidence))
    assert np.all(found.log_evidence <= EXACT.log_evidence(1e3 * X[:4]) * (1 - 1e-5) + 1)


@pytest.mark.parametrize("schedule", [[0.0], [0.0, 0.5, 0.5, 1.0], [0.1, 1.0], [0.0, 0.9], [[0.0, 1.0]]])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="must rise from 0 to 1"):
        run(np.asarray(schedule))


def test_counts_below_one_are_refused():
    for schedule in (linear_schedule, sigmoid_schedule):
        with pytest.raises(ValueError, match="at least 1 temperature, got 0"):
            schedule(0)
    with pytest.raises(ValueError, match="at least one example"):
        ais(MODEL, THETA, DATA[:0], jax.random.key(0), schedule=linear_schedule(5))
    with pytest.raises(ArithmeticError, match=r"of 1 of 60 examples are not finite \(the first is example 2\)"):
        ais(MODEL, THETA, DATA.at[2].set(jnp.nan), jax.random.key(0), schedule=linear_schedule(5), num_leapfrog=1)
    with pytest.raises(ValueError, match="num_leapfrog must be at least 1, got 0"):
        run(linear_schedule(5), num_leapfrog=0)
