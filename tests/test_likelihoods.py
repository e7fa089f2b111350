"""Observation models against independent densities, their sums and integrals, and their own samples."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

from gpvae_jax.likelihoods import (
    LIKELIHOODS,
    MIN_VARIANCE,
    bernoulli,
    bits_per_dim,
    discretized_logistic,
    gaussian,
)

RNG = np.random.default_rng(0)
SHAPE = (2, 3)
PARAMS = {"bernoulli": {}, "gaussian": {"log_variance": -1.0}, "discretized_logistic": {"log_scale": -2.0}}
SCALES = (1e-3, 1e-2, 0.1, 1.0, 1e2)
LOCATIONS = (-0.5, 0.0, 0.31, 1.0, 1.7)
DRAWS = 40_000


def params_of(name: str, value: float | None = None) -> dict:
    """The likelihood's parameters as arrays, with another value where one is given."""
    return {k: jnp.asarray(v if value is None else value, float) for k, v in PARAMS[name].items()}


@pytest.fixture(params=sorted(LIKELIHOODS))
def likelihood(request):
    return LIKELIHOODS[request.param]()


def test_registry_names_are_the_likelihoods_own(likelihood):
    assert LIKELIHOODS[likelihood.name]().name == likelihood.name
    assert likelihood.init(jnp.zeros((4, *SHAPE)) + 0.5).keys() == PARAMS[likelihood.name].keys()


# ---- densities


def test_bernoulli_is_numpyros():
    logits, x = RNG.normal(0, 5, SHAPE), RNG.integers(0, 2, SHAPE)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        got = bernoulli().log_prob({}, jnp.asarray(logits), jnp.asarray(x, float))
        np.testing.assert_allclose(got, dist.Bernoulli(logits=logits).log_prob(x).sum(), rtol=1e-12)


def test_bernoulli_sums_to_one_over_all_images():
    images = np.array(np.meshgrid(*[[0.0, 1.0]] * 6, indexing="ij")).reshape(6, -1).T.reshape(-1, *SHAPE)
    logits = RNG.normal(0, 3, SHAPE)
    with jax.enable_x64(True):
        log_prob = jax.vmap(bernoulli().log_prob, (None, None, 0))({}, jnp.asarray(logits), jnp.asarray(images))
        np.testing.assert_allclose(jnp.exp(log_prob).sum(), 1, rtol=1e-12)


def test_gaussian_is_numpyros():
    output, x = RNG.normal(size=(2, *SHAPE))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        got = gaussian().log_prob(params_of("gaussian"), jnp.asarray(output), jnp.asarray(x))
        expected = dist.Normal(output, np.exp(-0.5)).log_prob(x).sum()
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("log_variance", [-8.0, 0.0, 8.0])
def test_gaussian_integrates_to_one(log_variance):
    with jax.enable_x64(True):
        grid = np.linspace(-12, 12, 2001) * np.exp(0.5 * log_variance)
        step, params = grid[1] - grid[0], params_of("gaussian", log_variance)
        log_prob = jax.vmap(gaussian().log_prob, (None, None, 0))(params, jnp.asarray(0.3), jnp.asarray(grid + 0.3))
        np.testing.assert_allclose(jnp.exp(log_prob).sum() * step, 1, rtol=1e-10)


def discretized_table(levels: int, dtype: str) -> np.ndarray:
    """log p[scale, location, level] of one pixel."""
    x = jnp.arange(levels).astype(dtype) / (levels - 1)
    table = jax.vmap(discretized_logistic(levels).log_prob, (None, None, 0))
    table = jax.vmap(jax.vmap(table, (None, 0, None)), ({"log_scale": 0}, None, None))
    scales = {"log_scale": jnp.log(jnp.asarray(SCALES, dtype))}
    return np.asarray(jax.jit(table)(scales, jnp.asarray(LOCATIONS, dtype), x), np.float64)


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("float64", 1e-11)])
def test_discretized_logistic_sums_to_one_over_levels(levels, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        table = discretized_table(levels, dtype)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(np.exp(table).sum(axis=-1), 1, rtol=tolerance)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_is_a_difference_of_scipys_cdf(levels):
    with jax.enable_x64(True):
        table = discretized_table(levels, "float64")
    x, half = np.arange(levels) / (levels - 1), 0.5 / (levels - 1)
    edges = np.stack([x - half, x + half])
    edges[0, 0], edges[1, -1] = -np.inf, np.inf
    location = np.asarray(LOCATIONS)[:, None, None]
    for scale, got in zip(SCALES, table, strict=True):
        lower, upper = np.moveaxis(stats.logistic.cdf(edges, location, scale), 1, 0)
        sure = upper - lower > 1e-8  # below, the difference of two numbers near one has no digits left
        assert sure.any()
        np.testing.assert_allclose(got[sure], np.log((upper - lower)[sure]), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("output", [-1e4, -30.0, 0.0, 0.5, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("value", [-20.0, 0.0, 20.0])
@pytest.mark.parametrize("x", [0.0, 1.0])
def test_finite_with_finite_gradients_everywhere(likelihood, output, value, x):
    log_prob, grads = GRADIENTS[likelihood.name](
        params_of(likelihood.name, value), jnp.full(SHAPE, output), jnp.full(SHAPE, x)
    )
    assert np.isfinite(log_prob)
    assert log_prob < 1e3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


GRADIENTS = {name: jax.jit(jax.value_and_grad(make().log_prob, argnums=(0, 1))) for name, make in LIKELIHOODS.items()}


@pytest.mark.parametrize("log_variance", [-170.0, -90.0, 90.0, 170.0])
def test_gaussian_at_variances_whose_inverse_overflows(log_variance):
    """Exact outputs: the density is its normaliser, and no output is better."""
    log_prob, (of_params, of_output) = GRADIENTS["gaussian"](
        params_of("gaussian", log_variance), jnp.full(SHAPE, 0.5), jnp.full(SHAPE, 0.5)
    )
    size = np.prod(SHAPE)
    np.testing.assert_allclose(log_prob, -0.5 * size * (log_variance + np.log(2 * np.pi)), rtol=1e-6)
    np.testing.assert_allclose(of_params["log_variance"], -0.5 * size, rtol=1e-6)
    np.testing.assert_array_equal(of_output, np.zeros(SHAPE))


def test_bernoulli_at_sure_pixels_is_linear_in_the_logit():
    """log σ(l) → l far below zero: −1e4, not −inf; and zero on the right side."""
    got = jax.vmap(bernoulli().log_prob, (None, 0, 0))({}, jnp.array([-1e4, 1e4, 1e4]), jnp.array([1.0, 0, 1]))
    np.testing.assert_allclose(got, [-1e4, -1e4, 0.0])


# ---- samples and means

SAMPLES = {name: jax.jit(jax.vmap(make().sample, (None, 0, None))) for name, make in LIKELIHOODS.items()}


@pytest.mark.parametrize(("value", "output"), [(-3.0, 0.4), (-1.5, 0.05), (-1.0, 0.9), (0.5, 0.5), (-2.0, 1.3)])
def test_samples_have_the_mean_and_stay_in_the_support(likelihood, value, output):
    params, output = params_of(likelihood.name, value), jnp.full(SHAPE, output)
    x = SAMPLES[likelihood.name](params, jax.random.split(jax.random.key(0), DRAWS), output)
    x = np.asarray(x, np.float64)
    assert x.shape == (DRAWS, *SHAPE)
    likelihood.check(x.astype(np.float32))
    error = 5 * x.std(axis=0) / DRAWS**0.5
    assert (np.abs(x.mean(axis=0) - np.asarray(likelihood.mean(params, output))) < error + 1e-5).all()


def test_sample_frequencies_are_the_probabilities():
    model, levels = discretized_logistic(9), jnp.arange(9.0) / 8
    params, output = {"log_scale": jnp.asarray(-1.5)}, jnp.asarray(0.2)
    draw = jax.jit(jax.vmap(model.sample, (None, 0, None)))
    x = draw(params, jax.random.split(jax.random.key(1), DRAWS), output)
    expected = np.exp(jax.vmap(model.log_prob, (None, None, 0))(params, output, levels))
    got = np.mean(np.asarray(x)[:, None] == np.asarray(levels), axis=0)
    np.testing.assert_allclose(got.sum(), 1)  # every sample is one of the levels, to the last bit
    assert (np.abs(got - expected) < 5 * np.sqrt(expected / DRAWS)).all()


def test_gaussian_samples_have_the_variance():
    keys = jax.random.split(jax.random.key(2), DRAWS)
    x = SAMPLES["gaussian"](params_of("gaussian"), keys, jnp.full(SHAPE, 0.0))
    np.testing.assert_allclose(np.var(x), np.exp(-1), rtol=5 * np.sqrt(2 / x.size))


# ---- starting values and checks


def test_starting_values_match_the_datas_spread():
    x = jnp.asarray(RNG.uniform(size=(200, *SHAPE)), jnp.float32)
    assert bernoulli().init(x) == {}
    np.testing.assert_allclose(jnp.exp(gaussian().init(x)["log_variance"]), np.var(x), rtol=1e-5)
    scale = np.exp(discretized_logistic().init(x)["log_scale"])
    np.testing.assert_allclose(stats.logistic.std(scale=scale), np.std(x), rtol=1e-5)


def test_constant_data_start_finite():
    x = jnp.ones((5, *SHAPE))
    np.testing.assert_allclose(jnp.exp(gaussian().init(x)["log_variance"]), MIN_VARIANCE, rtol=1e-5)
    assert np.isfinite(discretized_logistic().init(x)["log_scale"])


def test_good_data_pass(likelihood):
    likelihood.check(np.array([[0.0, 1.0]], np.float32))
    likelihood.check((np.arange(256) / np.float32(255)).astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_values_are_refused(likelihood, bad):
    with pytest.raises(ValueError, match=r"NaN or infinite values; remove or repair"):
        likelihood.check(np.array([0.5, bad]))


@pytest.mark.parametrize("make", [bernoulli, discretized_logistic])
@pytest.mark.parametrize(("data", "came"), [([-0.25, 1.0], "from -0.25 to 1"), ([0.0, 255.0], "from 0 to 255")])
def test_values_outside_the_unit_interval_are_refused(make, data, came):
    name = make().name
    with pytest.raises(ValueError, match=rf"{name} likelihood expects data in \[0, 1\], got values {came}; .*gaussian"):
        make().check(np.array(data))


def test_values_off_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"expects grey levels k/16, but a value lies 0\.4 levels off the grid"):
        discretized_logistic(17).check(np.array([0.0, 3.4 / 16]))


def test_too_few_levels_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 grey levels, got 1\."):
        discretized_logistic(1)


def test_bits_per_dim():
    # a uniform distribution over 256 levels costs 8 bits a pixel
    np.testing.assert_allclose(bits_per_dim(jnp.array([-6 * np.log(256.0)]), SHAPE), [8.0], rtol=1e-6)
