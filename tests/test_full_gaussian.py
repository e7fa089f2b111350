"""The full-covariance Gaussian against scipy and numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from gpvae_jax.gaussians.full import FullGaussian, from_diagonal, from_precision
from gpvae_jax.posteriors import DiagonalGaussian

BATCH, SIZE = 3, 4


def random_covariances(seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((BATCH, SIZE, SIZE + 2))
    return factor @ factor.swapaxes(-1, -2) / SIZE


def test_density_moments_and_divergence():
    covariance, rng = random_covariances(0), np.random.default_rng(1)
    mean, z = rng.standard_normal((BATCH, SIZE)), rng.standard_normal((5, BATCH, SIZE))
    with jax.enable_x64(True):
        q = FullGaussian(jnp.asarray(mean), jnp.asarray(np.linalg.cholesky(covariance)))
        log_prob = np.stack(
            [
                stats.multivariate_normal(m, c).logpdf(z[:, b])
                for b, (m, c) in enumerate(zip(mean, covariance, strict=True))
            ],
            axis=1,
        )
        np.testing.assert_allclose(q.log_prob(jnp.asarray(z)), log_prob, rtol=1e-10)
        np.testing.assert_allclose(q.covariance, covariance, rtol=1e-12)
        np.testing.assert_allclose(q.variance, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-12)
        trace = np.trace(covariance, axis1=1, axis2=2)
        kl = 0.5 * (trace + (mean**2).sum(-1) - SIZE - np.linalg.slogdet(covariance)[1])
        np.testing.assert_allclose(q.kl_to_standard_normal(), kl, rtol=1e-10)


def test_samples_have_the_covariance_and_know_their_density():
    covariance = random_covariances(2)
    q = FullGaussian(jnp.zeros((BATCH, SIZE)), jnp.asarray(np.linalg.cholesky(covariance), jnp.float32))
    z, log_q = q.sample_and_log_prob(jax.random.key(0), 40_000)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    z = np.asarray(z, np.float64)
    products = z[..., :, None] * z[..., None, :]
    assert (np.abs(products.mean(0) - covariance) < 5 * products.std(0) / 200).all()


def test_from_precision_is_the_inverse():
    covariance = random_covariances(3)
    with jax.enable_x64(True):
        q = from_precision(jnp.zeros((BATCH, SIZE)), jnp.asarray(np.linalg.inv(covariance)))
        np.testing.assert_allclose(q.covariance, covariance, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(q.cholesky, np.linalg.cholesky(covariance), rtol=1e-9, atol=1e-12)


def test_from_precision_survives_float32_and_any_units():
    """Rank-one precisions of condition number 1e9 and latents whose units differ by 1e6: finite, and accurate where
    float32 holds the answer at all."""
    direction = np.random.default_rng(4).standard_normal((BATCH, SIZE))
    spike = np.eye(SIZE) + 1e9 * direction[:, :, None] * direction[:, None, :]
    q = from_precision(jnp.zeros((BATCH, SIZE)), jnp.asarray(spike, jnp.float32))
    assert np.isfinite(q.cholesky).all()
    units = np.array([1e-3, 1.0, 1e3, 10.0])
    covariance = random_covariances(5)
    precision = np.linalg.inv(covariance) * units[:, None] * units
    q = from_precision(jnp.zeros((BATCH, SIZE)), jnp.asarray(precision, jnp.float32))
    np.testing.assert_allclose(np.asarray(q.variance) * units**2, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-3)


def test_from_diagonal_is_the_same_distribution():
    rng = np.random.default_rng(6)
    diagonal = DiagonalGaussian(*jnp.asarray(rng.standard_normal((2, BATCH, SIZE)), jnp.float32))
    full = from_diagonal(diagonal)
    key, z = jax.random.key(0), jnp.asarray(rng.standard_normal((5, BATCH, SIZE)), jnp.float32)
    np.testing.assert_allclose(full.log_prob(z), diagonal.log_prob(z), rtol=1e-5)
    np.testing.assert_allclose(full.kl_to_standard_normal(), diagonal.kl_to_standard_normal(), rtol=1e-5)
    for one, other in zip(full.sample_and_log_prob(key, 3), diagonal.sample_and_log_prob(key, 3), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
