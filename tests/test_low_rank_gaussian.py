"""The low-rank Gaussian against dense algebra in float64, and where float32 has its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.gaussians.family import place
from gpvae_jax.gaussians.full import FullGaussian
from gpvae_jax.gaussians.low_rank import _factorised, _in_one, _in_two, _lower, from_factors

BATCH, SIZE = 3, 5
KEY = jax.random.key(0)


def parts(rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, diagonal and factor."""
    rng = np.random.default_rng(rank)
    mean, log_diagonal = rng.standard_normal((2, BATCH, SIZE))
    return mean, np.exp(log_diagonal), rng.standard_normal((BATCH, SIZE, rank))


def dense(diagonal: np.ndarray, factor: np.ndarray) -> np.ndarray:
    return np.stack([np.diag(d) for d in diagonal]) + factor @ factor.swapaxes(1, 2)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_density_moments_and_divergence(rank):
    mean, diagonal, factor = parts(rank)
    covariance = dense(diagonal, factor)
    z = np.random.default_rng(9).standard_normal((4, BATCH, SIZE))
    with jax.enable_x64(True):
        q = from_factors(*map(jnp.asarray, (mean, diagonal, factor)))
        full = FullGaussian(q.mean, jnp.linalg.cholesky(jnp.asarray(covariance)))
        for b in range(BATCH):
            expected = stats.multivariate_normal(mean[b], covariance[b]).logpdf(z[:, b])
            np.testing.assert_allclose(q.log_prob(jnp.asarray(z))[:, b], expected, rtol=1e-10)
        np.testing.assert_allclose(q.covariance, covariance, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(q.variance, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-12)
        np.testing.assert_allclose(q.log_det, full.log_det, rtol=1e-10)
        np.testing.assert_allclose(q.kl_to_standard_normal(), full.kl_to_standard_normal(), rtol=1e-10)


def test_samples_have_the_covariance_and_know_their_density():
    mean, diagonal, factor = parts(2)
    q = from_factors(*(jnp.asarray(a, jnp.float32) for a in (mean, diagonal, factor)))
    z, log_q = q.sample_and_log_prob(KEY, 40_000)
    np.testing.assert_allclose(q.log_prob(z), log_q, rtol=1e-4, atol=1e-4)
    away = np.asarray(z, np.float64) - mean
    products = away[..., :, None] * away[..., None, :]
    assert (np.abs(products.mean(0) - dense(diagonal, factor)) < 5 * products.std(0) / 200).all()
    assert (np.abs(away.mean(0)) < 5 * away.std(0) / 200).all()


def test_no_direction_is_a_diagonal_gaussian_and_places_its_noise():
    mean, diagonal, _ = parts(1)
    q = from_factors(*(jnp.asarray(a, jnp.float32) for a in (mean, diagonal, np.zeros((BATCH, SIZE, 1)))))
    noise = jax.random.normal(KEY, (4, BATCH, SIZE))
    drawn = mean + np.sqrt(diagonal) * np.asarray(noise)
    np.testing.assert_allclose(place(q, noise), drawn, rtol=1e-5, atol=1e-5)
    expected = stats.norm(mean, np.sqrt(diagonal)).logpdf(np.asarray(drawn)).sum(-1)
    np.testing.assert_allclose(q.log_prob(jnp.asarray(drawn, jnp.float32)), expected, rtol=1e-4)


@pytest.mark.parametrize("apart", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("scale", [1.0, 10.0, 100.0, 1000.0])
def test_long_and_parallel_directions_cost_no_nats(scale, apart):
    """Two directions far longer than √v, and nearly or exactly one: density and divergence as float64 has them."""
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, BATCH, SIZE))
    factor = (scale * np.stack([first, first + apart * second], axis=-1)).astype(np.float32)
    arrays = np.zeros((BATCH, SIZE), np.float32), np.ones((BATCH, SIZE), np.float32), factor
    q = from_factors(*map(jnp.asarray, arrays))
    _, log_q = q.sample_and_log_prob(KEY, 8)
    with jax.enable_x64(True):
        exact = from_factors(*(jnp.asarray(a, jnp.float64) for a in arrays))
        noise = jax.random.normal(KEY, (8, BATCH, SIZE), jnp.float32).astype(jnp.float64)
        expected = exact.log_prob(exact.place(noise))
        kl = exact.kl_to_standard_normal()
        at = exact.place(noise).astype(jnp.float32)
        expected_at = exact.log_prob(at.astype(jnp.float64))
    np.testing.assert_allclose(log_q, expected, atol=2e-3)
    np.testing.assert_allclose(q.log_prob(at), expected_at, atol=2e-3)
    np.testing.assert_allclose(q.kl_to_standard_normal(), kl, rtol=1e-5, atol=2e-3)


def test_one_factorisation_and_two_give_the_same_to_rounding():
    """Where any of the batch is long, all are factorised in two."""
    rng = np.random.default_rng(3)
    whitened = jnp.asarray(rng.standard_normal((BATCH, 2, SIZE)), jnp.float32)
    one, two = (jax.jit(f)(whitened) for f in (_in_one, _in_two))
    np.testing.assert_allclose(one, two, atol=2e-6)
    np.testing.assert_allclose(_factorised(whitened), one, atol=1e-7)
    longer = whitened.at[0].multiply(1e3)
    np.testing.assert_allclose(_factorised(longer), _in_two(longer), atol=1e-7)
    assert np.abs(_in_one(longer) - _in_two(longer)).max() > 1e-5


def test_mapped_over_seeds_it_stays_one_branch():
    """Both would be computed if the condition were mapped over as well."""
    stack = jnp.asarray(np.random.default_rng(3).standard_normal((4, BATCH, 2, SIZE)), jnp.float32)
    slopes = jax.vmap(jax.grad(lambda w: jnp.sum(jnp.log(jnp.diagonal(_lower(w), axis1=1, axis2=2)))))
    assert "cond" in str(jax.make_jaxpr(slopes)(stack))
    rows = np.asarray(stack)
    expected = np.linalg.solve(np.eye(2) + rows @ rows.swapaxes(-1, -2), rows)
    np.testing.assert_allclose(slopes(stack), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scale", [1e6, 1e12])
def test_finite_where_float32_holds_nothing_of_the_difference(scale):
    direction = scale * np.random.default_rng(3).standard_normal((BATCH, SIZE, 1))
    arrays = np.zeros((BATCH, SIZE)), np.ones((BATCH, SIZE)), np.concatenate([direction, direction], axis=-1)
    parts = [jnp.asarray(a, jnp.float32) for a in arrays]
    q = from_factors(*parts)
    _, log_q = q.sample_and_log_prob(KEY, 8)

    def total(parts: list[jax.Array]) -> jax.Array:
        q = from_factors(*parts)
        return jnp.sum(q.sample_and_log_prob(KEY, 2)[1]) + jnp.sum(q.kl_to_standard_normal())

    slope = jax.grad(total)(parts)
    for leaf in (log_q, q.kl_to_standard_normal(), *jax.tree.leaves(slope)):
        assert np.isfinite(leaf).all()


def test_gradients_are_right_in_float64():
    with jax.enable_x64(True):
        arrays = [jnp.asarray(a) for a in parts(2)]
        z = jnp.asarray(np.random.default_rng(9).standard_normal((2, BATCH, SIZE)))

        def value(arrays: list[jax.Array]) -> jax.Array:
            q = from_factors(*arrays)
            return jnp.sum(q.log_prob(z)) + jnp.sum(q.kl_to_standard_normal())

        def of_dense(arrays: list[jax.Array]) -> jax.Array:
            q = from_factors(*arrays)
            full = FullGaussian(q.mean, jnp.linalg.cholesky(q.covariance))
            return jnp.sum(full.log_prob(z)) + jnp.sum(full.kl_to_standard_normal())

        for own, other in zip(jax.grad(value)(arrays), jax.grad(of_dense)(arrays), strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-8, atol=1e-10)


def test_draws_and_densities_factorise_nothing():
    """What is done when it is made is not done again for every chunk of samples."""
    q = from_factors(*(jnp.asarray(a, jnp.float32) for a in parts(2)))
    made = str(jax.make_jaxpr(from_factors)(q.mean, q.diagonal, q.factor))
    used = str(jax.make_jaxpr(lambda q: (q.log_prob(q.sample_and_log_prob(KEY, 3)[0]), q.kl_to_standard_normal()))(q))
    for name in ("cholesky", "triangular_solve"):
        assert name in made
        assert name not in used
