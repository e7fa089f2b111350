"""Capacity matching finds the width whose parameter count is nearest."""

import jax
import jax.numpy as jnp
import pytest

from gpvae_jax.capacity import inference_size, match_capacity, network_size
from gpvae_jax.likelihoods import bernoulli
from gpvae_jax.methods.iaf import iaf
from gpvae_jax.methods.vae import vae
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp, num_params
from gpvae_jax.types import Network

SHAPE = (28, 28, 1)
MODEL = latent_model(mlp((20,), (400,), SHAPE), bernoulli())


def build(width: int) -> Network:
    return mlp(SHAPE, (width, width))


def light(width: int) -> Network:
    """As large as `build(width)`, and faster to build."""
    sizes = (785 * width, (width + 1) * width)
    return Network(lambda key: [jnp.zeros(size) for size in sizes], lambda params, x: x, SHAPE, (width,))


@pytest.mark.parametrize("target", [50_000, 475_600, 2_000_000])
def test_within_one_percent_and_nearest(target):
    width, network = match_capacity(light, target)
    size = network_size(network)
    assert abs(size - target) < 0.01 * target
    assert all(abs(network_size(light(other)) - target) >= abs(size - target) for other in (width - 1, width + 1))
    assert network.out_shape == (width,)


def test_an_exact_target_is_met_exactly():
    assert match_capacity(light, network_size(build(137)))[0] == 137


def test_a_vae_as_large_as_an_iaf_heads_included():
    rival = iaf(MODEL, build(400), steps=4)
    target = inference_size(rival, MODEL)
    width, encoder = match_capacity(build, target, count=lambda e: inference_size(vae(MODEL, e), MODEL))
    assert width > 400
    assert abs(inference_size(vae(MODEL, encoder), MODEL) - target) < 0.01 * target


def test_sizes_are_those_of_the_parameters():
    x = jnp.zeros((2, *SHAPE))
    params = vae(MODEL, build(8)).init(jax.random.key(0), x)
    assert inference_size(vae(MODEL, build(8)), MODEL) == num_params(params.inference)
    assert network_size(build(8)) == num_params(params.inference["encoder"])


def test_impossible_targets_are_told():
    with pytest.raises(ValueError, match="Even at width 1 the network has 787 parameters, more than the target 10"):
        match_capacity(light, 10)
    with pytest.raises(ValueError, match="does `build` use its argument"):
        match_capacity(lambda width: light(3), 10_000)
