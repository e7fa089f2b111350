"""GPVAE: equal to the VAE without errors, its variances those of drawn weights, and its objectives in their order."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax.bounds import elbo, log_weights
from gpvae_jax.gp.errors import redraw, uncertainty
from gpvae_jax.methods.gpvae import as_gaussian, gpvae
from gpvae_jax.methods.savi import savi
from gpvae_jax.methods.vae import vae
from gpvae_jax.networks import mlp
from gpvae_jax.objectives import frozen
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Network, Params
from tests.cases import DATA_SHAPE, LATENT_DIM, WIDTH, X, assert_close, compiled, perturb, small_encoder, small_model
from tests.exact import latent_model, random_model

FAMILIES = ["diagonal", "low_rank", "full", "shared"]
N = 100
DRAWS = 10_000
SIGMAS = 5.0
KEY = jax.random.key(0)
BATCH_X = jnp.asarray(X)
MODEL, ENCODER = small_model(), small_encoder()


def make(**settings) -> InferenceMethod:
    return compiled(gpvae(MODEL, ENCODER, **{"num_data": N, "rank": 2} | settings))


def spread(method: InferenceMethod, scale: float = 0.2) -> Params:
    """Parameters at no special point, with weight variances large enough to see."""
    return perturb(method.init(KEY, BATCH_X), 1, scale)


@pytest.mark.parametrize(
    ("family", "objective"), [*((family, "expected") for family in FAMILIES), ("diagonal", "marginal")]
)
def test_without_errors_it_is_the_vae(family, objective):
    """Zero weight means and (to 1e-30) variances: the same posterior, the same loss beside the weights' KL."""
    plain = compiled(vae(MODEL, ENCODER, num_samples=3))
    method = make(weight_posterior=family, objective=objective, start_variance=1e-30, num_samples=3)
    params, params_plain = method.init(KEY, BATCH_X), plain.init(KEY, BATCH_X)
    assert_close(params.model, params_plain.model, 0.0)
    assert_close(params.inference["base"], params_plain.inference, 0.0)
    (q, _), (q_plain, _) = (m.posterior(p, KEY, BATCH_X) for m, p in ((method, params), (plain, params_plain)))
    for got, expected in zip(q.sample_and_log_prob(KEY, 4), q_plain.sample_and_log_prob(KEY, 4), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(q.variance, q_plain.variance, rtol=1e-6)
    for beta in (1.0, 0.3):
        loss, metrics = method.loss(params, KEY, BATCH_X, beta=beta)
        loss_plain, metrics_plain = plain.loss(params_plain, KEY, BATCH_X, beta=beta)
        np.testing.assert_allclose(loss - metrics["weight_kl"], loss_plain, rtol=1e-5)
        for name, value in metrics_plain.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_without_errors_it_is_its_base():
    base = compiled(savi(MODEL, ENCODER, steps=1))
    method = make(base=base, start_variance=1e-30)
    params, params_base = method.init(KEY, BATCH_X), base.init(KEY, BATCH_X)
    assert_close(params.inference["base"], params_base.inference, 0.0)
    (q, info), (q_base, info_base) = (m.posterior(p, KEY, BATCH_X) for m, p in ((method, params), (base, params_base)))
    np.testing.assert_allclose(q.mean, q_base.mean, rtol=1e-6)
    np.testing.assert_allclose(q.std_mean, q_base.std, rtol=1e-6)
    assert_close(info["base"], info_base, 0.0)


@pytest.mark.parametrize(("family", "white_noise"), [*((family, False) for family in FAMILIES), ("diagonal", True)])
def test_variances_and_samples_are_those_of_drawn_weights(family, white_noise):
    """c, A and B against brute force: (W, U) drawn anew per sample, then z; and E[A + a² + B] against z's spread."""
    method = make(weight_posterior=family, start_variance=0.5, white_noise=white_noise)
    params = spread(method)
    q, info = method.posterior(params, KEY, BATCH_X)
    draw = jax.jit(lambda p, i, k: redraw(p, i, k, DRAWS, weight_posterior=family))
    z, log_q = (np.asarray(a, np.float64) for a in draw(params, info, KEY))
    assert z.shape == (DRAWS, *q.mean.shape)
    error = z.std(axis=0) / math.sqrt(DRAWS)
    assert (np.abs(z.mean(axis=0) - q.mean) <= SIGMAS * error).all()
    squared = np.square(z - np.asarray(q.mean))
    assert (np.abs(squared.mean(axis=0) - q.variance) <= SIGMAS * squared.std(axis=0) / math.sqrt(DRAWS)).all()
    z_marginal, log_q_marginal = jax.jit(lambda q: q.sample_and_log_prob(KEY, DRAWS))(q)
    features = [np.cos(np.asarray(s, np.float64) / np.sqrt(np.asarray(q.variance))) for s in (z, z_marginal)]
    error = math.sqrt(2 / DRAWS) * features[0].std(axis=0)
    assert (np.abs(features[0].mean(axis=0) - features[1].mean(axis=0)) <= SIGMAS * error).all()
    # E log q(z|x, W, U) is above E log q(z|x): what is known about the weights
    assert (log_q.mean(axis=0) > np.asarray(log_q_marginal).mean(axis=0)).all()


def test_features_come_from_one_evaluation_of_the_encoder():
    calls = []

    def apply(params, x):
        calls.append(x.shape)
        return encoder.apply(params, x)

    encoder = small_encoder()
    method = gpvae(small_model(), encoder._replace(apply=apply), num_data=N)
    params = method.init(KEY, BATCH_X)
    calls.clear()
    _, info = method.posterior(params, KEY, BATCH_X)
    assert len(calls) == 1
    hidden = encoder.apply(params.inference["base"]["encoder"], BATCH_X)
    np.testing.assert_allclose(info["features"], hidden / math.sqrt(WIDTH), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "width", "parts"),
    [
        ({}, WIDTH, None),
        ({"features": 4}, 4, {"projection"}),
        ({"own_features": True}, WIDTH, {"network"}),
        ({"own_features": True, "features": 4}, 4, {"network", "projection"}),
        ({"feature_network": mlp(DATA_SHAPE, (9,))}, 9, {"network"}),
        ({"base": vae(small_model(), small_encoder())}, WIDTH, {"network"}),
    ],
)
def test_feature_networks(settings, width, parts):
    method = make(**settings)
    params = method.init(KEY, BATCH_X)
    _, info = method.posterior(params, KEY, BATCH_X)
    assert info["features"].shape == (len(X), width)
    assert params.inference["mean"]["mean"].shape == (LATENT_DIM, width)
    assert (set(params.inference["features"]) if parts else params.inference.get("features")) == parts
    grads = jax.jit(jax.grad(lambda p: method.loss(p, KEY, BATCH_X)[0]))(spread(method))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads.inference.get("features", {})))


def test_unit_features_give_every_input_the_same_prior_variance():
    method = make(unit_features=True, own_features=True)
    params = method.init(KEY, BATCH_X)
    _, info = method.posterior(params, KEY, BATCH_X)
    np.testing.assert_allclose(np.square(info["features"]).sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(info["mean_variance"], 1e-3, rtol=1e-5)  # of weights that all have their start's
    silent = jax.tree.map(jnp.zeros_like, params.inference["features"])
    grads = jax.grad(lambda phi: method.loss(params._replace(inference=phi), KEY, BATCH_X)[0])(
        params.inference | {"features": silent}
    )
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(grads))


def average_elbo(method: InferenceMethod, params: Params, repeats: int = 200) -> np.ndarray:
    losses = jax.jit(jax.vmap(lambda key: method.loss(params, key, BATCH_X)[1]["elbo"]))
    return np.asarray(losses(jax.random.split(jax.random.key(2), repeats)), np.float64)


def test_objectives_and_evaluation_are_estimates_of_two_bounds_in_order():
    """The expected ELBO is the mean log-weight of redrawn weights, the marginal one that of the posterior; marginal
    is the greater."""
    settings = {"start_variance": 0.5, "num_samples": 20}
    methods = {name: make(objective=name, **settings) for name in ("expected", "marginal")}
    params = spread(methods["expected"])
    bound = {name: average_elbo(method, params) for name, method in methods.items()}
    difference = bound["marginal"] - bound["expected"]
    assert difference.mean() > SIGMAS * difference.std() / math.sqrt(len(difference))
    model, key = small_model(), jax.random.key(3)
    q, info = methods["expected"].posterior(params, KEY, BATCH_X)

    @jax.jit
    def of_redrawn(params, info):
        z, log_q = redraw(params, info, key, DRAWS)
        return model.log_likelihood(params.model, BATCH_X, z) + model.log_prior(params.model, z) - log_q

    redrawn = of_redrawn(params, info)
    marginal = jax.jit(lambda theta, q: log_weights(model, theta, q, key, BATCH_X, DRAWS))(params.model, q)
    for name, log_w in (("expected", redrawn), ("marginal", marginal)):
        samples = np.asarray(log_w, np.float64).mean(axis=1)
        error = math.hypot(samples.std() / math.sqrt(DRAWS), bound[name].std() / math.sqrt(len(bound[name])))
        assert abs(samples.mean() - bound[name].mean()) <= SIGMAS * error + 1e-3, name


def test_the_marginal_bounds_the_evidence_on_the_exact_model():
    exact = random_model()
    x = exact.data(0, 6)
    network = mlp((5,), (8,), activation="tanh")
    method = gpvae(latent_model(exact), network, num_data=6, start_variance=0.3)

    @jax.jit
    def run(x):
        q, _ = method.posterior(method.init(KEY, x), KEY, x)
        return log_weights(latent_model(exact), exact.theta(), q, KEY, x, DRAWS)

    log_w = run(jnp.asarray(x, jnp.float32))
    evidence = exact.log_evidence(x)
    assert (np.asarray(elbo(log_w)) < evidence).all()
    weight = np.exp(np.asarray(log_w, np.float64) - evidence)  # importance weights over p(x): mean 1
    assert (np.abs(weight.mean(axis=0) - 1) <= SIGMAS * weight.std(axis=0) / math.sqrt(DRAWS)).all()


def off_encoder(exact, error: np.ndarray) -> InferenceMethod:
    """The exact posterior's mean + x errorᵀ with its marginal standard deviations: a base with nothing to train."""
    gain, std = exact.posterior(np.eye(5) + exact.bias)[0], np.sqrt(np.diagonal(exact.posterior(np.zeros((1, 5)))[1]))
    slope, log_std = jnp.asarray(gain + error.T, jnp.float32), jnp.asarray(np.log(std), jnp.float32)
    offset = jnp.asarray(-exact.bias @ gain, jnp.float32)

    def posterior(params, key, x):
        mean = x @ slope + offset[None]
        return DiagonalGaussian(mean, jnp.broadcast_to(log_std[None], mean.shape)), {}

    model = latent_model(exact)
    return InferenceMethod(lambda key, x: Params(model.init(key, x), {}), posterior, lambda *a, **k: None)


@pytest.mark.parametrize("family", ["diagonal", "full"])
def test_training_moves_the_mean_toward_the_true_error(family):
    """Linear-Gaussian model, linear features, an encoder with a planted linear error: on new inputs most of it goes."""
    exact = random_model()
    error = 0.4 * np.random.default_rng(1).normal(size=(3, 5))
    features = Network(lambda key: {}, lambda params, x: x, (5,), (5,))
    base = off_encoder(exact, error)
    method = gpvae(
        latent_model(exact),
        features,
        base=base,
        feature_network=features,
        num_data=500,
        weight_posterior=family,
        num_samples=4,
    )
    method = frozen(method, "model")
    x, new = (exact.data(seed, 500) for seed in (1, 2))
    x, new32 = jnp.asarray(x, jnp.float32), jnp.asarray(new, jnp.float32)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 300))

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            grads = jax.grad(lambda p: method.loss(p, key, x)[0])(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(KEY, 300))[0][0]

    params = train(method.init(KEY, x))
    assert_close(params.model, exact.theta(), 0.0)  # frozen
    q, info = method.posterior(params, KEY, new32)
    truth = exact.posterior(new)[0]
    before, after = (np.square(np.asarray(mean) - truth).mean() for mean in (info["base_mean"], q.mean))
    assert after < 0.05 * before
    assert (np.asarray(info["mean_variance"]).mean(axis=0) < 0.02).all()  # and 500 examples leave little doubt


@pytest.mark.parametrize("objective", ["expected", "marginal"])
def test_gradients_are_finite_where_the_standard_deviation_crosses_zero(objective):
    method = make(objective=objective, start_variance=0.5, white_noise=True, learn_prior_scale=True, num_samples=8)
    params = spread(method)
    _, info = method.posterior(params, KEY, BATCH_X)
    # weights of h such that s + h is zero for the first example, of either sign for the others
    target, psi = np.array(-info["base_std"], np.float64), np.asarray(info["features"], np.float64)
    target[1:] *= np.linspace(0.5, 1.5, len(X) - 1)[:, None]
    params.inference["std"]["mean"] = jnp.asarray(np.linalg.lstsq(psi, target, rcond=None)[0].T, jnp.float32)
    q, _ = method.posterior(params, KEY, BATCH_X)
    np.testing.assert_allclose(q.std_mean[0], 0.0, atol=1e-5)
    assert (q.std_mean > 0.1).any()
    assert (q.std_mean < -0.1).any()
    run = jax.jit(jax.value_and_grad(lambda p: method.loss(p, KEY, BATCH_X)[0]))
    for variance in (0.0, -30.0, -60.0):  # σ random, nearly certain, certain
        params.inference["std"]["log_std"] = jnp.full_like(params.inference["std"]["log_std"], variance)
        loss, grads = run(params)
        assert np.isfinite(loss)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_the_weights_kl_is_spread_over_the_data():
    losses = {n: make(num_data=n).loss(spread(make()), KEY, BATCH_X) for n in (N, 10 * N)}
    (few, few_metrics), (many, many_metrics) = losses[N], losses[10 * N]
    np.testing.assert_allclose(few_metrics["weight_kl"], 10 * many_metrics["weight_kl"], rtol=1e-5)
    np.testing.assert_allclose(few - many, 0.9 * few_metrics["weight_kl"], rtol=1e-4)
    np.testing.assert_allclose(few_metrics["elbo"], many_metrics["elbo"], rtol=1e-6)


def test_learned_prior_scale():
    fixed, learned = make(prior_scale=0.3), make(prior_scale=0.3, learn_prior_scale=True)
    params, other = fixed.init(KEY, BATCH_X), learned.init(KEY, BATCH_X)
    np.testing.assert_allclose(learned.loss(other, KEY, BATCH_X)[0], fixed.loss(params, KEY, BATCH_X)[0], rtol=1e-5)
    grads = jax.grad(lambda p: learned.loss(p, KEY, BATCH_X)[0])(other)
    # at τ = 0.3 weights of variance 1e-3 and mean 0 want a smaller one: d KL/d log τ = ZF (1 − S/τ²)
    expected = LATENT_DIM * WIDTH * (1 - 1e-3 / 0.09) / N
    for part in ("mean", "std"):
        np.testing.assert_allclose(grads.inference["log_prior_scale"][part], expected, rtol=1e-4)


@pytest.mark.parametrize("base", [None, vae(small_model(), small_encoder())])
def test_frozen_parts_get_no_gradient(base):
    def nonzero(tree) -> bool:
        return any(np.any(leaf) for leaf in jax.tree.leaves(tree))

    method = make(base=base)
    for one, base_moves, model_moves in (
        (method, True, True),
        (frozen(method, "model"), True, False),
        (frozen(method, "base"), False, False),
    ):
        grads = jax.jit(jax.grad(lambda p, m=one: m.loss(p, KEY, BATCH_X)[0]))(spread(method))
        assert nonzero(grads.inference["base"]) == base_moves
        assert nonzero(grads.model) == model_moves
        assert nonzero(grads.inference["mean"])
        assert nonzero(grads.inference["std"])


def test_uncertainty_scores():
    method = make(start_variance=0.1, white_noise=True)
    params = spread(method)
    q, info = method.posterior(params, KEY, BATCH_X)
    scores = uncertainty(info)
    np.testing.assert_allclose(scores.mean, np.asarray(q.mean_variance).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores.std, np.asarray(q.std_variance).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(scores.total, scores.mean + scores.std, rtol=1e-6)
    relative = uncertainty(info, relative=True)
    expected = (np.asarray(q.mean_variance) / np.square(info["base_std"])).sum(axis=1)
    np.testing.assert_allclose(relative.mean, expected, rtol=1e-5)
    noiseless, _ = make(start_variance=0.1).posterior(params, KEY, BATCH_X)
    assert (q.mean_variance > noiseless.mean_variance).all()
    assert (q.std_variance > noiseless.std_variance).all()


def test_as_gaussian_is_a_base_for_methods_of_gaussians():
    method = make(start_variance=0.1)
    params = spread(method)
    q, _ = method.posterior(params, KEY, BATCH_X)
    matched, _ = as_gaussian(method).posterior(params, KEY, BATCH_X)
    assert isinstance(matched, DiagonalGaussian)
    np.testing.assert_allclose(matched.variance, q.variance, rtol=1e-5)
    refined = compiled(savi(MODEL, ENCODER, base=as_gaussian(method), steps=1))
    loss, _ = refined.loss(refined.init(KEY, BATCH_X), KEY, BATCH_X)
    assert np.isfinite(loss)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_data": 0}, "num_data.*got 0"),
        ({"objective": "elbo"}, "Unknown objective 'elbo'.*expected, marginal"),
        ({"weight_posterior": "fulll"}, "did you mean 'full'"),
        ({"weight_posterior": "low_rank", "rank": 0}, "rank must be at least 1, got 0"),
        ({"start_variance": 0.0}, "start_variance must be above 0"),
        ({"prior_scale": -1.0}, "prior_scale must be above 0"),
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"quadrature": 1}, "quadrature must be at least 2, got 1"),
        ({"features": -1}, "features must be at least 0, got -1"),
        ({"feature_network": mlp((2, 2, 1), (3,))}, "feature network takes examples of shape"),
        ({"feature_network": mlp(DATA_SHAPE, (3,), (2, 2))}, "a vector"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_base_without_gaussian_posterior_is_refused():
    method = make(base=make())
    with pytest.raises(ValueError, match=r"a DiagonalGaussian, but this one's is a GaussianScaleMixture"):
        method.posterior(method.init(KEY, BATCH_X), KEY, BATCH_X)


def test_held_out_examples_are_another_array():
    """The frozen method's q(W, U) is fitted by the same loss to whatever it is given, samples of the decoder too."""
    method = frozen(make(num_data=50), "base")
    params = method.init(KEY, BATCH_X)
    _, x = small_model().sample(params.model, jax.random.key(1), 50)
    gradient = jax.jit(jax.grad(lambda p: method.loss(p, KEY, x)[0]))
    new = jax.tree.map(partial(jnp.subtract), params, jax.tree.map(lambda g: 0.01 * g, gradient(params)))
    assert_close((new.model, new.inference["base"]), (params.model, params.inference["base"]), 0.0)
    assert method.loss(new, KEY, x)[0] < method.loss(params, KEY, x)[0]
