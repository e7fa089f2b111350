"""The variational Laplace autoencoder: exact where the model is linear, never downhill where it is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.bounds import log_weights
from gpvae_jax.gaussians.gauss_newton import gauss_newton
from gpvae_jax.likelihoods import gaussian
from gpvae_jax.methods.iaf import iaf
from gpvae_jax.methods.vae import vae
from gpvae_jax.methods.vlae import vlae
from gpvae_jax.networks import mlp
from gpvae_jax.types import Params
from tests.cases import X, assert_close, compiled, perturb, small_encoder, small_model
from tests.exact import latent_model, random_model

MODEL, ENCODER, DATA, KEY = small_model(), small_encoder(), jnp.asarray(X), jax.random.key(0)


def as_vae(params: Params) -> Params:
    return Params(params.model, params.inference["base"])


@pytest.mark.parametrize("settings", [{"halvings": 3}, {"halvings": 0, "step_size": 1.0}])
def test_one_step_on_a_linear_gaussian_model_is_the_exact_posterior(settings):
    """From any start; the ELBO is then log p(x) for every draw."""
    exact = random_model()
    model, x = latent_model(exact), exact.data(0, 6)
    with jax.enable_x64(True):
        method = vlae(model, mlp((5,), (4,), activation="tanh"), steps=1, **settings)
        data = jnp.asarray(x)
        params = perturb(method.init(KEY, data), 0, 0.5)._replace(model=exact.theta(np.float64))
        q, info = jax.jit(method.posterior)(params, KEY, data)
        mean, covariance = exact.posterior(x)
        np.testing.assert_allclose(q.mean, mean, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(q.covariance, np.broadcast_to(covariance, (6, 3, 3)), rtol=1e-9, atol=1e-10)
        np.testing.assert_array_equal(info["step_factor"], 1)
        assert info["gradient_norm"].max() < 1e-8
        log_w = jax.jit(lambda theta, q: log_weights(model, theta, q, KEY, data, 4))(params.model, q)
        np.testing.assert_allclose(log_w, np.broadcast_to(exact.log_evidence(x), (4, 6)), rtol=1e-9)


def test_zero_steps_is_the_base():
    base, method = vae(MODEL, ENCODER), vlae(MODEL, ENCODER, steps=0)
    params = perturb(method.init(KEY, DATA), 0, 0.3)
    assert_close(as_vae(method.init(KEY, DATA)), base.init(KEY, DATA), 0.0)
    draws = [
        jax.jit(lambda p, m=m: m.posterior(p, KEY, DATA)[0].sample_and_log_prob(KEY, 4))(p)
        for m, p in ((method, params), (base, as_vae(params)))
    ]
    assert_close(*draws, 1e-6)
    own, expected = (jax.jit(jax.value_and_grad(m.loss, has_aux=True)) for m in (method, base))
    (value, grads), (reference, reference_grads) = own(params, KEY, DATA), expected(as_vae(params), KEY, DATA)
    assert_close(value, reference, 1e-5)
    assert_close(as_vae(grads), reference_grads, 1e-4)


def log_joint_of(model, theta, z):
    return model.log_likelihood(theta, DATA, z[None])[0] + model.log_prior(theta, z)


def test_steps_climb_to_the_mode():
    """log p(x, z) at the mode found never falls with more steps, and its gradient falls a hundredfold with many."""
    for model in (MODEL, small_model(gaussian())):
        params = perturb(vlae(model, ENCODER).init(KEY, DATA), 0, 1.0)
        before, log_joint = None, jax.jit(partial(log_joint_of, model))
        for steps in (0, 1, 2, 10):
            q, info = jax.jit(vlae(model, ENCODER, steps=steps, halvings=3).posterior)(params, KEY, DATA)
            if steps == 0:
                slope = jax.jit(lambda theta, z, m=model: gauss_newton(m, theta, DATA, z).gradient)
                start = jnp.linalg.norm(slope(params.model, q.mean), axis=-1)
            value = log_joint(params.model, q.mean)
            assert before is None or (value > before - 1e-4).all()
            before = value
        assert (info["gradient_norm"] < 0.01 * start).all()


def test_without_halvings_the_published_rule_holds():
    """Step t goes step_size / (t + 1) of the way."""
    method = compiled(vlae(MODEL, ENCODER, steps=3, halvings=0, step_size=0.5))
    _, info = method.posterior(method.init(KEY, DATA), KEY, DATA)
    expected = np.broadcast_to(np.array([[0.5], [0.25], [0.5 / 3]]), (3, len(X)))
    np.testing.assert_allclose(info["step_factor"], expected, rtol=1e-6)


@pytest.mark.parametrize("jacobian", ["forward", "reverse"])
def test_the_gradient_through_the_steps_is_exact(jacobian):
    """Against central differences in float64, the step factors being locally constant."""
    with jax.enable_x64(True):
        method = vlae(small_model(), small_encoder(), steps=2, jacobian=jacobian)
        x = jnp.asarray(X, jnp.float64)
        params = perturb(method.init(KEY, x), 2, 0.3)
        loss = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, x)[0]))
        direction = perturb(jax.tree.map(jnp.zeros_like, params), 0, 1.0)
        pairs = zip(*map(jax.tree.leaves, (loss(params)[1], direction)), strict=True)
        slope = sum(np.vdot(g, d) for g, d in pairs)
        up, down = (jax.tree.map(lambda p, d, h=h: p + h * d, params, direction) for h in (1e-5, -1e-5))
        np.testing.assert_allclose(slope, (loss(up)[0] - loss(down)[0]) / 2e-5, rtol=1e-5)


def test_bad_settings_are_told():
    with pytest.raises(ValueError, match="steps must be at least 0, got -1"):
        vlae(MODEL, ENCODER, steps=-1)
    with pytest.raises(ValueError, match="Unknown jacobian 'central'"):
        vlae(MODEL, ENCODER, jacobian="central")


@pytest.mark.parametrize("steps", [0, 1])
def test_a_base_that_is_no_diagonal_gaussian_is_told(steps):
    method = vlae(MODEL, ENCODER, base=iaf(MODEL, ENCODER, width=8), steps=steps)
    with pytest.raises(ValueError, match="vlae needs a base whose posterior is a DiagonalGaussian"):
        jax.eval_shape(method.posterior, jax.eval_shape(method.init, KEY, DATA), KEY, DATA)
