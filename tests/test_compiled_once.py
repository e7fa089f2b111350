"""What is compiled once stays compiled: new data and new parameters of the same shapes trace nothing anew.

Inference and loss of every method, and `fit`, are in test_conformance and test_train.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

from gpvae_jax.evaluate import ais, annealing
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.memory import BLOCK, row_bytes
from gpvae_jax.observation import scaled
from gpvae_jax.train import TrainingData, trainer
from tests import cases

X = jnp.asarray(cases.X)


@pytest.mark.parametrize("name", ["recmix", "savi"])
def test_an_epoch_takes_its_own_result(name: str) -> None:
    model, method = cases.CASES[name]()
    identity = scaled(None)
    bound, traces = trainer(method, model, optax.adam(1e-3), identity, batch_size=2), []

    def epoch(*arguments):
        traces.append(name)
        return bound.epoch(*arguments)

    run, state = jax.jit(epoch), bound.init(jax.random.key(0), TrainingData(X, X))
    for x in (X, 1 - X):
        state, _ = run(state, TrainingData(x, x))
    assert len(traces) == 1


def test_annealing_compiles_a_pilot_and_a_run() -> None:
    model, method = cases.CASES["vae"]()
    theta = method.init(jax.random.key(0), X).model
    before = annealing._transitions._cache_size()
    schedule = ais.linear_schedule(annealing.CHUNK)
    for x in (X, 1 - X):
        ais.ais(model, theta, x, jax.random.key(1), schedule=schedule, num_chains=3, num_leapfrog=2)
    assert annealing._transitions._cache_size() == before + 2


def test_importance_sampling_traces_once_however_many_batches() -> None:
    model, method = cases.CASES["vae"]()
    traces = []

    def posterior(*arguments):
        traces.append(1)
        return method.posterior(*arguments)

    params, counted = method.init(jax.random.key(0), X), method._replace(posterior=posterior)
    memory = 3 * BLOCK * row_bytes(model, params.model)  # three examples at once, of five
    for _ in range(2):
        importance_bounds(counted, model, params, cases.X, jax.random.key(1), num_samples=(3,), memory=memory)
    assert len(traces) == 1
