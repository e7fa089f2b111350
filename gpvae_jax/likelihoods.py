"""Observation models p_θ(x|z): normalised log-densities of one example given the decoder's output for it.

Data enter as floats in [0, 1] (grey level k of L levels is k / (L − 1)); the decoder's output has the data's shape, and
may have another, O, for a likelihood of one's own. Every function here treats a single example; callers `vmap` over
samples and batch. Those below sum over pixels as over one vector: XLA:CPU takes some 60 times as long over several
short axes as over one long one. Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

MIN_VARIANCE = 1e-6  # of the Gaussian at initialisation, so that constant data start finite


class Likelihood(NamedTuple):
    """p(x|output) of one example.

    `init(x[N, *D])` returns the likelihood's own parameters, a dict; `check(x)` runs on the host and raises
    ValueError where data lie outside the support. `isotropic`: log p is linear in ‖x − output‖², by
    a factor that the shape of x does not change.
    """

    name: str
    init: Callable[[Array], PyTree]
    log_prob: Callable[[PyTree, Array, Array], Array]  # (params, output[*O], x[*D]) -> scalar, nats
    mean: Callable[[PyTree, Array], Array]  # (params, output[*O]) -> E[x] [*D]
    sample: Callable[[PyTree, PRNGKeyArray, Array], Array]  # (params, key, output[*O]) -> x[*D]
    check: Callable[[np.ndarray], None]
    isotropic: bool = False


def bernoulli() -> Likelihood:
    """Bernoulli pixels, the output being the logits l: log p = Σ x l − log(1 + eˡ) (eq. 1.2).

    Grey values between 0 and 1 are accepted; the result is then a cross-entropy, not a normalised density.
    """

    def log_prob(params: PyTree, output: Float[Array, "*D"], x: Float[Array, "*D"]) -> Float[Array, ""]:
        x, output = x.ravel(), output.ravel()
        # log(1 + eˡ) = max(l, 0) + log(1 + e^−|l|): finite for every finite l, and one exp and one log a pixel
        return jnp.sum(x * output - jnp.maximum(output, 0) - jnp.log1p(jnp.exp(-jnp.abs(output))))

    def mean(params: PyTree, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        return jax.nn.sigmoid(output)

    def sample(params: PyTree, key: PRNGKeyArray, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        return jax.random.bernoulli(key, jax.nn.sigmoid(output)).astype(output.dtype)

    return Likelihood("bernoulli", lambda x: {}, log_prob, mean, sample, _check_unit_interval("bernoulli"))


def gaussian() -> Likelihood:
    """Gaussian pixels N(output, v) with one learned scalar log v, started at the data's variance (eq. 1.3, paper)."""

    def init(x: Float[Array, "N *D"]) -> PyTree:
        return {"log_variance": jnp.log(jnp.maximum(jnp.var(x), MIN_VARIANCE))}

    def log_prob(params: PyTree, output: Float[Array, "*D"], x: Float[Array, "*D"]) -> Float[Array, ""]:
        log_variance = params["log_variance"]
        # scaled before it is squared: 0 · ∞ is no number, and a variance too small for its inverse may come to be
        squared = jnp.sum(jnp.square((x.ravel() - output.ravel()) * jnp.exp(-0.5 * log_variance)))
        return -0.5 * (squared + x.size * (log_variance + math.log(2 * math.pi)))

    def mean(params: PyTree, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        return output

    def sample(params: PyTree, key: PRNGKeyArray, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        std = jnp.exp(0.5 * params["log_variance"])
        return output + std * jax.random.normal(key, output.shape, output.dtype)

    return Likelihood("gaussian", init, log_prob, mean, sample, _check_finite, isotropic=True)


def discretized_logistic(levels: int = 256) -> Likelihood:
    """Integer grey levels under a logistic density integrated over each level's bin, one learned scalar log-scale.

    With u = (x − output ± ½ bin) / s, p = σ(u₊) − σ(u₋) = σ(u₊) σ(−u₋) (1 − e^{u₋−u₊}) (eq. 1.4, derived: exact,
    and each factor has a stable logarithm); the lowest and highest level take the whole tail. Kingma et al. (2016).
    """
    if levels < 2:
        raise ValueError(f"discretized_logistic needs at least 2 grey levels, got {levels}.")
    bin_width = 1.0 / (levels - 1)

    def init(x: Float[Array, "N *D"]) -> PyTree:
        # the logistic's standard deviation is π s / √3: start it at the data's
        std = jnp.sqrt(jnp.maximum(jnp.var(x), MIN_VARIANCE))
        return {"log_scale": jnp.log(std * math.sqrt(3.0) / math.pi)}

    def log_prob(params: PyTree, output: Float[Array, "*D"], x: Float[Array, "*D"]) -> Float[Array, ""]:
        x, output = x.ravel(), output.ravel()
        inverse_scale = jnp.exp(-params["log_scale"])
        upper = (x - output + 0.5 * bin_width) * inverse_scale
        lower = (x - output - 0.5 * bin_width) * inverse_scale
        lowest, highest = x < 0.5 * bin_width, x > 1.0 - 0.5 * bin_width
        log_width = jnp.log(-jnp.expm1(-bin_width * inverse_scale))
        below_upper = jnp.where(highest, jnp.zeros_like(x), jax.nn.log_sigmoid(upper))
        above_lower = jnp.where(lowest, jnp.zeros_like(x), jax.nn.log_sigmoid(-lower))
        inside = jnp.where(lowest | highest, jnp.zeros_like(x), jnp.broadcast_to(log_width, x.shape))
        return jnp.sum(below_upper + above_lower + inside)

    def mean(params: PyTree, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        # E[clip(x, 0, 1)] = ∫₀¹ P(x > t) dt; the sum over levels is its midpoint rule (eq. 1.5, derived)
        scale = jnp.exp(params["log_scale"])
        return scale * (jax.nn.softplus(output / scale) - jax.nn.softplus((output - 1.0) / scale))

    def sample(params: PyTree, key: PRNGKeyArray, output: Float[Array, "*D"]) -> Float[Array, "*D"]:
        noise = jax.random.logistic(key, output.shape, output.dtype)
        x = output + jnp.exp(params["log_scale"]) * noise
        return jnp.clip(jnp.round(x * (levels - 1)), 0, levels - 1) / (levels - 1)

    def check(x: np.ndarray) -> None:
        _check_unit_interval("discretized_logistic")(x)
        distance = np.abs(x * (levels - 1) - np.round(x * (levels - 1))).max()
        if distance > 1e-3:
            raise ValueError(
                f"The discretized_logistic likelihood expects grey levels k/{levels - 1}, but a value lies "
                f"{distance:.3g} levels off the grid; give integer images or choose the gaussian likelihood."
            )

    return Likelihood("discretized_logistic", init, log_prob, mean, sample, check)


def bits_per_dim(log_prob: np.ndarray, data_shape: tuple[int, ...]) -> np.ndarray:
    """Nats of discrete data to bits per dimension: −log p / (D ln 2)."""
    return -log_prob / (math.prod(data_shape) * math.log(2.0))


def _check_finite(x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        raise ValueError("The data hold NaN or infinite values; remove or repair those examples first.")


def _check_unit_interval(name: str) -> Callable[[np.ndarray], None]:
    def check(x: np.ndarray) -> None:
        _check_finite(x)
        low, high = float(x.min()), float(x.max())
        if low < 0.0 or high > 1.0:
            raise ValueError(
                f"The {name} likelihood expects data in [0, 1], got values from {low:.4g} to {high:.4g}; "
                "rescale the data or choose the gaussian likelihood."
            )

    return check


LIKELIHOODS: dict[str, Callable[..., Likelihood]] = {
    "bernoulli": bernoulli,
    "gaussian": gaussian,
    "discretized_logistic": discretized_logistic,
}
