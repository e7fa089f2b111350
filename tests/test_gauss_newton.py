"""The Gauss–Newton curvature from two generic functions against explicit Jacobians and Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.gaussians.gauss_newton import gauss_newton
from gpvae_jax.likelihoods import bernoulli, discretized_logistic, gaussian
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from gpvae_jax.types import Network
from tests.cases import LATENT_DIM, X, perturb

BATCH = len(X)
SHAPE = X.shape[1:]
DECODER = mlp((LATENT_DIM,), (6,), SHAPE, activation="tanh")


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def problem(likelihood, decoder=DECODER):
    """A model, θ, grey data on the grid of 16 levels, and z near the origin."""
    model = latent_model(decoder, likelihood)
    grey = jnp.asarray(np.random.default_rng(0).integers(1, 14, X.shape) / 15)
    x = jnp.asarray(X, jnp.float64) if likelihood.name == "bernoulli" else grey
    theta = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), perturb(model.init(jax.random.key(0), x), 0, 0.3))
    z = jnp.asarray(0.5 * np.random.default_rng(1).standard_normal((BATCH, LATENT_DIM)))
    return model, theta, x, z


def by_hand(likelihood, theta, x, z) -> np.ndarray:
    """I + JᵀHJ per example, with J by jax.jacobian and H by jax.hessian in output space."""

    def one(x, z):
        def decode(z):
            return DECODER.apply(theta["decoder"], z[None])[0].reshape(-1)

        def cost(output):
            return -likelihood.log_prob(theta["likelihood"], output.reshape(SHAPE), x)

        jacobian = jax.jacobian(decode)(z)
        return jacobian.T @ jax.hessian(cost)(decode(z)) @ jacobian + jnp.eye(LATENT_DIM)

    return np.asarray(jax.jit(jax.vmap(one))(x, z))


@pytest.mark.parametrize("jacobian", ["forward", "reverse"])
@pytest.mark.parametrize("likelihood", [bernoulli(), gaussian(), discretized_logistic(16)], ids=lambda each: each.name)
def test_curvature_and_gradient(likelihood, jacobian):
    """Exact for Bernoulli and Gaussian outputs; for the discretised logistic at most the Hessian's, and at least I."""
    model, theta, x, z = problem(likelihood)
    local = jax.jit(lambda z: gauss_newton(model, theta, x, z, jacobian=jacobian))(z)
    expected = by_hand(likelihood, theta, x, z)
    if likelihood.name == "discretized_logistic":
        assert np.linalg.eigvalsh(expected - local.precision).min() > -1e-9
        assert np.linalg.eigvalsh(local.precision).max() > 1 + 1e-4
    else:
        np.testing.assert_allclose(local.precision, expected, rtol=1e-8)
    assert np.linalg.eigvalsh(local.precision).min() >= 1 - 1e-9
    np.testing.assert_array_equal(local.precision, np.swapaxes(local.precision, 1, 2))

    @jax.jit
    def log_joint(z):
        return model.log_likelihood(theta, x, z[None])[0] + model.log_prior(theta, z)

    step, direction = 1e-6, jnp.asarray(np.random.default_rng(2).standard_normal(z.shape))
    slope = (log_joint(z + step * direction) - log_joint(z - step * direction)) / (2 * step)
    np.testing.assert_allclose(jnp.sum(local.gradient * direction, axis=-1), slope, rtol=1e-6)


def test_a_decoder_without_forward_mode():
    """A custom reverse rule, as of the fast convolutions, has no forward mode; "reverse" needs none."""

    @jax.custom_vjp
    def square(h):
        return jnp.square(h)

    square.defvjp(lambda h: (square(h), h), lambda h, g: (2 * h * g,))
    decoder = Network(DECODER.init, lambda p, z: square(DECODER.apply(p, z)), DECODER.in_shape, DECODER.out_shape)
    plain = decoder._replace(apply=lambda p, z: jnp.square(DECODER.apply(p, z)))
    model, theta, x, z = problem(bernoulli(), decoder)
    with pytest.raises(TypeError, match="custom_vjp"):
        gauss_newton(model, theta, x, z)
    found = jax.jit(lambda z: gauss_newton(model, theta, x, z, jacobian="reverse"))(z)
    expected = jax.jit(lambda z: gauss_newton(latent_model(plain, bernoulli()), theta, x, z))(z)
    np.testing.assert_allclose(found.precision, expected.precision, rtol=1e-9)


def test_an_unknown_way_is_told():
    model, theta, x, z = problem(bernoulli())
    with pytest.raises(ValueError, match="did you mean 'forward'"):
        gauss_newton(model, theta, x, z, jacobian="foward")
