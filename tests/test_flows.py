"""The flows' maps, one at a time: log-determinants, the autoregressive order, the context's way, inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.flows.made import made
from gpvae_jax.flows.posteriors import HouseholderPosterior, IAFPosterior, iaf_step, invert_iaf_step, reflect, stacked
from gpvae_jax.posteriors import DiagonalGaussian
from tests.cases import perturb

BATCH, SIZE, CONTEXT, STEPS = 2, 4, 3, 3
NETWORKS = {layers: made(SIZE, CONTEXT, 9, layers) for layers in (1, 2)}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def base() -> DiagonalGaussian:
    return DiagonalGaussian(random(0, BATCH, SIZE), 0.3 * random(1, BATCH, SIZE))


def flow(context: jax.Array, steps: int = STEPS, layers: int = 2) -> IAFPosterior:
    network = NETWORKS[layers]
    params = perturb(stacked(network.init, jax.random.key(0), steps), 0, 0.5)
    shifts = jax.vmap(network.shifts, in_axes=(0, None), out_axes=1)(params, context)
    return IAFPosterior(base(), shifts, params, network.apply, 1.0)


def layer(q: IAFPosterior, t: int) -> tuple:
    return q.network, jax.tree.map(lambda leaf: leaf[t], q.params), q.shifts[:, t]


def jacobians(function, z: jax.Array) -> np.ndarray:
    """∂function(z)_b/∂z_b [B, Z, Z] at z[B, Z], for a function of z[S, B, Z]."""
    full = jax.jit(jax.jacobian(lambda z: function(z[None])[0]))(z)  # [B, Z, B, Z]
    assert np.abs(full[0, :, 1]).max() == 0, "examples must not mix"
    return np.stack([full[b, :, b] for b in range(BATCH)])


@pytest.mark.parametrize("steps", [0, 1, 2, STEPS])
def test_iaf_log_determinant(steps):
    q, z = flow(random(2, BATCH, CONTEXT), steps), random(3, BATCH, SIZE)
    sign, log_det = np.linalg.slogdet(jacobians(lambda z: q.forward(z)[0], z))
    np.testing.assert_array_equal(sign, 1)
    np.testing.assert_allclose(q.forward(z[None])[1][0], log_det, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("layers", [1, 2])
def test_each_step_is_autoregressive_and_nothing_less(layers):
    """Output j depends on every latent up to j and on none after; the diagonal is the gate."""
    q, z = flow(random(2, BATCH, CONTEXT), layers=layers), random(3, BATCH, SIZE)
    for t in range(STEPS):
        jacobian = jacobians(lambda z, t=t: iaf_step(*layer(q, t), z, 1.0)[0], z)
        assert np.abs(np.triu(jacobian, 1)).max() == 0
        assert (np.abs(jacobian[:, *np.tril_indices(SIZE)]) > 1e-6).all()
        diagonal = np.diagonal(jacobian, axis1=1, axis2=2)
        np.testing.assert_allclose(iaf_step(*layer(q, t), z[None], 1.0)[1][0], np.log(diagonal).sum(-1), rtol=1e-9)


def test_the_order_is_reversed_between_steps():
    """Of two steps the first is lower triangular and the second upper, so together they are neither."""
    context, z = random(2, BATCH, CONTEXT), random(3, BATCH, SIZE)
    flows = [flow(context, steps) for steps in (1, 2)]
    one, two = (jacobians(lambda z, q=q: q.forward(z)[0], z) for q in flows)
    assert np.abs(np.triu(one, 1)).max() == 0
    np.testing.assert_array_less(1e-8, np.abs(two))
    second = two @ np.linalg.inv(jacobians(lambda z: iaf_step(*layer(flows[1], 0), z, 1.0)[0], z))
    assert np.abs(np.tril(second, -1)).max() < 1e-12


def test_the_context_reaches_every_latent_of_every_step():
    """∂output_j/∂context is not zero for any step and latent, the first of the order included, nor the shifts' use."""
    context, z = random(2, BATCH, CONTEXT), random(3, 1, BATCH, SIZE)
    for t in range(STEPS):
        slope = jax.jit(jax.jacobian(lambda c, t=t: iaf_step(*layer(flow(c), t), z, 1.0)[0][0]))(
            context
        )  # [B, Z, B, C]
        for b in range(BATCH):
            assert (np.abs(slope[b, :, b]) > 1e-8).all(), (t, b)
        changed = iaf_step(*layer(flow(context + 1.0), t), z, 1.0)[0] - iaf_step(*layer(flow(context), t), z, 1.0)[0]
        assert (np.abs(changed) > 1e-6).all(), t


def test_a_new_flow_keeps_most_of_z():
    """g is near sigmoid(b) and m near 0 before training."""
    network = made(SIZE, CONTEXT, 32, 1)
    params, z = network.init(jax.random.key(1)), random(3, 1, BATCH, SIZE)
    shift = network.shifts(params, jnp.zeros((BATCH, CONTEXT)))
    kept = iaf_step(network.apply, params, shift, z, 2.0)[0]
    np.testing.assert_allclose(kept, jax.nn.sigmoid(2.0) * z, atol=0.1)


def test_iaf_inversion():
    q, z = flow(random(2, BATCH, CONTEXT)), random(4, 5, BATCH, SIZE)
    there, log_det = iaf_step(*layer(q, 0), z, 1.0)
    back, same = invert_iaf_step(*layer(q, 0), there, 1.0)
    np.testing.assert_allclose(back, z, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(same, log_det, rtol=1e-9)
    drawn, log_q = q.sample_and_log_prob(jax.random.key(0), 6)
    np.testing.assert_allclose(q.log_prob(drawn), log_q, rtol=1e-8)


def test_density_where_no_sample_falls():
    """Closing gates divide by next to nothing on the way back: the density is then tiny, not NaN."""
    q = flow(random(2, BATCH, CONTEXT))
    closing = q.shifts.at[:, :, -SIZE:].add(-200.0)
    steep = IAFPosterior(q.base, closing, q.params, q.network, q.gate_bias)
    for z in (random(8, 50, BATCH, SIZE), 1e5 * random(8, 50, BATCH, SIZE)):
        for dtype in (jnp.float64, jnp.float32):
            cast = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), (steep, z))
            log_q = cast[0].log_prob(cast[1])
            assert not np.isnan(log_q).any()
            assert (log_q < -1e3).all()


def test_iaf_posterior_is_a_pytree_that_vmaps():
    stack = jax.vmap(flow)(random(5, 3, BATCH, CONTEXT))
    draw = jax.jit(jax.vmap(lambda q: q.sample_and_log_prob(jax.random.key(0), 2)))
    z, _ = draw(stack)
    single, _ = jax.tree.map(lambda leaf: leaf[1], stack).sample_and_log_prob(jax.random.key(0), 2)
    np.testing.assert_allclose(z[1], single, rtol=1e-9)
    draw(stack)
    assert draw._cache_size() == 1


def test_householder_reflections():
    """Orthogonal, determinant (−1)^T, and each vector turned into its opposite."""
    vectors, z = random(6, BATCH, STEPS, SIZE), random(7, BATCH, SIZE)
    jacobian = jacobians(lambda z: reflect(vectors, z), z)
    np.testing.assert_allclose(
        jacobian @ jacobian.swapaxes(1, 2), np.broadcast_to(np.eye(SIZE), (BATCH, SIZE, SIZE)), atol=1e-12
    )
    sign, log_det = np.linalg.slogdet(jacobian)
    np.testing.assert_allclose(log_det, 0, atol=1e-12)
    np.testing.assert_array_equal(sign, (-1) ** STEPS)
    np.testing.assert_allclose(reflect(vectors[:, :1], vectors[None, :, 0])[0], -vectors[:, 0], rtol=1e-12)
    np.testing.assert_allclose(reflect(0 * vectors, z[None])[0], z)


def test_householder_posterior_is_the_rotated_gaussian():
    """Density, mean, variance and KL against the dense covariance U diag(σ²) Uᵀ."""
    from scipy import stats

    q = HouseholderPosterior(base(), random(6, BATCH, STEPS, SIZE))
    rotation = jacobians(lambda z: reflect(q.vectors, z), q.base.mean)
    covariance = rotation @ (np.asarray(q.base.variance)[:, :, None] * rotation.swapaxes(1, 2))
    mean = np.einsum("bij,bj->bi", rotation, q.base.mean)
    z, log_q = q.sample_and_log_prob(jax.random.key(0), 6)
    dense = np.stack([stats.multivariate_normal(mean[b], covariance[b]).logpdf(z[:, b]) for b in range(BATCH)], axis=1)
    np.testing.assert_allclose(log_q, dense, rtol=1e-9)
    np.testing.assert_allclose(q.log_prob(z), dense, rtol=1e-9)
    np.testing.assert_allclose(q.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(q.variance, np.diagonal(covariance, axis1=1, axis2=2), rtol=1e-9)
    kl = 0.5 * (np.trace(covariance, axis1=1, axis2=2) + (mean**2).sum(-1) - SIZE - np.linalg.slogdet(covariance)[1])
    np.testing.assert_allclose(q.kl_to_standard_normal(), kl, rtol=1e-9)


def test_bad_sizes_are_told():
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        made(SIZE, CONTEXT, 8, 0)
