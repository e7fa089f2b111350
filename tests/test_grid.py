"""The posterior on a grid against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.evaluate.grid import grid_posterior, grid_slice, kl_to_posterior, most_divergent
from gpvae_jax.posteriors import DiagonalGaussian
from tests.exact import latent_model, random_model

EXACT = random_model(data_dim=6, latent_dim=2, variance=0.02)  # narrow: some thirtieth of the grid's extent
MODEL = latent_model(EXACT)
X = EXACT.data(seed=3, count=4)
GRID = grid_posterior(MODEL, EXACT.theta(), jnp.asarray(X, jnp.float32))
MEAN, COVARIANCE = EXACT.posterior(X)


def test_evidence_and_moments():
    np.testing.assert_allclose(GRID.log_evidence, EXACT.log_evidence(X), atol=2e-3)  # float32 sums of some 100 nats
    points = GRID.points()
    for i in range(2):
        np.testing.assert_allclose(GRID.expectation(points[..., i]), MEAN[:, i], atol=1e-3)
        for j in range(2):
            product = (points[..., i] - MEAN[:, None, None, i]) * (points[..., j] - MEAN[:, None, None, j])
            np.testing.assert_allclose(GRID.expectation(product), COVARIANCE[i, j], atol=0.01 * COVARIANCE.max())
    np.testing.assert_allclose(GRID.expectation(np.ones_like(GRID.log_density)), 1.0, rtol=1e-9)


def test_the_density_is_the_posteriors():
    expected = np.stack(
        [stats.multivariate_normal(m, COVARIANCE).logpdf(z) for m, z in zip(MEAN, GRID.points(), strict=True)]
    )
    near = expected > expected.max() - 10
    np.testing.assert_allclose(GRID.log_density[near], expected[near], atol=5e-3)


@pytest.mark.parametrize("shift", [0.0, 30.0], ids=["in place", "outside the window"])
def test_the_error_of_a_gaussian_wherever_it_lies(shift):
    """Against KL of two Gaussians: ½ (tr PS + dᵀPd − Z − log det P − log det S), P = C⁻¹."""
    precision = np.linalg.inv(COVARIANCE)
    std = 1 / np.sqrt(np.diagonal(precision))
    off, draws = shift * std, 20_000
    log_stds = np.broadcast_to(np.log(std), MEAN.shape)
    q = DiagonalGaussian(jnp.asarray(MEAN + off, jnp.float32), jnp.asarray(log_stds, jnp.float32))
    found = kl_to_posterior(MODEL, EXACT.theta(), jnp.asarray(X), q, GRID.log_evidence, num_samples=draws)
    expected = 0.5 * (off @ precision @ off - np.linalg.slogdet(precision)[1] - 2 * np.log(std).sum())
    # log-weights of variance ≤ (Pd)ᵀ S (Pd) + ½ tr (PS − I)², and some 1e-3 of float32's sums
    ratio = precision * std**2 - np.eye(2)
    spread = np.sqrt(np.sum((precision @ off * std) ** 2) + 0.5 * np.trace(ratio @ ratio))
    assert np.all(np.abs(found - expected) < 5 * spread / draws**0.5 + 1e-3 * (1 + expected))


def test_the_grid_finds_two_separate_modes():
    """z² observed: the posterior has a mode on either side, and both are within the window."""

    def log_likelihood(theta, x, z):
        return -0.5 * jnp.sum(jnp.square((x[None] - jnp.square(z[..., :1])) / 0.05), axis=-1)

    model = MODEL._replace(log_likelihood=log_likelihood)
    grid = grid_posterior(model, {}, jnp.full((1, 1), 2.25, jnp.float32))
    first = np.exp(grid.log_density[0]).sum(axis=1)
    for mode in (-1.5, 1.5):
        near = np.abs(grid.first[0] - mode) < 0.2
        assert first[near].sum() / first.sum() == pytest.approx(0.5, abs=0.01)


def test_other_latents_are_refused():
    exact = random_model(latent_dim=3)
    with pytest.raises(ValueError, match="needs a model with 2 latents, got 3"):
        grid_posterior(latent_model(exact), exact.theta(), jnp.zeros((1, 5)))


def test_a_plane_of_three_latents_is_the_conditional():
    exact = random_model(data_dim=6, latent_dim=3, variance=0.02)
    x = exact.data(seed=4, count=2)
    mean, covariance = exact.posterior(x)
    center, pairs = mean + 0.02, np.array([[0, 2], [1, 2]])
    grid = grid_slice(latent_model(exact), exact.theta(), jnp.asarray(x, jnp.float32), center, pairs)
    precision = np.linalg.inv(covariance)
    for b, pair in enumerate(pairs):
        rest = np.setdiff1d(np.arange(3), pair)
        inside = np.linalg.inv(precision[np.ix_(pair, pair)])
        expected = mean[b, pair] - inside @ precision[np.ix_(pair, rest)] @ (center[b, rest] - mean[b, rest])
        points = grid.points()
        found = [grid.expectation(points[..., i])[b] for i in range(2)]
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_the_most_divergent_coordinates():
    mean, std = np.zeros((2, 4)), np.ones((2, 4))
    best_mean, best_std = mean.copy(), std.copy()
    best_mean[0, [1, 3]], best_mean[1, 0], best_std[1, 2] = 2.0, -1.0, 0.1
    np.testing.assert_array_equal(most_divergent(mean, std, best_mean, best_std), [[1, 3], [0, 2]])


@pytest.mark.parametrize(("width", "size"), [(0.02, 150), (0.01, 300)])
def test_a_narrow_ridge_across_both_axes_is_resolved_or_told(width, size):
    """z₁ + z₂ observed with a standard deviation far below the first grid's cell of 0.08."""

    def log_likelihood(theta, x, z):
        away = (x[None, :, 0] - z.sum(axis=-1)) / theta
        return -0.5 * jnp.square(away) - jnp.log(theta)

    model = MODEL._replace(log_likelihood=log_likelihood)
    x = jnp.asarray([[0.31], [-1.27]], jnp.float32)
    grid = grid_posterior(model, jnp.float32(width), x, size=size)
    expected = stats.norm(0, np.sqrt(2 + width**2)).logpdf(np.asarray(x)[:, 0])
    np.testing.assert_allclose(grid.log_evidence, expected + 0.5 * np.log(2 * np.pi), atol=2e-3)
    with pytest.raises(ValueError, match=r"A grid of 40×40 points does not resolve the posterior of example [01]"):
        grid_posterior(model, jnp.float32(width / 10), x, size=20)


@pytest.mark.parametrize("mean", [0.0, 7.0])
def test_a_posterior_beyond_the_extent_is_reached_or_told(mean):
    def log_likelihood(theta, x, z):  # the prior taken back: the posterior is N((mean, 0), 0.3²)
        away = jnp.square((z - theta[None, None]) / 0.3).sum(axis=-1)
        return -0.5 * away - MODEL.log_prior({}, z) - 2 * jnp.log(0.3) - jnp.log(2 * jnp.pi)

    model, theta = MODEL._replace(log_likelihood=log_likelihood), jnp.asarray([mean, 0.0])
    grid = grid_posterior(model, theta, jnp.zeros((1, 1)))
    np.testing.assert_allclose(grid.log_evidence, 0, atol=2e-3)
    with pytest.raises(ValueError, match=r"of example 0 reaches beyond ±12; give more extent"):
        grid_posterior(model, theta + jnp.asarray([13 - mean, 0]), jnp.zeros((1, 1)))
    with pytest.raises(ValueError, match="example 0 is NaN"):
        grid_posterior(model, theta * jnp.nan, jnp.zeros((1, 1)))
