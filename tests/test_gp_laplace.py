"""The closed-form weight posterior against numpy in float64, planted errors and planted white noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gpvae_jax.gp.laplace import find_optima, laplace, optima, regress_with_noise
from gpvae_jax.gp.regression import regress
from gpvae_jax.gp.weights import full, white_noise
from gpvae_jax.methods.gpvae import gpvae
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Network, Params
from tests.exact import LinearGaussian, latent_model

N, F, Z = 60, 6, 2


def planted(seed: int, count: int = N):
    """ψ[N, F], targets[N, Z], precisions[N, Z] and the weights[Z, F] that made the targets."""
    rng = np.random.default_rng(seed)
    psi, weights = rng.normal(size=(count, F)), rng.normal(size=(Z, F))
    precision = np.exp(rng.normal(size=(count, Z)))
    target = psi @ weights.T + rng.normal(size=(count, Z)) / np.sqrt(precision)
    return psi, target, precision, weights


def ridge(psi, target, precision, prior_scale):
    """Mean and covariance of the weights by the normal equations, in float64."""
    gram = (psi * precision[:, None]).T @ psi + np.eye(psi.shape[1]) / prior_scale**2
    return np.linalg.solve(gram, (psi * precision[:, None]).T @ target), np.linalg.inv(gram)


def float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


@pytest.mark.parametrize("chunk_size", [7, 60, 1000])
def test_regression_is_weighted_ridge_regression(chunk_size):
    psi, target, precision, _ = planted(0)
    fit = jax.jit(lambda *a: regress(*a, 0.7, chunk_size=chunk_size))(*float32(psi, target, precision))
    unit = jnp.eye(F, dtype=jnp.float32)
    for j in range(Z):
        mean, covariance = ridge(psi, target[:, j], precision[:, j], 0.7)
        np.testing.assert_allclose(fit.weights["mean"][j], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(full().variance(fit.weights, unit)[:, j], np.diagonal(covariance), rtol=1e-4)
        factor = np.tril(fit.weights["lower"][j], -1) + np.diag(np.exp(fit.weights["log_diagonal"][j]))
        np.testing.assert_allclose(factor @ factor.T, covariance, rtol=1e-3, atol=1e-6)
        marginal = stats.multivariate_normal(
            np.zeros(N), 0.7**2 * psi @ psi.T + np.diag(1 / precision[:, j]), allow_singular=False
        )
        np.testing.assert_allclose(fit.log_evidence[j], marginal.logpdf(target[:, j]), rtol=1e-4)


def test_regression_in_float32_where_the_normal_equations_fail():
    """Nearly collinear features and 20,000 precise examples: PᵀP's condition number is far beyond float32."""
    rng = np.random.default_rng(1)
    psi = rng.normal(size=(20_000, 1)) + 1e-3 * rng.normal(size=(20_000, 8))
    psi[:, 3] = 0.0  # a dead unit keeps its prior
    precision = np.full((20_000, 1), 1e3)
    target = psi @ np.arange(8.0)[:, None] + rng.normal(size=(20_000, 1)) / np.sqrt(1e3)
    psi, target, precision = (a.astype(np.float32).astype(np.float64) for a in (psi, target, precision))
    mean, covariance = ridge(psi, target[:, 0], precision[:, 0], 1.0)
    assert np.linalg.cond(covariance) > 1e7
    fit = regress(*float32(psi, target, precision), 1.0)
    spread = np.sqrt(np.diagonal(covariance))
    assert (np.abs(fit.weights["mean"][0] - mean) < 0.1 * spread).all()  # well within the posterior itself
    variance = full().variance(fit.weights, jnp.eye(8, dtype=jnp.float32))[:, 0]
    np.testing.assert_allclose(variance, np.diagonal(covariance), rtol=0.02)


def test_white_noise_is_recovered_by_marginal_likelihood():
    """Residuals planted with log v affine in ψ; evidence rises, and without noise to find little is found."""
    psi, _, precision, weights = planted(2, 4000)
    psi = psi / np.sqrt(F)
    rng = np.random.default_rng(3)
    log_v = np.array([-1.0, 0.5]) + psi @ np.array([[1.0, 0, 0, -1.0, 0, 0], [0, 2.0, 0, 0, 0, 0]]).T
    clean = psi @ weights.T + rng.normal(size=(4000, Z)) / np.sqrt(10 * precision)
    noisy = clean + np.exp(0.5 * log_v) * rng.normal(size=(4000, Z))
    run = jax.jit(lambda r, p: regress_with_noise(*float32(psi), r, p, 1.0, rounds=8, steps=100))
    fit, noise = run(*float32(noisy, 10 * precision))
    error = np.log(white_noise(noise, *float32(psi))) - log_v
    assert np.sqrt(np.mean(np.square(error))) < 0.15  # log v has a spread of 0.6 and 0.8
    np.testing.assert_allclose(fit.weights["mean"], weights, atol=0.35)
    plain = regress(*float32(psi, noisy, 10 * precision), 1.0)
    constant = regress(*float32(psi, noisy, 1 / (0.1 / precision + np.exp(log_v).mean(0))), 1.0)
    assert (fit.log_evidence > plain.log_evidence + 100).all()
    assert (fit.log_evidence > constant.log_evidence + 10).all()
    _, none = run(*float32(clean, 10 * precision))
    assert np.median(white_noise(none, *float32(psi))) < 0.02  # planted ones are near 0.4 and 1.6


def orthogonal_model() -> LinearGaussian:
    """A linear-Gaussian model whose posterior is a diagonal Gaussian: the optimum is known, and is in the family."""
    rng = np.random.default_rng(4)
    basis, _ = np.linalg.qr(rng.normal(size=(5, Z)))
    return LinearGaussian(basis * np.array([2.0, 0.7]), rng.normal(size=5), 0.5)


def wrong_encoder(exact: LinearGaussian, error: np.ndarray, std_error: float) -> InferenceMethod:
    """An encoder without parameters: the exact posterior's mean + x errorᵀ, and its standard deviation + std_error."""
    gain = exact.posterior(np.eye(5) + exact.bias)[0]
    std = np.sqrt(np.diagonal(exact.posterior(np.zeros((1, 5)))[1])) + std_error
    gain, error, bias, log_std = float32(gain, error, exact.bias, np.log(std))

    def posterior(params, key, x):
        mean = (x - bias[None]) @ gain + x @ error.T
        return DiagonalGaussian(mean, jnp.broadcast_to(log_std[None], mean.shape)), {}

    model = latent_model(exact)
    return InferenceMethod(lambda key, x: Params(model.init(key, x), {}), posterior, lambda *a, **k: None)


def identity_features() -> Network:
    return Network(lambda key: {}, lambda params, x: x, (5,), (5,))


def test_optima_and_their_curvature():
    """On the linear-Gaussian model: the optimum is the posterior, λ and γ are the ELBO's second derivatives."""
    exact = orthogonal_model()
    x = exact.data(0, 8)
    mean, covariance = exact.posterior(x)
    start = DiagonalGaussian(*float32(mean + 0.5, np.zeros_like(mean)))
    model = latent_model(exact)
    found = jax.jit(lambda q, x: find_optima(model, exact.theta(), jax.random.key(0), x, q))(start, *float32(x))
    std = np.sqrt(np.diagonal(covariance))
    np.testing.assert_allclose(found.mean, mean, atol=0.03)
    np.testing.assert_allclose(found.std, np.broadcast_to(std, mean.shape), rtol=0.03)
    gains = np.square(exact.weights).sum(axis=0) / exact.variance

    def elbo(mu, sigma):  # of one latent, up to a constant
        return -0.5 * (1 + gains) * (jnp.square(mu) + jnp.square(sigma)) + jnp.log(sigma)

    exactly = optima(DiagonalGaussian(*float32(mean, np.broadcast_to(np.log(std), mean.shape))))
    for j in range(Z):
        at = [jnp.float32(0), jnp.float32(std[j])]
        curvature = [-jax.hessian(lambda *a, j=j: elbo(*a)[j], argnums=(0, 1))(*at)[i][i] for i in (0, 1)]
        np.testing.assert_allclose(exactly.mean_precision[:, j], curvature[0], rtol=1e-4)
        np.testing.assert_allclose(exactly.std_precision[:, j], curvature[1], rtol=1e-4)


def test_a_planted_error_of_the_encoder_is_recovered_and_corrected():
    exact, rng = orthogonal_model(), np.random.default_rng(5)
    error, std_error = 0.3 * rng.normal(size=(Z, 5)), 0.2
    model, base = latent_model(exact), wrong_encoder(exact, error, std_error)
    method = gpvae(
        model,
        identity_features(),
        base=base,
        num_data=400,
        weight_posterior="full",
        feature_network=identity_features(),
    )
    x, new = (exact.data(seed, 400) for seed in (6, 7))
    x32, new32 = float32(x, new)
    params = method.init(jax.random.key(0), x32)
    _, info = method.posterior(params, jax.random.key(0), x32)
    mean, covariance = exact.posterior(x)
    std = np.broadcast_to(np.sqrt(np.diagonal(covariance)), mean.shape)
    found = optima(DiagonalGaussian(*float32(mean, np.log(std))))
    fitted = laplace(params, info, found, prior_scale=10.0)
    np.testing.assert_allclose(fitted.params.inference["mean"]["mean"], -error * np.sqrt(5), atol=2e-3)
    q, new_info = method.posterior(fitted.params, jax.random.key(0), new32)
    truth = exact.posterior(new)[0]
    np.testing.assert_allclose(q.mean, truth, atol=5e-3)
    assert np.abs(np.asarray(new_info["base_mean"]) - truth).mean() > 0.2
    # the weights' covariance is the linear model's, whatever the residuals
    covariance_of_first = ridge(x / np.sqrt(5), mean[:, 0], np.asarray(found.mean_precision)[:, 0], 10.0)[1]
    expected = np.einsum("bf,fg,bg->b", new / np.sqrt(5), covariance_of_first, new / np.sqrt(5))
    np.testing.assert_allclose(new_info["mean_variance"][:, 0], expected, rtol=1e-3)
    assert np.isfinite(fitted.mean_log_evidence).all()
    assert np.isfinite(fitted.std_log_evidence).all()


def test_white_noise_enters_the_method():
    exact = orthogonal_model()
    model, features = latent_model(exact), identity_features()
    base = wrong_encoder(exact, np.zeros((Z, 5)), 0.0)
    settings = {"num_data": 500, "weight_posterior": "full", "feature_network": features}
    method = gpvae(model, features, base=base, white_noise=True, **settings)
    (x,) = float32(exact.data(8, 500))
    params = method.init(jax.random.key(0), x)
    _, info = method.posterior(params, jax.random.key(0), x)
    noise = 0.5 * np.random.default_rng(9).normal(size=(500, Z))
    found = optima(DiagonalGaussian(info["base_mean"] + noise.astype(np.float32), jnp.log(info["base_std"])))
    fitted = laplace(params, info, found).params
    _, new = method.posterior(fitted, jax.random.key(0), x)
    plain = laplace(gpvae(model, features, base=base, **settings).init(jax.random.key(0), x), info, found).params
    _, without = gpvae(model, features, base=base, **settings).posterior(plain, jax.random.key(0), x)
    # planted: variance 0.25, of which the curvature explains 1/λ
    expected = 0.25 - 1 / np.asarray(found.mean_precision[0])
    np.testing.assert_allclose(np.median(new["mean_variance"], axis=0), np.maximum(expected, 0), atol=0.04)
    assert (np.median(new["std_variance"], axis=0) < 1e-2).all()
    assert (np.median(without["mean_variance"], axis=0) < 0.01).all()


def test_needs_the_full_weight_posterior():
    exact = orthogonal_model()
    base = wrong_encoder(exact, np.zeros((Z, 5)), 0.0)
    method = gpvae(latent_model(exact), identity_features(), base=base, num_data=10)
    (x,) = float32(exact.data(8, 10))
    params = method.init(jax.random.key(0), x)
    q, info = method.posterior(params, jax.random.key(0), x)
    with pytest.raises(ValueError, match='weight_posterior="full"'):
        laplace(params, info, optima(q.moment_matched()))


def test_few_examples_and_many_features_do_not_make_white_noise_run_away():
    """60 residuals of constant variance, 40 features: on new examples v stays near that variance."""
    rng = np.random.default_rng(10)
    psi, new = (rng.normal(size=(n, 40)) / np.sqrt(40) for n in (60, 200))
    residual, precision = rng.normal(size=(60, Z)), np.full((60, Z), 1e3)
    _, noise = regress_with_noise(*float32(psi, residual, precision), 0.1)
    v = np.asarray(white_noise(noise, *float32(new)))
    assert (np.quantile(v, 0.95, axis=0) < 4).all()  # planted: 1; without a prior over its weights above 50
    assert (np.quantile(v, 0.05, axis=0) > 0.1).all()
