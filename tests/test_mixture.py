"""The end-to-end mixture and the estimators of its bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods.mixture import mixture
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.bounds import all_to_all, some_to_all
from gpvae_jax.mixtures.posterior import GaussianMixture
from tests.cases import LATENT_DIM, X, perturb, small_encoder, small_model

KEY, REPEATS, SIGMAS = jax.random.key(0), 3_000, 5.0
MODEL, ENCODER = small_model(), small_encoder()
M = 4


def start(method, seed=1):
    return perturb(jax.jit(method.init)(KEY, jnp.asarray(X)), seed, scale=0.3)


def gradient(method, params, key=KEY):
    run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    return run(params, key, jnp.asarray(X))


@pytest.fixture(scope="module")
def posterior():
    """A mixture with unequal weights, and θ."""
    rng = np.random.default_rng(0)
    means, log_stds = rng.normal(size=(2, M, len(X), LATENT_DIM))
    log_alpha = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(len(X), M)), jnp.float32))
    theta = perturb(MODEL.init(KEY, jnp.asarray(X)), 3, scale=0.5)
    return GaussianMixture(jnp.asarray(means, jnp.float32), jnp.asarray(0.3 * log_stds, jnp.float32), log_alpha), theta


def test_weights_start_uniform_and_uniform_has_no_parameters():
    for weights in ("uniform", "amortized", "constant"):
        method = mixture(MODEL, ENCODER, num_components=M, weights=weights)
        params = method.init(KEY, jnp.asarray(X))
        _, info = jax.jit(method.posterior)(params, KEY, jnp.asarray(X))
        np.testing.assert_allclose(info["alpha"], 1 / M, rtol=1e-6)
        assert (params.inference["weights"] == {}) == (weights == "uniform")


@pytest.mark.parametrize("estimator", ["all_to_all", "some_to_all"])
def test_one_component_is_the_vae(estimator):
    base = vae(MODEL, ENCODER, analytic_kl=False)
    method = mixture(MODEL, ENCODER, num_components=1, estimator=estimator, num_drawn=1)
    alone = start(base)
    params = alone._replace(inference={"components": jax.tree.map(lambda a: a[None], alone.inference), "weights": {}})
    # up to the draws: on average over keys
    keys = jax.random.split(KEY, REPEATS)
    mine, theirs = (
        np.asarray(jax.jit(jax.vmap(lambda k, m=m, p=p: m.loss(p, k, jnp.asarray(X))[0]))(keys))
        for m, p in ((method, params), (base, alone))
    )
    error = np.hypot(mine.std(), theirs.std()) / np.sqrt(REPEATS)
    assert abs(mine.mean() - theirs.mean()) < SIGMAS * error
    if estimator == "all_to_all":  # which uses the very same draws
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def test_the_bound_is_the_mean_of_log_weights_of_the_mixture(posterior):
    """Stratified against drawn by category: two estimators of one number."""
    q, theta = posterior
    x = jnp.asarray(X)

    def by_category(key):
        z, log_q = q.sample_and_log_prob(key, 1)
        return jnp.mean(MODEL.log_likelihood(theta, x, z) + MODEL.log_prior(theta, z) - log_q)

    def stratified(key):
        return all_to_all(MODEL, theta, q, q.strata(q.noise(key, 1)), x, 1.0)[0]

    keys = jax.random.split(KEY, REPEATS)
    one, other = (np.asarray(jax.jit(jax.vmap(f))(keys)) for f in (by_category, stratified))
    error = np.hypot(one.std(), other.std()) / np.sqrt(REPEATS)
    assert abs(one.mean() - other.mean()) < SIGMAS * error
    assert other.std() < one.std()


@pytest.mark.parametrize("num_drawn", [1, 2, 4])
def test_some_to_all_is_unbiased_in_value_and_gradient(posterior, num_drawn):
    q, theta = posterior
    x = jnp.asarray(X)
    some = partial(some_to_all, MODEL, num_drawn=num_drawn, num_samples=1)

    @jax.jit
    @jax.vmap
    def both(key):
        every = jax.value_and_grad(lambda q: all_to_all(MODEL, theta, q, q.strata(q.noise(key, 1)), x, 0.7)[0])(q)
        return every, jax.value_and_grad(lambda q: some(theta, q, key, x, 0.7)[0])(q)

    every, few = both(jax.random.split(KEY, REPEATS))
    for a, b in zip(jax.tree.leaves(every), jax.tree.leaves(few), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / REPEATS)
        assert (np.abs(a.mean(axis=0) - b.mean(axis=0)) <= SIGMAS * error + 1e-6).all()


def test_some_to_all_draws_without_replacement_and_calls_the_decoder_for_the_drawn_alone(posterior):
    q, theta = posterior
    rows = []

    def spy(theta, x, z):
        rows.append(z.shape)
        return MODEL.log_likelihood(theta, x, z)

    model = MODEL._replace(log_likelihood=spy)
    jax.jit(lambda q: some_to_all(model, theta, q, KEY, jnp.asarray(X), 1.0, num_drawn=2, num_samples=3))(q)
    assert rows == [(6, len(X), LATENT_DIM)]
    # with all drawn, each exactly once: components far apart and narrow leave their means as a fingerprint
    far = GaussianMixture(
        jnp.broadcast_to(10.0 * jnp.arange(M)[:, None, None].astype(jnp.float32), q.means.shape),
        jnp.full_like(q.log_stds, -4.0),
        q.log_alpha,
    )

    @jax.jit
    def decoded(q):
        seen = []
        model = MODEL._replace(log_prior=lambda theta, z: seen.append(z) or MODEL.log_prior(theta, z))
        some_to_all(model, theta, q, KEY, jnp.asarray(X), 1.0, num_drawn=M, num_samples=1)
        return seen[0]

    found = np.sort(np.round(np.asarray(decoded(far))[:, 0, :, 0] / 10), axis=0)
    np.testing.assert_array_equal(found, np.tile(np.arange(M)[:, None], (1, len(X))))


def test_the_learned_weights_learn(posterior):
    """Their gradient raises the bound: one small step up is a gain, on the same draws."""
    method = mixture(MODEL, ENCODER, num_components=M, weights="amortized", num_samples=50)
    params = start(method)
    run = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (loss, _), grads = run(params, KEY, jnp.asarray(X))
    step = jax.tree.map(lambda p, g: p - 0.02 * g, params.inference["weights"], grads.inference["weights"])
    moved = params._replace(inference=params.inference | {"weights": step})
    assert run(moved, KEY, jnp.asarray(X))[0][0] < loss


def test_loss_and_metrics_agree():
    method = mixture(MODEL, ENCODER, estimator="some_to_all", num_drawn=2)
    (loss, metrics), _ = gradient(method, start(method))
    np.testing.assert_allclose(loss, -metrics["elbo"], rtol=1e-6)
    np.testing.assert_allclose(metrics["elbo"], metrics["log_likelihood"] - metrics["kl"], rtol=1e-5)
    assert {"alpha_2", "smallest_std_2"} <= metrics.keys()


def test_shared_trunk_trains_one_trunk():
    method = mixture(MODEL, ENCODER, num_components=M, shared_trunk=True)
    params = start(method)
    _, grads = gradient(method, params)
    assert grads.inference["components"]["head"]["bias"].shape[0] == M
    assert np.any(grads.inference["components"]["encoder"]["hidden"]["layer_0"]["kernel"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_components": 0}, "num_components must be at least 1"),
        ({"weights": "learned"}, "Unknown weights 'learned'"),
        ({"estimator": "some_to_al"}, "did you mean 'some_to_all'"),
        ({"estimator": "some_to_all", "num_drawn": 4}, "between 1 and the number of components, 3, got 4"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        mixture(MODEL, ENCODER, **settings)
