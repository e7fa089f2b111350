"""Stacked components: the base method itself in every slot, however they are computed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.components import HOWS, components, evaluate, perturbed
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.types import InferenceMethod
from tests.cases import X, assert_close, paths, small_encoder, small_model

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def base() -> InferenceMethod:
    return vae(small_model(), small_encoder())


def leaf(tree, m):
    return jax.tree.map(lambda a: a[m], tree)


def test_component_0_starts_as_the_base_and_the_others_differ(base):
    x = jnp.asarray(X)
    alone, params = jax.jit(base.init)(KEY, x), jax.jit(lambda k, x: components(base).init(k, x, 3))(KEY, x)
    assert_close(params.model, alone.model, 0.0)
    assert_close(leaf(params.inference, 0), alone.inference, 0.0)
    kernels = params.inference["encoder"]["hidden"]["layer_0"]["kernel"]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.abs(kernels[i] - kernels[j])) > 0.1 * np.std(kernels)


@pytest.mark.parametrize("shared_trunk", [False, True])
@pytest.mark.parametrize("how", HOWS)
def test_each_slot_is_the_base_on_its_own_parameters(base, how, shared_trunk):
    x, parts = jnp.asarray(X), components(base, shared_trunk=shared_trunk, how=how)
    params = parts.init(KEY, x, 3)
    assert parts.count(params.inference) == 3
    q = jax.jit(parts.posterior)(params.model, params.inference, KEY, x)
    for m in range(3):
        phi = params.inference
        own = leaf(phi, m) | ({"encoder": phi["encoder"]} if shared_trunk else {})
        single, _ = base.posterior(params._replace(inference=own), KEY, x)
        assert_close(leaf(q, m), single, 1e-6)


def test_a_shared_trunk_is_held_once(base):
    x = jnp.asarray(X)
    shared = paths(components(base, shared_trunk=True).init(KEY, x, 4).inference)
    own = paths(components(base).init(KEY, x, 4).inference)
    alone = paths(base.init(KEY, x).inference)
    for path, value in alone.items():
        assert own[path].shape == (4, *value.shape)
        assert shared[path].shape == (value.shape if path.startswith("encoder") else (4, *value.shape))


@pytest.mark.parametrize("how", ["vmap", "map", "unrolled"])
def test_evaluate_shares_what_has_no_axis(how):
    stacked, shared = jnp.arange(6.0).reshape(3, 2), jnp.asarray([1.0, 10.0])
    result = evaluate(lambda a, b: {"sum": jnp.sum(a * b)}, (stacked, shared), (0, None), how)
    np.testing.assert_allclose(result["sum"], np.asarray(stacked) @ np.asarray(shared))


@pytest.mark.parametrize(("backend", "loop"), [("cpu", True), ("gpu", False)])
def test_auto_loops_on_a_cpu_only(monkeypatch, backend, loop):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = jax.make_jaxpr(lambda kernels: evaluate(jnp.sum, (kernels,), (0,)))(jnp.zeros((2, 7, 3)))
    assert ("scan" in str(program)) == loop


def test_gradients_agree_however_computed(base):
    x = jnp.asarray(X)
    params = components(base).init(KEY, x, 3)

    @partial(jax.jit, static_argnums=1)
    @jax.grad
    def total(phi, how):
        q = components(base, how=how).posterior(params.model, phi, KEY, x)
        return jnp.sum(jnp.sin(q.mean) * jnp.arange(3.0)[:, None, None]) + jnp.sum(q.std)

    expected = total(params.inference, "vmap")
    for how in ("map", "unrolled"):
        assert_close(total(params.inference, how), expected, 1e-5)


def test_perturbed_is_relative_to_each_array():
    tree = {"wide": jnp.asarray(np.random.default_rng(0).normal(0, 100, 10_000), jnp.float32), "b": jnp.zeros(5)}
    noisy = perturbed(KEY, tree, 0.1)
    assert abs(np.std(noisy["wide"] - tree["wide"]) / 10 - 1) < 0.05
    np.testing.assert_array_equal(noisy["b"], 0.0)


def test_what_cannot_be_is_said_in_one_sentence(base):
    with pytest.raises(ValueError, match="did you mean 'unrolled'"):
        components(base, how="unroled")

    def headless(key, x):
        params = base.init(key, x)
        return params._replace(inference={"trunk": params.inference["encoder"]})

    with pytest.raises(ValueError, match="shared_trunk needs a base"):
        components(base._replace(init=headless), shared_trunk=True).init(KEY, jnp.asarray(X), 2)

    def mixture(params, key, x):
        q, info = base.posterior(params, key, x)
        return GaussianMixture(q.mean[None], q.log_std[None], jnp.zeros((x.shape[0], 1))), info

    parts = components(base._replace(posterior=mixture))
    params = parts.init(KEY, jnp.asarray(X), 2)
    with pytest.raises(
        ValueError, match=r"A mixture needs a base .* a DiagonalGaussian, but this one's is a GaussianMixture"
    ):
        parts.posterior(params.model, params.inference, KEY, jnp.asarray(X))
