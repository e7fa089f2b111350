"""IAF and Householder as methods: with no layers each is the VAE, and each of its parts is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods.householder import householder
from gpvae_jax.methods.iaf import iaf
from gpvae_jax.methods.vae import vae
from gpvae_jax.types import Params
from tests.cases import X, assert_close, perturb, small_encoder, small_model

MODEL, ENCODER, DATA, KEY = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)


def shared(params: Params) -> Params:
    """What a flow has in common with the vae."""
    return Params(params.model, {name: params.inference[name] for name in ("encoder", "head")})


@pytest.mark.parametrize(("factory", "analytic"), [(iaf, False), (householder, True)])
def test_no_layers_is_the_vae(factory, analytic):
    """Equal in posterior draws, loss and gradient; the IAF's KL is sampled, as is that of the vae beside it."""
    method, base = factory(MODEL, ENCODER, steps=0), vae(MODEL, ENCODER, analytic_kl=analytic)
    params = perturb(method.init(KEY, DATA), 0, 0.3)
    assert_close(shared(method.init(KEY, DATA)), base.init(KEY, DATA), 0.0)
    pairs = ((method, params), (base, shared(params)))
    draws = [jax.jit(lambda p, m=m: m.posterior(p, KEY, DATA)[0].sample_and_log_prob(KEY, 4))(p) for m, p in pairs]
    assert_close(*draws, 0.0)
    own, expected = (jax.jit(jax.value_and_grad(m.loss, has_aux=True)) for m in (method, base))
    (value, grads), (reference, reference_grads) = own(params, KEY, DATA), expected(shared(params), KEY, DATA)
    assert_close(value, reference, 1e-6)
    assert_close(shared(grads), reference_grads, 1e-5)


@pytest.mark.parametrize("factory", [iaf, householder])
def test_equal_keys_give_the_vae_s_decoder_and_encoder(factory):
    assert_close(shared(factory(MODEL, ENCODER).init(KEY, DATA)), vae(MODEL, ENCODER).init(KEY, DATA), 0.0)


@pytest.mark.parametrize("steps", [1, 3])
def test_every_layer_is_its_own_and_is_trained(steps):
    for factory, layers in ((iaf, ("flow",)), (householder, ("first", "next"))):
        method = factory(MODEL, ENCODER, steps=steps)
        params = method.init(KEY, DATA)
        grads = jax.jit(jax.grad(lambda p, m=method: m.loss(p, KEY, DATA)[0]))(params).inference
        for name in layers:
            for leaf in jax.tree.leaves(grads[name]):
                assert all(np.abs(layer).max() > 0 for layer in leaf)
            for leaf in jax.tree.leaves(params.inference[name]):
                assert all(np.any(leaf[0] != other) for other in leaf[1:] if leaf.std() > 0)


def test_bad_settings_are_told():
    for factory in (iaf, householder):
        with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
            factory(MODEL, ENCODER, steps=-1)
