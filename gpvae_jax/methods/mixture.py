"""The end-to-end mixture of encoders: the recursion's posterior with everything trained at once on L(Q).

Equations: docs/mathematics.md.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_at_least
from gpvae_jax.keys import beyond_base
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.bounds import all_to_all, component_metrics, some_to_all
from gpvae_jax.mixtures.components import components
from gpvae_jax.mixtures.mixing import logits
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.naming import unknown
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Metrics, Network, Params

ESTIMATORS = ("all_to_all", "some_to_all")
WEIGHTS = ("uniform", "amortized", "constant")


def mixture(
    model: LatentModel,
    encoder: Network,
    *,
    num_components: int = 3,
    weights: str = "uniform",
    estimator: str = "all_to_all",
    num_drawn: int = 2,
    shared_trunk: bool = False,
    num_samples: int = 1,
    evaluate_components: str = "auto",
    base: InferenceMethod | None = None,
) -> InferenceMethod:
    """Q = Σ_m α_m(x) q_m trained end to end on L(Q) (eq. 5.10, paper), components, weights and θ at once.

    weights: "uniform", α = 1/M, the multiple-importance-sampling bound (Kviman et al. 2022); "amortized", the
    softmax of a small network of x, or "constant", the same for every x; both learned, and uniform at first.
    estimator: "all_to_all", every component is sampled; "some_to_all", `num_drawn` of M per example and step, at
    that fraction of the decoder's cost (eq. 5.11, paper). num_samples: draws of z per sampled component.
    shared_trunk, evaluate_components, base: as for `recmix`. φ = {"components": base's φ stacked, "weights": …}.
    Raises ValueError on unknown names, and where more components are to be drawn than there are.
    """
    _check(num_components, num_samples, weights, estimator, num_drawn)
    parts = components(base or vae(model, encoder), shared_trunk=shared_trunk, how=evaluate_components)
    learned = None if weights == "uniform" else logits(weights, model.data_shape)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = parts.init(key, x, num_components)
        start = {} if learned is None else learned.init(beyond_base(key, 0), num_components * [0.0])
        return Params(params.model, {"components": params.inference, "weights": start})

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[GaussianMixture, Info]:
        phi = params.inference
        q = parts.posterior(params.model, phi["components"], key, x)
        if learned is None:
            log_alpha = jnp.full((x.shape[0], q.mean.shape[0]), -math.log(q.mean.shape[0]), q.mean.dtype)
        else:
            log_alpha = jax.nn.log_softmax(learned.apply(phi["weights"], x), axis=-1)
        return GaussianMixture(q.mean, q.log_std, log_alpha), {"alpha": jnp.exp(log_alpha)}

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_posterior, key_z = jax.random.split(key)
        q, _ = posterior(params, key_posterior, x)
        if estimator == "all_to_all":
            z = q.strata(q.noise(key_z, num_samples))
            bound, metrics = all_to_all(model, params.model, q, z, x, beta)
        else:
            bound, metrics = some_to_all(
                model, params.model, q, key_z, x, beta, num_drawn=num_drawn, num_samples=num_samples
            )
        return -bound, metrics | component_metrics(q)

    return InferenceMethod(init, posterior, loss)


def _check(num_components: int, num_samples: int, weights: str, estimator: str, num_drawn: int) -> None:
    check_at_least(1, num_components=num_components, num_samples=num_samples)
    for kind, value, names in (("weights", weights, WEIGHTS), ("estimator", estimator, ESTIMATORS)):
        if value not in names:
            raise ValueError(unknown(kind, value, names))
    if estimator == "some_to_all" and not 1 <= num_drawn <= num_components:
        raise ValueError(
            f"num_drawn must lie between 1 and the number of components, {num_components}, got {num_drawn}."
        )
