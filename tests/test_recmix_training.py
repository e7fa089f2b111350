"""RecMix trained for real, on the digits that come with scikit-learn."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax.data import load
from gpvae_jax.likelihoods import gaussian
from gpvae_jax.methods.recmix import recmix
from gpvae_jax.mixtures.diagnostics import dead_components, diagnose
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from gpvae_jax.observation import observe
from gpvae_jax.train import TrainingData, fit, trainer

EPOCHS = 100
RECURSION = {"against": "earlier", "initial_epsilon": 0.1, "epsilon": "amortized"}  # the paper's


@cache
def trained(**settings):
    """Diagnostics on the validation set after training, and the bound of the last epoch."""
    dataset, observation = observe(load("digits"), "none", 0)
    shape = dataset.train.shape[1:]
    model = latent_model(mlp((8,), (64,), shape), gaussian())
    method = recmix(model, mlp(shape, (64,)), **settings)
    run = trainer(method, model, optax.adam(1e-3), observation, batch_size=64)
    *_, record = fit(run, TrainingData(dataset.train, dataset.validation), jax.random.key(0), epochs=EPOCHS)
    params, x = record.state.params, observation.evaluate(jnp.asarray(dataset.validation))
    q, _ = method.posterior(params, jax.random.key(1), x)
    return diagnose(model, params.model, q, jax.random.key(2), x), record.metrics


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, RECURSION], ids=str)
def test_no_component_collapses(settings):
    """No component is near a point: its smallest σ, over all examples, is that of a posterior. And none is unused."""
    diagnostics, metrics = trained(**settings)
    assert metrics["elbo"] > 0  # nats over 64 pixels; an untrained model has about −50
    assert np.min(diagnostics.smallest_std) > 0.02
    assert dead_components(diagnostics) == []


@pytest.mark.slow
def test_without_a_cap_they_do():
    """The criterion without its bound, as a check that the test above can fail."""
    diagnostics, _ = trained(cap=1e9, **RECURSION)
    assert np.min(diagnostics.smallest_std) < 0.01
    assert {dead.component for dead in dead_components(diagnostics)} == {1, 2}
