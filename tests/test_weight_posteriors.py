"""Every family of q(W) against dense covariances, numpyro and its own draws."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.kl import kl_divergence

from gpvae_jax.gp.weights import (
    LOG_NOISE_BOUND,
    WEIGHT_POSTERIORS,
    cholesky_factor,
    init_white_noise,
    low_rank,
    weight_posterior_by_name,
    white_noise,
)
from tests.cases import perturb

F, Z, B, RANK = 5, 2, 7, 2
PSI = np.random.default_rng(0).normal(size=(B, F)).astype(np.float32)
FAMILIES = sorted(WEIGHT_POSTERIORS)
DRAWS = 40_000
SIGMAS = 5.0


def family_and_params(name: str):
    """A family, and parameters at no special point."""
    family = weight_posterior_by_name(name, RANK)
    return family, perturb(family.init(jax.random.key(0), F, Z, 0.3), 1, 0.4)


def covariances(name: str, params) -> np.ndarray:
    """S[Z, F, F] in float64, written out from the parameters."""
    p = {key: np.asarray(value, np.float64) for key, value in params.items()}
    if name in ("diagonal", "low_rank"):
        dense = np.stack([np.diag(row) for row in np.exp(2 * p["log_std"])])
        return dense if name == "diagonal" else dense + p["factor"] @ p["factor"].transpose(0, 2, 1)
    factor = np.tril(p["lower"], -1) + np.exp(p["log_diagonal"])[..., None] * np.eye(F)
    dense = factor @ np.swapaxes(factor, -1, -2)
    return dense if name == "full" else np.exp(2 * p["log_row_std"])[:, None, None] * dense


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_and_variance_are_those_of_the_dense_covariance(name):
    family, params = family_and_params(name)
    np.testing.assert_allclose(family.mean(params, PSI), PSI @ np.asarray(params["mean"]).T, rtol=1e-5, atol=1e-6)
    expected = np.einsum("bf,zfg,bg->bz", PSI, covariances(name, params), PSI)
    np.testing.assert_allclose(family.variance(params, PSI), expected, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_variance_of_draws(name):
    """A_j = ψᵀS_jψ is what drawing the weights gives."""
    family, params = family_and_params(name)
    weights = np.asarray(family.draw(params, jax.random.key(2), DRAWS), np.float64)
    assert weights.shape == (DRAWS, Z, F)
    errors = np.einsum("szf,bf->sbz", weights, PSI)
    mean, variance = np.asarray(family.mean(params, PSI)), np.asarray(family.variance(params, PSI))
    assert (np.abs(errors.mean(axis=0) - mean) <= SIGMAS * np.sqrt(variance / DRAWS)).all()
    relative = SIGMAS * np.sqrt(2 / DRAWS)  # of a Gaussian's sample variance
    np.testing.assert_allclose(errors.var(axis=0), variance, rtol=relative)
    between = (
        np.einsum("sa,sb->ab", weights[:, 0] - weights[:, 0].mean(0), weights[:, 1] - weights[:, 1].mean(0)) / DRAWS
    )
    bound = np.sqrt(np.einsum("a,b->ab", *(np.diagonal(s) for s in covariances(name, params))) / DRAWS)
    assert (np.abs(between) <= SIGMAS * bound).all()  # rows are independent


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("prior_scale", [1.0, 0.3])
def test_kl_is_numpyros(name, prior_scale):
    family, params = family_and_params(name)
    got = family.kl(params, prior_scale)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        q = dist.MultivariateNormal(np.asarray(params["mean"], np.float64), covariances(name, params))
        prior = dist.MultivariateNormal(np.zeros(F), prior_scale**2 * np.eye(F))
        expected = float(jnp.sum(kl_divergence(q, prior)))
    np.testing.assert_allclose(got, expected, rtol=2e-5)
    np.testing.assert_allclose(family.kl(params, jnp.asarray(prior_scale, jnp.float32)), got, rtol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_start(name):
    """Means zero; every weight's variance the start's, for "low_rank" on average over its random factor."""
    family = weight_posterior_by_name(name, 400)
    params = family.init(jax.random.key(0), F, Z, 1e-3)
    assert not np.any(params["mean"])
    np.testing.assert_allclose(
        np.diagonal(covariances(name, params), axis1=1, axis2=2), 1e-3, rtol=0.25 if name == "low_rank" else 1e-5
    )


@pytest.mark.parametrize("name", ["diagonal", "full", "shared"])
def test_kl_vanishes_at_the_prior(name):
    family = weight_posterior_by_name(name, RANK)
    np.testing.assert_allclose(family.kl(family.init(jax.random.key(0), F, Z, 0.25), 0.5), 0.0, atol=1e-5)


@pytest.mark.parametrize("name", ["full", "low_rank", "shared"])
def test_reduces_to_diagonal(name):
    """With a diagonal factor, or none, every family is the diagonal one: variance, KL and draws' spread."""
    rng = np.random.default_rng(3)
    row = rng.normal(size=(Z, F)) if name != "shared" else np.broadcast_to(rng.normal(size=F), (Z, F))
    log_std, mean = (jnp.asarray(value, jnp.float32) for value in (row, rng.normal(size=(Z, F))))
    zeros = jnp.zeros((Z, F, F), jnp.float32)
    params = {
        "full": {"mean": mean, "log_diagonal": log_std, "lower": zeros},
        "low_rank": {"mean": mean, "log_std": log_std, "factor": zeros[..., :RANK]},
        "shared": {"mean": mean, "log_row_std": zeros[:, 0, 0], "log_diagonal": log_std[0], "lower": zeros[0]},
    }[name]
    plain, family = weight_posterior_by_name("diagonal", 1), weight_posterior_by_name(name, RANK)
    reference = {"mean": mean, "log_std": log_std}
    np.testing.assert_allclose(family.variance(params, PSI), plain.variance(reference, PSI), rtol=1e-5)
    np.testing.assert_allclose(family.kl(params, 0.7), plain.kl(reference, 0.7), rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_bears_tiny_variances(name):
    """F = 300 weights of variance 1e-10: finite values and gradients, the KL that of float64."""
    family = weight_posterior_by_name(name, RANK)
    params = family.init(jax.random.key(0), 300, Z, 1e-10)
    psi = jnp.asarray(np.random.default_rng(0).normal(size=(B, 300)), jnp.float32)

    def total(params):
        return jnp.sum(family.variance(params, psi)) + family.kl(params, 1.0)

    value, grads = jax.jit(jax.value_and_grad(total))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
        np.testing.assert_allclose(value, jax.jit(family.kl)(double, 1.0), rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gradient_reaches_every_parameter_from_the_start(name):
    family = weight_posterior_by_name(name, RANK)
    params = family.init(jax.random.key(0), F, Z, 1e-3)

    def total(params):
        return jnp.sum(family.variance(params, PSI)) + jnp.sum(family.mean(params, PSI))

    grads = jax.jit(jax.grad(total))(params)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


def test_factor_has_a_positive_diagonal_and_nothing_above():
    _, params = family_and_params("full")
    factor = np.asarray(cholesky_factor(params))
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
    assert not np.any(np.triu(factor, 1))


def test_white_noise_is_positive_bounded_and_starts_constant():
    start = jnp.asarray([1e-3, 0.5], jnp.float32)
    params = init_white_noise(F, start)
    np.testing.assert_allclose(white_noise(params, PSI), np.broadcast_to(start, (B, Z)), rtol=1e-5)
    least = white_noise(init_white_noise(F, jnp.full((Z,), 1e-30)), PSI)
    assert ((least > 0) & (least < 1e-6)).all()
    wild = white_noise(perturb(params, 0, 100.0), 100 * PSI)
    assert np.isfinite(wild).all()
    assert (np.abs(np.log(wild)) <= LOG_NOISE_BOUND * (1 + 1e-5)).all()


def test_bad_settings():
    with pytest.raises(ValueError, match=r"Unknown weight posterior 'diag'.*diagonal"):
        weight_posterior_by_name("diag", 1)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        low_rank(0)
