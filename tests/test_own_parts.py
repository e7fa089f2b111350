"""Parts of a user's own: a likelihood with two outputs per pixel, a prior other than N(0, I), an activation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

from gpvae_jax.bounds import log_weights
from gpvae_jax.evaluate.ais import ais, linear_schedule
from gpvae_jax.gaussians.gauss_newton import gauss_newton
from gpvae_jax.likelihoods import Likelihood, gaussian
from gpvae_jax.methods import METHODS, vae
from gpvae_jax.model import latent_model
from gpvae_jax.networks import mlp
from gpvae_jax.observation import scaled
from gpvae_jax.posteriors import standard_normal_prior
from gpvae_jax.train import TrainingData, fit, trainer
from tests import exact
from tests.cases import X, build, small_encoder

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(0)


def per_pixel() -> Likelihood:
    """Gaussian pixels with a mean and a log-variance each: output[4, 4, 2] for x[4, 4, 1]."""

    def log_prob(params, output, x):
        mean, log_variance = output[..., :1], output[..., 1:]
        return -0.5 * jnp.sum((x - mean) ** 2 * jnp.exp(-log_variance) + log_variance + jnp.log(2 * jnp.pi))

    def sample(params, key, output):
        return output[..., :1] + jnp.exp(0.5 * output[..., 1:]) * jax.random.normal(key, SHAPE)

    return Likelihood(
        "per pixel", lambda x: {}, log_prob, lambda params, output: output[..., :1], sample, lambda x: None
    )


def test_a_likelihood_with_two_outputs_per_pixel():
    decoder = mlp((3,), (6,), (4, 4, 2))
    model = latent_model(decoder, per_pixel(), data_shape=SHAPE)
    x, z = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((5, *SHAPE), (2, 5, 3)))
    theta = model.init(jax.random.key(0), x)
    output = np.asarray(decoder.apply(theta["decoder"], z.reshape(10, 3))).reshape(2, 5, 4, 4, 2)
    expected = stats.norm.logpdf(x[None], output[..., :1], np.exp(0.5 * output[..., 1:])).sum((2, 3, 4))
    np.testing.assert_allclose(model.log_likelihood(theta, x, z), expected, rtol=1e-5)
    assert model.mean(theta, z[0]).shape == (5, *SHAPE)
    assert model.sample(theta, jax.random.key(1), 7)[1].shape == (7, *SHAPE)
    # whatever the mean, the variances alone can be learned: pixels with standard deviations 1 and 0.1
    noise = RNG.normal(size=(256, *SHAPE)) * np.where(np.arange(4) < 2, 1.0, 0.1)[:, None, None]
    data = TrainingData(np.float32(noise), np.float32(noise[:64]))
    run = trainer(vae(model, small_encoder(SHAPE)), model, optax.adam(1e-2), scaled(None), batch_size=64)
    first, *_, last = fit(run, data, jax.random.key(0), epochs=40)
    entropy = -8 * stats.norm(0, 1).entropy() - 8 * stats.norm(0, 0.1).entropy()
    assert first.metrics["validation_elbo"] < entropy - 5
    assert last.metrics["validation_elbo"] > entropy - 2


def test_a_likelihood_sees_the_shapes_of_the_data():
    seen = []

    def log_prob(params, output, x):
        seen.append((output.shape, x.shape))
        return jnp.sum(output) + jnp.sum(x)

    model = latent_model(mlp((3,), (6,), SHAPE), gaussian()._replace(log_prob=log_prob))
    model.log_likelihood(
        model.init(jax.random.key(0), jnp.zeros((2, *SHAPE))), jnp.zeros((2, *SHAPE)), jnp.ones((1, 2, 3))
    )
    assert seen == [(SHAPE, SHAPE)]


@pytest.mark.parametrize("data_shape", [None, (4, 4, 3)])
def test_outputs_that_make_no_examples_of_the_datas_shape_are_refused(data_shape):
    model = latent_model(mlp((3,), (6,), (4, 4, 2)), gaussian(), data_shape)
    with pytest.raises(ValueError, match=r"The decoder makes examples of shape \(4, 4, 2\), but the data have shape"):
        model.init(jax.random.key(0), jnp.zeros((5, *SHAPE)))


# ---- a prior N(3, I)

EXACT = exact.random_model()
DATA = EXACT.data(1, 4)
MOVED = exact.latent_model(EXACT)._replace(log_prior=lambda theta, z: standard_normal_prior(theta, z - 3.0))


def test_log_weights_honour_an_own_prior():
    # z = 3 + e makes x = W e + (b + 3 W 1): the evidence and the posterior are those of another bias
    same = EXACT._replace(bias=EXACT.bias + 3.0 * EXACT.weights.sum(1))
    q = same.exact_posterior(DATA)
    q = q._replace(mean=q.mean + 3.0)
    log_w = log_weights(MOVED, EXACT.theta(), q, jax.random.key(0), jnp.asarray(DATA, jnp.float32), 3)
    np.testing.assert_allclose(log_w, np.broadcast_to(same.log_evidence(DATA), (3, 4)), rtol=1e-4)


CLOSED = ("gpvae", "householder", "iterative", "newton", "savi", "vae", "vlae")
SAMPLED = {"vae": {"analytic_kl": False}, "iwae": {}, "iaf": {"width": 8}, "mixture": {}, "recmix": {}}


def loss_of(name, settings):
    """A method's loss on a model with a prior of its own."""
    case = build(METHODS[name], settings)
    model = case.model._replace(log_prior=lambda theta, z: standard_normal_prior(theta, z - 3.0))
    settings = settings | ({"num_data": 5} if name == "gpvae" else {})
    method = METHODS[name](model, small_encoder(), **settings)
    return jax.eval_shape(method.loss, method.init(jax.random.key(0), X), jax.random.key(1), X)


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_form_refuses_another_prior(name):
    with pytest.raises(ValueError, match=r"holds for the prior N\(0, I\) alone, but this model has a log_prior of its"):
        loss_of(name, {})


@pytest.mark.parametrize("name", SAMPLED)
def test_a_sampled_bound_takes_any_prior(name):
    assert loss_of(name, SAMPLED[name])[0].shape == ()


def test_curvature_and_annealing_refuse_another_prior():
    x = jnp.asarray(DATA, jnp.float32)
    with pytest.raises(ValueError, match="The Gauss–Newton precision holds for"):
        gauss_newton(MOVED, EXACT.theta(), x, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="A path that starts from the prior holds for"):
        ais(MOVED, EXACT.theta(), x, jax.random.key(0), schedule=linear_schedule(3))


def test_an_own_activation_reaches_the_network():
    network = mlp((3,), (4,), activation=jax.nn.elu)
    params, x = network.init(jax.random.key(0)), jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    layer = params["hidden"]["layer_0"]
    np.testing.assert_allclose(
        network.apply(params, x), jax.nn.elu(x @ layer["kernel"] + layer["bias"][None]), rtol=1e-6
    )
