"""The marginal posterior of a GPVAE against integration, closed forms and its samples, at ordinary and extreme A, B."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from gpvae_jax.gp.posterior import VARIANCE_FLOOR, GaussianScaleMixture
from gpvae_jax.posteriors import DiagonalGaussian

EXTREMES = [1e-12, 1e-6, 1e-3, 1.0, 1e3]
DRAWS = 10_000
SIGMAS = 5.0  # Monte-Carlo tolerance in standard errors

# σ's mean in units of its standard deviation, from far above zero to crossing it
CROSSINGS = [8.0, 3.0, 1.5, 0.7, 0.0, -0.7]

# compiled once per shape, for op by op costs more
sample_and_log_prob = jax.jit(lambda q, key, n: q.sample_and_log_prob(key, n), static_argnums=2)
draw = jax.jit(lambda q, key, n: q.draw(key, n), static_argnums=2)
log_prob = jax.jit(lambda q, z: q.log_prob(z))
expected_kl = jax.jit(lambda q: q.expected_kl())


def mixture(a, std_variance, mean_variance=1e-3, mean=0.3, dtype=jnp.float32) -> GaussianScaleMixture:
    """Examples b as numpy arrays of one length, one latent each."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in (a, std_variance, mean_variance, mean)))
    fields = (np.broadcast_to(value, shape)[:, None] for value in (mean, mean_variance, a, std_variance))
    return GaussianScaleMixture(*(jnp.asarray(field, dtype) for field in fields))


def extreme_mixture() -> GaussianScaleMixture:
    grid = np.array(list(itertools.product(EXTREMES, EXTREMES, [0.0, -1e-4, 0.05, 10.0])))
    return mixture(grid[:, 2], grid[:, 1], grid[:, 0])


def log_density(z: float, a: float, std_variance: float, mean_variance: float) -> float:
    """log ∫ N(t; 0, 1) N(z; 0, A + max((a + √B t)², floor)) dt by adaptive integration."""

    def integrand(t: float) -> float:
        variance = mean_variance + max((a + math.sqrt(std_variance) * t) ** 2, VARIANCE_FLOOR)
        return stats.norm.pdf(t) * math.exp(-0.5 * z * z / variance) / math.sqrt(2 * math.pi * variance)

    return math.log(over_scale(integrand, a, std_variance))


def over_scale(integrand, a: float, std_variance: float) -> float:
    """∫ integrand(t) dt, told where σ = a + √B t is on the floor and how finely to look there."""
    crossing = -a / math.sqrt(std_variance)
    near = [crossing + side * 10.0**e for side in (-1, 1) for e in range(-5, 2)]
    kinks = [crossing + side * math.sqrt(VARIANCE_FLOOR / std_variance) for side in (-1, 1)]
    edges = np.clip(sorted([-9.0, *near, *kinks, crossing, 9.0]), -9.0, 9.0)
    return sum(integrate.quad(integrand, low, high)[0] for low, high in itertools.pairwise(edges) if high > low)


def test_without_variances_it_is_the_diagonal_gaussian():
    rng = np.random.default_rng(0)
    mean, log_std = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
    plain = DiagonalGaussian(mean, log_std)
    q = GaussianScaleMixture(mean, jnp.zeros_like(mean), plain.std, jnp.zeros_like(mean))
    key = jax.random.key(0)
    (z, log_q), (z_plain, log_q_plain) = (sample_and_log_prob(p, key, 50) for p in (q, plain))
    np.testing.assert_allclose(z, z_plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_q, log_q_plain, rtol=1e-5, atol=2e-4)
    np.testing.assert_allclose(expected_kl(q), plain.kl_to_standard_normal(), rtol=1e-5)
    np.testing.assert_allclose(
        jax.jit(lambda q: q.marginal_kl(*q.draw(key, 5)))(q), plain.kl_to_standard_normal(), rtol=1e-4
    )
    np.testing.assert_allclose(q.variance, plain.variance, rtol=1e-6)


@pytest.mark.parametrize("std_variance", [1e-4, 1e-2, 1.0])
def test_expected_log_variance(std_variance):
    a = np.array(CROSSINGS) * math.sqrt(std_variance)
    q = mixture(a, std_variance, 0.0, 0.0)
    # E log σ² is what expected_kl has beside the moments
    got = np.asarray(q.variance[:, 0] - 1 - 2 * expected_kl(q), np.float64)
    expected = [
        over_scale(
            lambda t, a=a: stats.norm.pdf(t) * math.log(max((a + math.sqrt(std_variance) * t) ** 2, VARIANCE_FLOOR)),
            a,
            std_variance,
        )
        for a in a
    ]
    np.testing.assert_allclose(got, expected, atol=5e-3)
    sigma = a + math.sqrt(std_variance) * np.random.default_rng(0).standard_normal((DRAWS, 1))
    samples = np.log(np.maximum(np.square(sigma), VARIANCE_FLOOR))
    error = samples.std(axis=0) / math.sqrt(DRAWS)
    assert (np.abs(samples.mean(axis=0) - got) <= SIGMAS * error + 5e-3).all()


def test_gradient_of_expected_log_variance_through_the_zero_crossing():
    """d/da E log σ² = 2√2 D(a/√(2B)) / √B, D Dawson's integral: a principal value, which naive nodes miss wholly."""
    std_variance = 1.0  # the floor is then far below what matters
    a = np.array([*CROSSINGS, *np.random.default_rng(0).uniform(-4, 4, 30)])
    q = mixture(a, std_variance, 0.0, 0.0)

    def total(std_mean):
        q_at = GaussianScaleMixture(q.mean, q.mean_variance, std_mean, q.std_variance)
        return jnp.sum(jnp.sum(q_at.variance, axis=-1) - 2 * q_at.expected_kl())

    got = jax.jit(jax.grad(total))(q.std_mean)[:, 0]
    np.testing.assert_allclose(got, 2 * math.sqrt(2) * special.dawsn(a / math.sqrt(2)), atol=5e-3)


@pytest.mark.parametrize("mean_variance", [0.0, 1e-4])
def test_density_against_adaptive_integration(mean_variance):
    """At points drawn from q itself: the worst error, and its mean, by which a reported bound would be too high."""
    rng = np.random.default_rng(1)
    for ratio in CROSSINGS:
        a, points = 0.1 * ratio, 25
        sigma = np.maximum(np.abs(a + 0.1 * rng.standard_normal(points)), math.sqrt(VARIANCE_FLOOR))
        z = np.sqrt(mean_variance + np.square(sigma)) * rng.standard_normal(points)
        q = mixture(np.full(1, a), 0.01, mean_variance, 0.0)
        got = log_prob(q, jnp.asarray(z, jnp.float32)[:, None, None])[:, 0]
        error = np.asarray(got) - [log_density(value, a, 0.01, mean_variance) for value in z]
        assert np.abs(error).max() < 0.05
        assert abs(error.mean()) < 5e-3


def test_density_integrates_to_one_at_extremes():
    q = extreme_mixture()
    # a grid that is fine at every scale from the floor's 1e-3 to √1e3
    u = np.linspace(-math.asinh(3e6), math.asinh(3e6), 8001)
    offset = (1e-4 * np.sinh(u)).astype(np.float32)
    log_q = log_prob(q, q.mean[None] + offset[:, None, None])
    assert not np.isnan(log_q).any()
    steps = 1e-4 * np.cosh(u) * (u[1] - u[0])
    total = (np.exp(np.asarray(log_q, np.float64)) * steps[:, None]).sum(axis=0)
    np.testing.assert_allclose(total, 1.0, atol=2e-3)


def test_samples_and_density_are_one_distribution_at_extremes():
    """Importance weights N/q average 1, N a Gaussian of q's own scale, and the samples' ranks under q are uniform."""
    q = extreme_mixture()
    z, log_q = sample_and_log_prob(q, jax.random.key(1), DRAWS)
    z, log_q = np.asarray(z[:, :, 0], np.float64), np.asarray(log_q, np.float64)
    assert np.isfinite(z).all()
    assert np.isfinite(log_q).all()
    center, a, b, extra = (
        np.asarray(f[:, 0], np.float64) for f in (q.mean, q.std_mean, q.std_variance, q.mean_variance)
    )
    scale = np.sqrt(extra + np.maximum(np.maximum(np.square(a), b), VARIANCE_FLOOR))
    weight = np.exp(stats.norm.logpdf(z, center, 0.7 * scale) - log_q)
    error = weight.std(axis=0) / math.sqrt(DRAWS)
    assert (np.abs(weight.mean(axis=0) - 1) <= SIGMAS * error + 2e-3).all()
    t = np.linspace(-8, 8, 4001)  # the exact distribution function of q, by brute force over σ
    weights = stats.norm.pdf(t) / stats.norm.pdf(t).sum()
    for i in range(0, len(a), 7):
        std = np.sqrt(extra[i] + np.maximum(np.square(a[i] + math.sqrt(b[i]) * t), VARIANCE_FLOOR))
        ranks = special.ndtr((z[:1000, i, None] - center[i]) / std) @ weights
        assert stats.kstest(ranks, "uniform").pvalue > 1e-4


def test_a_gpu_sums_over_the_same_nodes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    q = extreme_mixture()
    z = draw(q, jax.random.key(0), 5)[0]
    one_by_one = log_prob(q, z)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    np.testing.assert_allclose(jax.jit(lambda q, z: q.log_prob(z))(q, z), one_by_one, rtol=1e-5, atol=1e-5)


def test_moments_agree_with_samples():
    q = mixture(np.array([0.5, 0.1, 0.0]), np.array([0.01, 0.04, 1.0]), np.array([0.2, 1e-3, 0.5]))
    z, variance = draw(q, jax.random.key(2), DRAWS)
    z = np.asarray(z, np.float64)
    squared = np.square(z - np.asarray(q.mean))
    assert (np.abs(z.mean(axis=0) - q.mean) <= SIGMAS * z.std(axis=0) / math.sqrt(DRAWS)).all()
    for samples in (squared, np.asarray(variance, np.float64)):
        error = samples.std(axis=0) / math.sqrt(DRAWS)
        assert (np.abs(samples.mean(axis=0) - q.variance) <= SIGMAS * error).all()
    matched = q.moment_matched()
    np.testing.assert_allclose(matched.mean, q.mean)
    np.testing.assert_allclose(matched.variance, q.variance, rtol=1e-5)


def test_marginal_kl_is_unbiased_and_below_the_expected_kl():
    q = mixture(np.array([0.5, 0.2, 0.05]), np.array([0.02, 0.04, 0.04]), np.array([0.1, 0.01, 0.02]))
    keys = jax.random.split(jax.random.key(3), 500)
    estimates = np.asarray(jax.jit(jax.vmap(lambda key: q.marginal_kl(*q.draw(key, 20))))(keys), np.float64)
    z, log_q = sample_and_log_prob(q, jax.random.key(4), DRAWS)
    plain = np.asarray(log_q, np.float64) - stats.norm.logpdf(z).sum(axis=-1)
    error = np.hypot(estimates.std(axis=0) / math.sqrt(len(keys)), plain.std(axis=0) / math.sqrt(DRAWS))
    assert (np.abs(estimates.mean(axis=0) - plain.mean(axis=0)) <= SIGMAS * error + 1e-3).all()
    assert (estimates.mean(axis=0) < expected_kl(q) - 0.01).all()
    # the estimate from the same number of draws is the less noisy one
    assert (estimates.std(axis=0) * math.sqrt(20) < plain.std(axis=0)).all()


def test_gradients_are_finite_everywhere():
    """Also where a variance is exactly zero and where σ crosses zero."""
    grid = np.array(list(itertools.product([0.0, *EXTREMES], [0.0, *EXTREMES], [0.0, 1e-4, -0.05, 10.0])))
    q = mixture(grid[:, 2], grid[:, 1], grid[:, 0])

    def total(q, key):
        z, variance = q.draw(key, 20)
        kl = jnp.sum(q.expected_kl()) + jnp.sum(q.marginal_kl(z, variance))
        return kl + jnp.sum(q.log_prob(z)) + jnp.sum(jnp.sin(z))

    grads = jax.jit(jax.grad(total))(q, jax.random.key(5))
    for name in ("mean", "mean_variance", "std_mean", "std_variance"):
        assert np.isfinite(getattr(grads, name)).all(), name


def test_is_a_pytree_for_vmap_and_jit():
    q = mixture(np.array([0.5, 0.2]), 0.01)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), q)
    both = jax.jit(jax.vmap(lambda q: q.sample_and_log_prob(jax.random.key(0), 3)))(stacked)
    assert both[0].shape == (2, 3, 2, 1)
    single = sample_and_log_prob(q, jax.random.key(0), 3)
    np.testing.assert_allclose(both[0][0], single[0], rtol=1e-5)
    np.testing.assert_allclose(both[1][0], single[1], rtol=1e-4, atol=1e-5)
