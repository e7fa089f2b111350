"""Importance-sampled bounds within a budget of memory: whatever the tiles, the same values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.evaluate import importance_bounds, memory
from gpvae_jax.likelihoods import bernoulli
from gpvae_jax.model import latent_model
from gpvae_jax.networks import conv_decoder, mlp
from tests.cases import CASES, X, perturb

MLP = latent_model(mlp((20,), (400, 300), (28, 28, 1)), bernoulli())
CONV = latent_model(conv_decoder(5, (28, 28, 1), width=8, features=32), bernoulli())


def theta_of(model):
    return model.init(jax.random.key(0), jnp.zeros((2, *model.data_shape)))


@pytest.mark.parametrize("name", ["vae", "mixture", "iaf", "svi"])
def test_values_depend_on_key_and_example_alone(name):
    model, method = CASES[name]()
    params = perturb(method.init(jax.random.key(0), X), 1)
    row = memory.row_bytes(model, params.model)

    def run(raw, budget=None):
        return importance_bounds(method, model, params, raw, jax.random.key(3), num_samples=(3, 50), memory=budget)

    whole = run(X)
    assert np.std(whole["iwae_3"]) > 0.01
    for budget, raw in [(8 * row, X[:4]), (8 * 3 * row, X)]:
        found = run(raw, budget)
        for value in ("elbo", "iwae_3", "iwae_50", "ess", "pareto_k", "standard_error"):
            np.testing.assert_allclose(found[value], whole[value][: len(raw)], rtol=2e-4, atol=2e-4, err_msg=value)


def test_the_bound_goes_on_to_a_hundred_thousand_samples():
    model, method = CASES["vae"]()
    params = method.init(jax.random.key(0), X)
    found = importance_bounds(method, model, params, X, jax.random.key(0), num_samples=(100_000,))
    longer = importance_bounds(method, model, params, X, jax.random.key(1), num_samples=(10_000,))
    np.testing.assert_allclose(found["iwae_100000"], longer["iwae_10000"], atol=6 * longer["standard_error"].max())
    assert np.all((found["ess"] > 2000) & (found["ess"] < 100_000))


def test_a_row_is_z_and_every_linear_layer():
    assert memory.row_bytes(MLP, theta_of(MLP)) == 4 * (20 + 300 + 400 + 784)
    layers = 32, 4 * 4 * 32, 8 * 8 * 16, 14 * 14 * 8, 28 * 28  # 8×8 is cropped to 7×7 afterwards
    assert memory.row_bytes(CONV, theta_of(CONV)) == 4 * (5 + sum(layers))


def test_what_is_compiled_keeps_to_the_budget():
    theta, budget = theta_of(CONV), 4 * memory.MIB
    examples, samples = memory.tile(CONV, theta, 1000, 5000, budget)
    x, z = jnp.zeros((examples, *CONV.data_shape)), jnp.zeros((samples, examples, CONV.latent_dim))
    used = jax.jit(CONV.log_likelihood).lower(theta, x, z).compile().memory_analysis().temp_size_in_bytes
    assert 0.25 * budget < used < 1.25 * budget


def test_tiles():
    theta = theta_of(MLP)
    row = memory.row_bytes(MLP, theta)
    assert memory.tile(MLP, theta, 1000, 5000, 1024 * row) == (128, 8)
    assert memory.tile(MLP, theta, 1000, 5000, 8 * row) == (1, 8)
    assert memory.tile(MLP, theta, 10, 5000, 1024 * row) == (10, 96)
    assert memory.tile(MLP, theta, 10, 20, 1024 * row) == (10, 24)  # no more than what is asked for, in whole blocks
    for budget in (9, 100, 999, 12_345):
        examples, samples = memory.tile(MLP, theta, 10_000, 100_000, budget * row)
        assert examples * samples <= budget
        assert samples % memory.BLOCK == 0
    with pytest.raises(ValueError, match=r"too small: 8 samples of one example take 0\.04"):
        memory.tile(MLP, theta, 10, 10, 8 * row - 1)


def test_budgets_are_written_with_their_unit():
    assert memory.parse_memory("64MiB") == 64 * 2**20
    assert memory.parse_memory(" 1.5 gib ") == 3 * 2**29
    for wrong in ("64", "64MB", "0MiB", "-1MiB", "much"):
        with pytest.raises(ValueError, match=f"written as 512KiB, 64MiB or 2GiB, got '{wrong}'"):
            memory.parse_memory(wrong)


def test_degenerate_inputs_are_refused():
    model, method = CASES["vae"]()
    params = method.init(jax.random.key(0), X)

    def run(raw=X, count=5, params=params):
        return importance_bounds(method, model, params, raw, jax.random.key(0), num_samples=(count,))

    with pytest.raises(ValueError, match=r"at least 1, got 0 examples"):
        run(X[:0])
    with pytest.raises(ValueError, match=r"num_samples=\(0,\)"):
        run(count=0)
    broken = X.copy()
    broken[3, 0] = np.nan
    with pytest.raises(ArithmeticError, match=r"of 1 of 5 examples are not finite \(the first is example 3\)"):
        run(broken)
