"""Iterative amortized inference: the base without steps, exact gradients, and a step that can be steered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.methods import iterative, vae
from gpvae_jax.types import Params
from tests.cases import X, assert_close, compiled, perturb, small_encoder, small_model

MODEL, ENCODER, DATA, KEY = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)


def test_no_step_is_the_base() -> None:
    method = compiled(iterative(MODEL, ENCODER, steps=0))
    params = perturb(method.init(KEY, DATA), 3, 0.3)
    base = Params(params.model, params.inference["base"])
    assert_close(
        method.posterior(params, KEY, DATA)[0], compiled(vae(MODEL, ENCODER)).posterior(base, KEY, DATA)[0], 0.0
    )


def test_a_silent_network_leaves_the_preconditioned_gradient_step() -> None:
    method = compiled(iterative(MODEL, ENCODER, step_size=0.3, largest_move=1e6))
    params = perturb(method.init(KEY, DATA), 3, 0.3)
    params.inference["update"]["out"] = jax.tree.map(jnp.zeros_like, params.inference["update"]["out"])
    q, info = method.posterior(params, KEY, DATA)

    def log_joint(z: jax.Array) -> jax.Array:
        return jnp.sum(MODEL.log_likelihood(params.model, DATA, z[None]) + MODEL.log_prior(params.model, z[None]))

    expected = info["base_mean"] + 0.3 * info["base_std"] ** 2 * jax.jit(jax.grad(log_joint))(info["base_mean"])
    np.testing.assert_allclose(q.mean, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(q.std, info["base_std"], rtol=1e-6)


def test_the_network_sees_the_gradient_and_not_the_features_alone() -> None:
    """The same features with another decoder give another stretch: the answer depends on log p(x|z) itself."""
    method = compiled(iterative(MODEL, ENCODER))
    params = perturb(method.init(KEY, DATA), 3, 0.3)
    other = params._replace(model=perturb(params.model, 4, 0.3))
    widening = [
        np.asarray(q.log_std - jnp.log(info["base_std"]))
        for q, info in (method.posterior(p, KEY, DATA) for p in (params, other))
    ]
    assert np.abs(widening[0] - widening[1]).max() > 1e-4


def test_rematerialisation_changes_no_gradient() -> None:
    plain, again = (iterative(MODEL, ENCODER, steps=2, remat=remat) for remat in (False, True))
    params = perturb(plain.init(KEY, DATA), 3, 0.3)
    gradients = [jax.jit(jax.grad(lambda p, m=m: m.loss(p, KEY, DATA)[0]))(params) for m in (plain, again)]
    assert_close(gradients[1], gradients[0], 1e-5)


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"width": 0}, {"step_size": 0.0}, {"largest_move": -1.0}])
def test_a_wrong_setting_is_told(wrong) -> None:
    with pytest.raises(ValueError, match=r"must be (above|at least)"):
        iterative(MODEL, ENCODER, **wrong)


def test_no_output_of_the_network_is_too_large() -> None:
    method = iterative(MODEL, ENCODER)
    params, update = (start := method.init(KEY, DATA)), start.inference["update"]
    run = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, DATA)[0]))
    for part in range(3):
        for bias in (-1e4, 1e4):
            shifted = update["out"]["bias"].reshape(3, -1).at[part].set(bias).reshape(-1)
            moved = update | {"out": update["out"] | {"bias": shifted}}
            value, slope = run(Params(params.model, params.inference | {"update": moved}))
            assert np.isfinite(value)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
