"""Scores of an example that may say how hard inference is there, or whether it belongs to the data at all."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gpvae_jax.gp.errors import uncertainty
from gpvae_jax.types import InferenceMethod, LatentModel, Params


def example_scores(
    method: InferenceMethod, model: LatentModel, params: Params, x: Float[Array, "B *D"]
) -> dict[str, np.ndarray]:
    """Arrays [B]: the squared reconstruction error, the posterior's variance, and of a GPVAE its uncertainty.

    The reconstruction is that of one draw of z. The GP's scores are `gp.errors.Uncertainty`, plain and relative.
    """

    @jax.jit
    def compute(params: Params, x: Array) -> dict[str, Array]:
        key_posterior, key_z = jax.random.split(jax.random.key(0))
        q, info = method.posterior(params, key_posterior, x)
        z, _ = q.sample_and_log_prob(key_z, 1)
        mean = model.mean(params.model, z[0])
        scores = {"reconstruction_error": jnp.sum(jnp.square(x - mean).reshape(len(x), -1), axis=1)}
        if hasattr(q, "variance"):
            scores["posterior_variance"] = jnp.sum(q.variance, axis=1)
        if "mean_variance" in info:
            for prefix, relative in (("gp", False), ("gp_relative", True)):
                found = uncertainty(info, relative=relative)
                scores |= {f"{prefix}_{name}": getattr(found, name) for name in found._fields}
        return scores

    return {name: np.asarray(score, np.float64) for name, score in compute(params, x).items()}
