"""Per-example optimisation on a model whose optimum is known, its stopping rule, and SVI as a method."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax import model as models
from gpvae_jax.gaussians.family import deform, log_scale, matched_noise, place, retract
from gpvae_jax.gaussians.full import from_diagonal
from gpvae_jax.gaussians.per_example import Optimum, elbo_with_error, optimize
from gpvae_jax.likelihoods import bernoulli
from gpvae_jax.methods.iaf import iaf
from gpvae_jax.methods.newton import newton
from gpvae_jax.methods.svi import best_of, optimize_batches, svi
from gpvae_jax.methods.vae import vae
from gpvae_jax.networks import mlp
from gpvae_jax.observation import scaled
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.train import TrainingData, fit, trainer
from tests.cases import X, assert_close, perturb, small_encoder, small_model
from tests.exact import latent_model, random_model

EXACT = random_model()
MODEL, THETA = latent_model(EXACT), EXACT.theta()
DATA = EXACT.data(seed=1, count=6)
MEAN, COVARIANCE = EXACT.posterior(DATA)
PRECISION = np.linalg.inv(COVARIANCE)


def prior(count: int) -> DiagonalGaussian:
    return DiagonalGaussian(jnp.zeros((count, 3)), jnp.zeros((count, 3)))


@partial(jax.jit, static_argnames=("full", "max_steps"))
def run(x, start, key, full=False, max_steps=5000) -> Optimum:
    start = from_diagonal(start) if full else start
    return optimize(MODEL, THETA, x, start, key, optax.adam(0.1), max_steps=max_steps)


@pytest.fixture(scope="module")
def found() -> dict[bool, Optimum]:
    x = jnp.asarray(DATA, jnp.float32)
    return {full: run(x, prior(6), jax.random.key(0), full) for full in (False, True)}


def test_the_diagonal_optimum_is_the_mean_field_one(found):
    """Mean that of the posterior, variances 1/Λ_jj, and the ELBO below log p(x) by the KL between the two."""
    optimum = found[False]
    spread = np.sqrt(1 / np.diagonal(PRECISION))
    assert np.abs((np.asarray(optimum.posterior.mean) - MEAN) / spread).max() < 0.02
    assert np.abs(np.asarray(optimum.posterior.std) / spread - 1).max() < 0.02
    gap = 0.5 * (np.log(np.diagonal(PRECISION)).sum() - np.linalg.slogdet(PRECISION)[1])
    missed = EXACT.log_evidence(DATA) - np.asarray(optimum.elbo) - gap
    assert gap > 0.1
    assert (np.abs(missed) < 5 * np.asarray(optimum.standard_error) + 1e-3).all()
    assert (np.asarray(optimum.standard_error) > 0).all()


def test_the_full_optimum_is_the_exact_posterior(found):
    """The gap is zero, and so is the noise: every draw has the same weight."""
    optimum = found[True]
    np.testing.assert_allclose(optimum.elbo, EXACT.log_evidence(DATA), atol=1e-3)
    whitened = np.linalg.inv(np.linalg.cholesky(COVARIANCE))
    assert np.abs(whitened @ (np.asarray(optimum.posterior.mean) - MEAN).T).max() < 0.02
    covariance = whitened @ np.asarray(optimum.posterior.covariance) @ whitened.T
    assert np.abs(covariance - np.eye(3)).max() < 0.03
    assert optimum.standard_error.max() < 1e-3


@pytest.mark.parametrize("full", [False, True])
def test_more_steps_and_other_starts_gain_less_than_a_hundredth_of_a_nat(found, full):
    x, optimum = jnp.asarray(DATA, jnp.float32), found[full]
    far = DiagonalGaussian(2 * jnp.ones((6, 3)), -jnp.ones((6, 3)))
    key = jax.random.key(9)
    bound = jax.jit(lambda q: elbo_with_error(MODEL, THETA, q, key, x, 5000)[0])
    reference = bound(optimum.posterior)
    more = jax.jit(lambda q: optimize(MODEL, THETA, x, q, jax.random.key(1), optax.adam(0.1)))(optimum.posterior)
    for other in (more, run(x, far, jax.random.key(2), full)):
        value = bound(other.posterior)  # on the same draws
        assert np.abs(np.asarray(value - reference)).max() < 0.01


def test_each_example_stops_by_itself():
    """One that starts at its optimum stops first; a far one goes on, and neither knows of the other."""
    x = jnp.asarray(DATA[:2], jnp.float32)
    spread = -0.5 * np.log(np.diagonal(PRECISION))
    start = DiagonalGaussian(
        jnp.asarray([MEAN[0], MEAN[1] + 30.0], jnp.float32), jnp.asarray(np.stack([spread, spread]), jnp.float32)
    )
    optimum = run(x, start, jax.random.key(0))
    assert optimum.converged.all()
    assert optimum.steps[0] < optimum.steps[1]
    other = run(x, start._replace(mean=start.mean.at[1].add(20.0)), jax.random.key(0))
    assert other.steps[1] > optimum.steps[1]
    assert_close(jax.tree.map(lambda a: a[0], other.posterior), jax.tree.map(lambda a: a[0], optimum.posterior), 1e-6)
    assert other.steps[0] == optimum.steps[0]


def test_the_trace_rises_and_ends_at_the_optimum(found):
    for optimum in found.values():
        trace = np.asarray(optimum.trace)
        assert trace.shape == (101, 6)
        assert (np.diff(trace, axis=0) >= 0).all()
        assert trace[-1].mean() - trace[0].mean() > 0.1
        assert (np.abs(trace[-1] - optimum.elbo) < 1).all()  # another noise, of 64 draws


def test_max_steps_is_kept():
    x = jnp.asarray(DATA, jnp.float32)
    optimum = run(x, prior(6), jax.random.key(0), max_steps=100)
    assert (optimum.steps == 100).all()
    assert not optimum.converged.any()
    assert optimum.trace.shape == (3, 6)
    none = run(x, prior(6), jax.random.key(0), max_steps=0)
    assert_close(none.posterior, prior(6), 0.0)
    assert none.trace.shape == (1, 6)


def test_local_coordinates():
    """u = 0 is the posterior itself, and steps are in units of its spread."""
    rng = np.random.default_rng(0)
    diagonal = DiagonalGaussian(*jnp.asarray(rng.standard_normal((2, 2, 3)), jnp.float32))
    full = from_diagonal(diagonal)
    noise, key = jnp.asarray(rng.standard_normal((5, 2, 3)), jnp.float32), jax.random.key(0)
    for q in (diagonal, full):
        u = perturb(jax.tree.map(jnp.zeros_like, q), 1, 0.5)
        np.testing.assert_allclose(place(retract(q, u), noise), place(q, deform(u, noise)), rtol=1e-4, atol=1e-5)
        z, _ = q.sample_and_log_prob(key, 5)
        np.testing.assert_allclose(place(q, jax.random.normal(key, z.shape)), z, rtol=1e-6)
        at_mean = -log_scale(q) - 1.5 * np.log(2 * np.pi)
        np.testing.assert_allclose(q.log_prob(q.mean[None])[0], at_mean, rtol=1e-5)
        zero = jax.tree.map(jnp.zeros_like, q)
        assert_close(retract(q, zero), q, 1e-6)
        moved = retract(q, zero._replace(mean=zero.mean.at[:, 1].set(2.0)))
        np.testing.assert_allclose((moved.mean - q.mean)[:, 1], 2 * diagonal.std[:, 1], rtol=1e-5)
    grown = retract(full, full._replace(mean=0 * full.mean, cholesky=jnp.stack([jnp.eye(3)] * 2)))
    np.testing.assert_allclose(grown.variance, np.exp(2.0) * full.variance, rtol=1e-5)


def test_matched_noise_has_the_moments_of_the_standard_normal():
    noise = np.asarray(matched_noise(jax.random.key(0), 16, jnp.zeros((2, 3))), np.float64)
    assert noise.shape == (16, 2, 3)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=1e-6)
    covariance = np.einsum("sbi,sbj->bij", noise, noise) / 16
    np.testing.assert_allclose(covariance, np.stack([np.eye(3)] * 2), atol=1e-5)


def test_the_standard_error_is_honest():
    """ELBO estimates under many keys scatter as the standard error says."""
    x, q = jnp.asarray(DATA, jnp.float32), EXACT.diagonal_posterior(DATA)
    keys = jax.random.split(jax.random.key(0), 200)
    estimate = jax.jit(jax.vmap(lambda key: elbo_with_error(MODEL, THETA, q, key, x, 200)))
    values, errors = (np.asarray(a, np.float64) for a in estimate(keys))
    np.testing.assert_allclose(values.std(axis=0), errors.mean(axis=0), rtol=0.25)
    truth = EXACT.log_evidence(DATA) - EXACT.diagonal_gap()
    assert (np.abs(values.mean(axis=0) - truth) < 5 * values.std(axis=0) / np.sqrt(200) + 1e-4).all()


def test_the_best_of_several_runs():
    """Per example, every field from the winner."""
    x = jnp.asarray(DATA, jnp.float32)
    start = prior(6)._replace(mean=jnp.zeros((6, 3)).at[:3].set(50.0))
    short = [run(x, s, jax.random.key(0), max_steps=50) for s in (prior(6), start)]
    best = best_of(short)
    assert_close(jax.tree.map(lambda a: a[:3], best.posterior), jax.tree.map(lambda a: a[:3], short[0].posterior), 0.0)
    np.testing.assert_array_equal(best.trace[-1], jnp.maximum(short[0].trace[-1], short[1].trace[-1]))
    assert best.trace.shape == short[0].trace.shape


def test_a_data_set_in_batches_is_resumed_where_it_stopped():
    x = np.asarray(DATA[:5], np.float32)
    parts = partial(optimize_batches, lambda b, k: run(b, prior(2), k, max_steps=50), x, jax.random.key(3), 2)
    whole, resumed = list(parts()), list(parts(first=1))
    assert [number for number, _ in whole] == [0, 1, 2]
    assert [optimum.elbo.shape[0] for _, optimum in whole] == [2, 2, 1]
    assert whole[2][1].trace.shape == (2, 1)
    for (number, one), (same, other) in zip(whole[1:], resumed, strict=True):
        assert number == same
        assert_close(one.posterior, other.posterior, 0.0)


def test_the_method_is_trained_as_its_base_and_refines_when_asked():
    model, encoder, x, key = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)
    base, method = vae(model, encoder), svi(model, encoder, max_steps=400)
    params = perturb(method.init(key, x), 0, 0.3)
    assert_close(method.init(key, x), base.init(key, x), 0.0)
    assert_close(jax.jit(method.loss)(params, key, x), jax.jit(base.loss)(params, key, x), 0.0)
    amortized, _ = jax.jit(base.posterior)(params, key, x)
    q, info = jax.jit(method.posterior)(params, key, x)
    bound = jax.jit(lambda q: elbo_with_error(model, params.model, q, key, x, 2000)[0])
    values = [bound(each) for each in (amortized, q)]
    assert (values[1] > values[0] + 0.05).all()
    np.testing.assert_allclose(info["elbo"], values[1], atol=0.5)
    slope = jax.jit(jax.grad(lambda p: jnp.sum(method.posterior(p, key, x)[0].mean)))(params)
    assert all(np.abs(leaf).max() == 0 for leaf in jax.tree.leaves(slope))
    start, _ = jax.jit(svi(model, encoder, max_steps=0).posterior)(params, key, x)
    assert_close(start, amortized, 0.0)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="did you mean 'diagonal'"):
        svi(small_model(), small_encoder(), family="diag")
    for settings in ({"num_samples": 3}, {"check_samples": 4}):
        with pytest.raises(ValueError, match="an even check_samples of at least 6, twice the latent dimensions, got"):
            optimize(MODEL, THETA, DATA, prior(6), jax.random.key(0), optax.adam(0.1), **settings)


@pytest.mark.parametrize("family", ["diagonal", "full"])
@pytest.mark.parametrize("curvature", ["lowrank", "gauss_newton"])
def test_over_a_posterior_that_is_not_diagonal_it_starts_with_its_moments(family, curvature):
    model, encoder, x, key = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)
    base = newton(model, encoder, curvature=curvature)
    params = perturb(base.init(key, x), 1)
    start, _ = jax.jit(base.posterior)(params, jax.random.split(key)[0], x)
    q, _ = jax.jit(svi(model, encoder, base=base, family=family, max_steps=0).posterior)(params, key, x)
    np.testing.assert_allclose(q.mean, start.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(q.variance, start.variance, rtol=1e-4)
    if family == "full":
        np.testing.assert_allclose(q.covariance, start.covariance, rtol=1e-3, atol=1e-5)


def test_training_validates_the_amortized_posterior():
    """As the base does: to optimise every validation image in every epoch would cost thousands of times as much."""
    base = vae(small_model(), small_encoder())
    method = svi(small_model(), small_encoder(), base=base)
    assert method.amortized is base.posterior
    observation = scaled(None)
    trainers = [trainer(m, small_model(), optax.adam(1e-3), observation, batch_size=5) for m in (base, method)]
    records = [next(iter(fit(t, TrainingData(X, X), jax.random.key(0), epochs=1))) for t in trainers]
    assert records[0].metrics["validation_elbo"] == records[1].metrics["validation_elbo"]


def test_many_latents_have_as_many_check_draws_as_they_need():
    model = models.latent_model(mlp((65,), (4,), (4, 4, 1)), bernoulli())
    method = svi(model, mlp((4, 4, 1), (4,)), max_steps=0)
    params = method.init(jax.random.key(0), X)
    q, _ = jax.jit(method.posterior)(params, jax.random.key(0), X)
    assert q.mean.shape == (len(X), 65)


@pytest.mark.parametrize("samples", [0, 1, 3])
def test_an_odd_number_of_draws_is_told(samples):
    with pytest.raises(ValueError, match=f"inner_samples must be even and at least 2, .* got {samples}"):
        svi(small_model(), small_encoder(), inner_samples=samples)


def test_a_base_without_moments_is_told():
    method = svi(small_model(), small_encoder(), base=iaf(small_model(), small_encoder(), width=8))
    with pytest.raises(ValueError, match="svi needs a base whose posterior has moments, but this one's is a IAF"):
        jax.eval_shape(method.posterior, jax.eval_shape(method.init, jax.random.key(0), X), jax.random.key(0), X)
