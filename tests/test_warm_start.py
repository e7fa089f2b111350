"""A method that starts from trained parameters holds them, and starts near the trained bound."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.bounds import elbo, log_weights
from gpvae_jax.methods import METHODS, as_gaussian, gpvae, iaf, mixture, recmix, savi, vae
from gpvae_jax.types import InferenceMethod, Params
from gpvae_jax.warm_start import warm_start
from tests.cases import CASES, X, assert_close, compiled, paths, perturb, small_encoder, small_model

KEY = jax.random.key(3)
MODEL, ENCODER = small_model(), small_encoder()
VAE = compiled(vae(MODEL, ENCODER))
TRAINED = perturb(VAE.init(KEY, X), 1)


def started(method: InferenceMethod, trained: Params = TRAINED) -> Params:
    return warm_start(method.init(jax.random.key(4), X), trained, jax.random.key(5))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_starts_from_a_vae(name):
    method = CASES[name]().method
    fresh = method.init(jax.random.key(4), X)
    warm = started(method)
    assert jax.tree.map(jnp.shape, warm) == jax.tree.map(jnp.shape, fresh)
    assert_close(warm.model, TRAINED.model, 0.0)
    kept = [leaf for path, leaf in paths(warm.inference).items() if path.endswith("head/kernel")]
    wanted = np.asarray(TRAINED.inference["head"]["kernel"])
    assert any(np.array_equal(leaf if leaf.ndim == 2 else leaf[0], wanted) for leaf in kept)


@pytest.mark.parametrize(
    "method",
    [
        gpvae(MODEL, ENCODER, num_data=50, start_variance=1e-12),
        savi(MODEL, ENCODER, steps=0),
        iaf(MODEL, ENCODER, steps=0),
        recmix(MODEL, ENCODER, num_components=1),
    ],
    ids=["gpvae", "savi", "iaf", "recmix"],
)
def test_what_is_the_vae_at_first_has_its_bound(method):
    @partial(jax.jit, static_argnums=0)
    def bound(method: InferenceMethod, params: Params) -> jax.Array:
        q, _ = method.posterior(params, KEY, X)
        return elbo(log_weights(MODEL, params.model, q, jax.random.key(0), jnp.asarray(X), 20_000))

    # the draws differ between posteriors, so only as closely as 20,000 of them tell: a spread of some 2 nats
    np.testing.assert_allclose(bound(method, started(method)), bound(VAE, TRAINED), atol=5 * 2 / 20_000**0.5)


@pytest.mark.parametrize("shared_trunk", [False, True])
def test_components_start_near_the_trained_encoder_and_apart(shared_trunk):
    method = compiled(mixture(MODEL, ENCODER, num_components=3, shared_trunk=shared_trunk))
    q, _ = method.posterior(started(method), KEY, X)
    single, _ = VAE.posterior(TRAINED, KEY, X)
    np.testing.assert_allclose(q.components.mean[0], single.mean, rtol=1e-5, atol=1e-6)
    apart = np.abs(np.asarray(q.components.mean[1:]) - np.asarray(single.mean))
    assert np.all(apart.max(axis=(1, 2)) > 1e-4)
    assert apart.max() < np.abs(np.asarray(single.mean)).max() + 1


def test_a_trunk_is_shared_within_a_base_as_well():
    base = gpvae(MODEL, ENCODER, num_data=50)
    trained = perturb(base.init(KEY, X), 2)
    over, settings = as_gaussian(base), {"shared_trunk": True}
    two, three = (compiled(mixture(MODEL, ENCODER, base=over, num_components=m, **settings)) for m in (2, 3))
    single, _ = as_gaussian(base).posterior(trained, KEY, X)
    first = started(two, trained)
    for params in (first, warm_start(three.init(KEY, X), first, KEY)):
        q, _ = three.posterior(params, KEY, X)
        np.testing.assert_allclose(q.components.mean[0], single.mean, rtol=1e-5, atol=1e-6)
        assert np.abs(np.asarray(q.components.mean[1:]) - np.asarray(single.mean)).max() > 1e-4
    trunk = first.inference["components"]["base"]["encoder"]
    assert_close(trunk, trained.inference["base"]["encoder"], 0.0)


def test_a_gpvae_starts_from_a_gpvae():
    method = gpvae(MODEL, ENCODER, num_data=50)
    trained = perturb(method.init(KEY, X), 2)
    assert_close(started(method, trained), trained, 0.0)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"same shapes, but θ\['decoder'\]"):
        warm_start(VAE.init(KEY, X), TRAINED._replace(model={}), KEY)
    wider = vae(MODEL, small_encoder()._replace(out_shape=(7,)))
    with pytest.raises(ValueError, match=r"same shapes, but φ\['head'\]"):
        warm_start(wider.init(KEY, X), TRAINED, KEY)
    with pytest.raises(ValueError, match=r"no parameters \['flow'\]"):
        warm_start(VAE.init(KEY, X), iaf(MODEL, ENCODER, width=4).init(KEY, X), KEY)


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("factory", [recmix, mixture])
def test_a_mixture_grows(factory, shared_trunk):
    def method(count):
        settings = {"weights": "amortized"} if factory is mixture else {}
        return compiled(factory(MODEL, ENCODER, num_components=count, shared_trunk=shared_trunk, **settings))

    trained = perturb(method(2).init(KEY, X), 6)
    grown = started(method(4), trained)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, method(4).init(KEY, X))
    before, _ = method(2).posterior(trained, KEY, X)
    after, _ = method(4).posterior(grown, KEY, X)
    np.testing.assert_allclose(after.means[:2], before.means, rtol=1e-5, atol=1e-6)
    # the old weights keep their proportions
    np.testing.assert_allclose(
        after.log_alpha[:, 1] - after.log_alpha[:, 0], before.log_alpha[:, 1] - before.log_alpha[:, 0], atol=1e-5
    )
    for m in (2, 3):
        apart = np.abs(after.means[m] - before.means[0]).max()
        assert 1e-4 < apart < np.abs(before.means[0]).max() + 1
    assert_close(started(method(2), trained), trained, 0.0)
    with pytest.raises(ValueError, match="same shapes"):
        started(method(1), trained)
