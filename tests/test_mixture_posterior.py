"""The mixture posterior: densities, samples and moments against scipy and grids, and its stick-breaking weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from gpvae_jax.bounds import iwae
from gpvae_jax.mixtures.posterior import (
    GaussianMixture,
    gaussian_entropy,
    gaussian_kl,
    stick_breaking,
    stratified_mean,
)
from gpvae_jax.posteriors import DiagonalGaussian

M, B, Z = 4, 3, 2
rng = np.random.default_rng(0)
MEANS, LOG_STDS = rng.standard_normal((M, B, Z)), 0.5 * rng.standard_normal((M, B, Z))
LOG_ALPHA = special.log_softmax(rng.standard_normal((B, M)), axis=1)


@pytest.fixture
def q():
    return GaussianMixture(*(jnp.asarray(a, jnp.float32) for a in (MEANS, LOG_STDS, LOG_ALPHA)))


def log_density(z):
    """scipy's log Q at z[S, B, Z]."""
    parts = stats.norm.logpdf(z[None], MEANS[:, None], np.exp(LOG_STDS)[:, None]).sum(-1)
    return special.logsumexp(parts + LOG_ALPHA.T[:, None], axis=0)


def test_density_and_responsibilities(q):
    z = 3 * rng.standard_normal((7, B, Z))
    np.testing.assert_allclose(q.log_prob(jnp.asarray(z, jnp.float32)), log_density(z), rtol=1e-5, atol=1e-5)
    shares = q.responsibilities(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(shares.sum(0), 1.0, rtol=1e-5)
    first = stats.norm.logpdf(z, MEANS[0], np.exp(LOG_STDS[0])).sum(-1) + LOG_ALPHA[:, 0]
    np.testing.assert_allclose(shares[0], np.exp(first - log_density(z)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("how", ["categories", "strata"])
def test_samples_have_the_moments_and_the_density(q, how):
    samples = 20_000
    if how == "categories":
        z, log_q = q.sample_and_log_prob(jax.random.key(1), samples)
        weights = np.full((samples, B), 1 / samples)
    else:
        z, log_q = q.sample_strata(jax.random.key(1), samples // M)
        weights = np.repeat(np.exp(LOG_ALPHA.T)[:, None], samples // M, axis=1) / (samples // M)
        z, log_q, weights = (np.asarray(a).reshape(-1, *a.shape[2:]) for a in (z, log_q, weights))
    z = np.asarray(z, np.float64)
    np.testing.assert_allclose(log_q, log_density(z), rtol=1e-3, atol=1e-3)
    mean = (weights[..., None] * z).sum(0)
    error = np.sqrt(np.asarray(q.variance) / samples)
    assert (np.abs(mean - q.mean) < 5 * error).all()
    variance = (weights[..., None] * np.square(z - np.asarray(q.mean))).sum(0)
    np.testing.assert_allclose(variance, q.variance, rtol=0.08)  # 5 errors of √(kurtosis/S)


def test_categories_have_the_weights(q):
    c = np.asarray(q.sample_categories(jax.random.key(2), 20_000))
    share = (c[None] == np.arange(M)[:, None, None]).mean(1).T
    alpha = np.exp(LOG_ALPHA)
    assert (np.abs(share - alpha) < 5 * np.sqrt(alpha * (1 - alpha) / 20_000)).all()


def test_the_weight_of_a_sample_is_the_mixtures_not_its_components(q):
    """Against itself as the target every importance weight is exactly one: it would not be with q_c below."""
    z, log_q = q.sample_and_log_prob(jax.random.key(3), 50)
    np.testing.assert_allclose(iwae(q.log_prob(z) - log_q), 0.0, atol=1e-5)


def test_strata_share_their_noise_with_the_components(q):
    noise = q.noise(jax.random.key(4), 5)
    z = q.strata(noise)
    assert z.shape == (M, 5, B, Z)
    np.testing.assert_allclose(z, MEANS[:, None] + np.exp(LOG_STDS)[:, None] * noise, rtol=1e-5, atol=1e-5)


def test_divergences_and_entropy_against_scipy(q):
    kl = np.asarray(q.pairwise_kl())
    assert kl.shape == (M, M, B)
    z = np.linspace(-15, 15, 6001)
    for i, j in ((0, 1), (2, 1), (3, 3)):
        pdfs = [stats.norm(MEANS[k, 0, 0], np.exp(LOG_STDS[k, 0, 0])) for k in (i, j)]
        expected = np.sum(pdfs[0].pdf(z) * (pdfs[0].logpdf(z) - pdfs[1].logpdf(z))) * (z[1] - z[0])
        single = [DiagonalGaussian(q.means[k, :1, :1], q.log_stds[k, :1, :1]) for k in (i, j)]
        np.testing.assert_allclose(gaussian_kl(*single)[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(kl[np.arange(M), np.arange(M)], 0.0, atol=1e-6)
    both = gaussian_kl(*(DiagonalGaussian(q.means[k], q.log_stds[k]) for k in (1, 2)))
    np.testing.assert_allclose(kl[1, 2], both, rtol=1e-5)
    expected = stats.norm(0, np.exp(LOG_STDS)).entropy().sum(-1)
    np.testing.assert_allclose(gaussian_entropy(q.log_stds), expected, rtol=1e-5)


def test_stick_breaking_is_the_recursion():
    epsilon = rng.uniform(0.05, 0.95, (B, 5))
    alpha = np.ones((B, 1))
    for m in range(5):
        alpha = np.concatenate([alpha * (1 - epsilon[:, m : m + 1]), epsilon[:, m : m + 1]], axis=1)
    log_alpha = stick_breaking(jnp.asarray(special.logit(epsilon), jnp.float32))
    np.testing.assert_allclose(np.exp(log_alpha), alpha, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_64_weights_sum_to_one_at_extreme_logits(scale):
    logits = jnp.asarray(scale * rng.standard_normal((20, 63)), jnp.float32)
    log_alpha = stick_breaking(logits)
    np.testing.assert_allclose(special.logsumexp(np.float64(log_alpha), axis=1), 0.0, atol=2e-6)
    assert np.isfinite(jax.grad(lambda a: jnp.sum(stick_breaking(a)))(logits)).all()
    assert np.isfinite(log_alpha).all()


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_64_weights_keep_their_ratios_where_they_underflow(sign):
    """All ε near one (or zero): weights far below the smallest float are still right in logarithms."""
    logits = jnp.full((1, 63), sign * 20.0, jnp.float32)
    exact = np.log1p(np.exp(-20.0))
    kept, new = (-20.0 - exact, -exact) if sign > 0 else (-exact, -20.0 - exact)
    expected = np.array([(0.0 if m == 0 else new) + kept * (63 - m) for m in range(64)])
    np.testing.assert_allclose(stick_breaking(logits)[0], expected, rtol=1e-5, atol=1e-9)


def test_no_logits_give_the_one_weight():
    np.testing.assert_array_equal(stick_breaking(jnp.zeros((B, 0))), np.zeros((B, 1)))


def toy_log_target(z):
    return jnp.logaddexp(
        jnp.log(0.6) - 0.5 * jnp.square((z + 1) / 0.6) - jnp.log(0.6),
        jnp.log(0.4) - 0.5 * jnp.square(z - 1.5),
    )


@jax.jit
def bound_on_a_grid(parameters, grid):
    """L(Q) = ∫ Q (log p − log Q) dz for one example and one latent: no samples, no reparameterisation."""
    q = GaussianMixture(parameters["means"], parameters["log_stds"], stick_breaking(parameters["logits"]))
    log_q = q.log_prob(grid[:, None, None])[:, 0]
    return jnp.sum(jnp.exp(log_q) * (toy_log_target(grid) - log_q)) * (grid[1] - grid[0])


@jax.jit
def stratified_bound(parameters, noise):
    q = GaussianMixture(parameters["means"], parameters["log_stds"], stick_breaking(parameters["logits"]))
    z = q.strata(noise)
    return stratified_mean(q.log_alpha, toy_log_target(z[..., 0]) - jax.vmap(q.log_prob)(z))[0]


def toy_parameters():
    return {
        "means": jnp.asarray([-1.0, 0.3, 2.0])[:, None, None],
        "log_stds": jnp.asarray([-0.4, 0.2, -0.1])[:, None, None],
        "logits": jnp.asarray([[0.3, -0.8]]),
    }


def test_gradient_of_the_stratified_estimator_is_that_of_the_integral():
    """In α and in the components: with the normal's quantiles as noise, up to quadrature error."""
    with jax.enable_x64(True):
        parameters, samples = toy_parameters(), 10_000
        quantiles = stats.norm.ppf((np.arange(samples) + 0.5) / samples)
        noise = jnp.broadcast_to(jnp.asarray(quantiles)[None, :, None, None], (3, samples, 1, 1))
        value, grads = jax.jit(jax.value_and_grad(stratified_bound))(parameters, noise)
        exact, expected = jax.jit(jax.value_and_grad(bound_on_a_grid))(parameters, jnp.linspace(-14, 14, 4_001))
        np.testing.assert_allclose(value, exact, atol=2e-4)
        for name, grad in expected.items():
            np.testing.assert_allclose(grads[name], grad, atol=5e-4, err_msg=name)
            assert np.abs(grad).min() > 0.01  # a missing term would show


def test_the_stratified_estimator_is_unbiased_with_one_draw_each():
    """Value and gradient of single draws, on average, within five standard errors."""
    with jax.enable_x64(True):
        parameters, repeats = toy_parameters(), 20_000
        noise = jax.random.normal(jax.random.key(0), (repeats, 3, 1, 1, 1), jnp.float64)
        draws = jax.jit(jax.vmap(jax.value_and_grad(stratified_bound), in_axes=(None, 0)))(parameters, noise)
        exact = jax.jit(jax.value_and_grad(bound_on_a_grid))(parameters, jnp.linspace(-14, 14, 4_001))
    for draw, expected in zip(jax.tree.leaves(draws), jax.tree.leaves(exact), strict=True):
        draw, expected = np.asarray(draw), np.asarray(expected)
        error = np.std(draw, axis=0) / np.sqrt(repeats)
        assert (np.abs(np.mean(draw, axis=0) - expected) < 5 * error).all()


def test_the_mixtures_bound_is_at_least_the_average_components():
    with jax.enable_x64(True):
        parameters = toy_parameters()
        grid = jnp.linspace(-14, 14, 4_001)
        alpha = jnp.exp(stick_breaking(parameters["logits"]))[0]
        nothing = jnp.zeros((1, 0))
        single = [
            bound_on_a_grid(
                {"means": parameters["means"][m : m + 1], "log_stds": parameters["log_stds"][m : m + 1]}
                | {"logits": nothing},
                grid,
            )
            for m in range(3)
        ]
        assert bound_on_a_grid(parameters, grid) > sum(a * s for a, s in zip(alpha, single, strict=True)) + 0.01
