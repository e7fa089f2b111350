"""A model whose evidence and posterior are known exactly: p(z) = N(0, I), p(x|z) = N(W z + b, v I).

Closed forms are numpy float64, independent of the library: p(x) = N(b, W Wᵀ + v I) and
p(z|x) = N(Σ Wᵀ(x − b)/v, Σ) with Σ = (I + WᵀW/v)⁻¹.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from gpvae_jax.posteriors import DiagonalGaussian, standard_normal_log_prob, standard_normal_prior
from gpvae_jax.types import LatentModel

LOG_2PI = math.log(2 * math.pi)


class FullGaussian(NamedTuple):
    """q(z|x_b) = N(mean_b, L_b L_bᵀ)."""

    mean: Any  # [B, Z]
    cholesky: Any  # L[B, Z, Z]

    def sample_and_log_prob(self, key, num_samples):
        noise = jax.random.normal(key, (num_samples, *self.mean.shape), self.mean.dtype)
        return self.mean[None] + jnp.einsum("bij,sbj->sbi", self.cholesky, noise), self._density(noise)

    def log_prob(self, z):
        solve = jax.vmap(partial(jax.scipy.linalg.solve_triangular, lower=True))  # over the batch
        return self._density(jax.vmap(solve, (None, 0))(self.cholesky, z - self.mean[None]))

    def _density(self, noise):
        diagonal = jnp.diagonal(self.cholesky, axis1=-2, axis2=-1)
        return standard_normal_log_prob(noise) - jnp.sum(jnp.log(diagonal), axis=-1)[None]


class LinearGaussian(NamedTuple):
    """The constants of the model as numpy float64, its closed forms, and θ for the library."""

    weights: np.ndarray  # W[D, Z]
    bias: np.ndarray  # b[D]
    variance: float  # v

    def theta(self, dtype: Any = np.float32) -> dict[str, Any]:
        """θ as arrays of `dtype`."""
        values = {"weights": self.weights, "bias": self.bias, "variance": np.asarray(self.variance)}
        return {name: jnp.asarray(value, dtype) for name, value in values.items()}

    def data(self, seed: int, count: int) -> np.ndarray:
        """x[count, D] drawn from the model."""
        rng = np.random.default_rng(seed)
        z = rng.standard_normal((count, self.weights.shape[1]))
        noise = math.sqrt(self.variance) * rng.standard_normal((count, len(self.bias)))
        return z @ self.weights.T + self.bias + noise

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """log p(x)[B]."""
        covariance = self.weights @ self.weights.T + self.variance * np.eye(len(self.bias))
        return stats.multivariate_normal(self.bias, covariance).logpdf(x)

    def posterior(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean[B, Z] and covariance[Z, Z] of p(z|x)."""
        latents = self.weights.shape[1]
        covariance = np.linalg.inv(np.eye(latents) + self.weights.T @ self.weights / self.variance)
        return (x - self.bias) @ self.weights @ covariance.T / self.variance, covariance

    def exact_posterior(self, x: np.ndarray, dtype: Any = np.float32) -> FullGaussian:
        """p(z|x) as a `Posterior`."""
        mean, covariance = self.posterior(x)
        cholesky = np.broadcast_to(np.linalg.cholesky(covariance), (len(x), *covariance.shape))
        return FullGaussian(jnp.asarray(mean, dtype), jnp.asarray(cholesky, dtype))

    def diagonal_posterior(self, x: np.ndarray, dtype: Any = np.float32) -> DiagonalGaussian:
        """The exact posterior's mean and marginal variances, without its correlations."""
        mean, covariance = self.posterior(x)
        log_std = np.broadcast_to(0.5 * np.log(np.diagonal(covariance)), mean.shape)
        return DiagonalGaussian(jnp.asarray(mean, dtype), jnp.asarray(log_std, dtype))

    def diagonal_gap(self) -> float:
        """KL of that diagonal Gaussian S to p(z|x), whatever x: ½ (tr Σ⁻¹S − Z + log |Σ| − log |S|)."""
        _, covariance = self.posterior(np.zeros((1, len(self.bias))))
        diagonal = np.diagonal(covariance)
        excess = (np.diagonal(np.linalg.inv(covariance)) * diagonal).sum() - len(diagonal)
        return 0.5 * (excess + np.linalg.slogdet(covariance)[1] - np.log(diagonal).sum())


def random_model(data_dim: int = 5, latent_dim: int = 3, variance: float = 1.0) -> LinearGaussian:
    """Random weights: a correlated posterior, whose diagonal still gives weights of finite variance."""
    rng = np.random.default_rng(0)
    weights = 0.7 * rng.standard_normal((data_dim, latent_dim))
    return LinearGaussian(weights, rng.standard_normal(data_dim), variance)


def latent_model(exact: LinearGaussian) -> LatentModel:
    """The same model as the library sees it; θ = {"weights", "bias", "variance"}."""
    data_dim, latent_dim = exact.weights.shape

    def mean(theta, z):
        return z @ theta["weights"].T + theta["bias"][None]

    def log_likelihood(theta, x, z):
        output = mean(theta, z.reshape(-1, latent_dim)).reshape(*z.shape[:-1], data_dim)
        squared = jnp.sum(jnp.square(x[None] - output), axis=-1) / theta["variance"]
        return -0.5 * (squared + data_dim * (jnp.log(theta["variance"]) + LOG_2PI))

    def sample(theta, key, num_samples):
        key_z, key_x = jax.random.split(key)
        z = jax.random.normal(key_z, (num_samples, latent_dim), theta["bias"].dtype)
        noise = jax.random.normal(key_x, (num_samples, data_dim), z.dtype)
        return z, mean(theta, z) + jnp.sqrt(theta["variance"]) * noise

    return LatentModel(
        init=lambda key, x: exact.theta(x.dtype),
        log_prior=standard_normal_prior,
        log_likelihood=log_likelihood,
        sample=sample,
        mean=mean,
        data_shape=(data_dim,),
        latent_dim=latent_dim,
    )
