"""Householder flow (Tomczak & Welling 2016): an amortized diagonal Gaussian turned by T reflections.

Equations: docs/mathematics.md.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_at_least
from gpvae_jax.flows.posteriors import HouseholderPosterior, stacked
from gpvae_jax.keys import FLOW_KEY
from gpvae_jax.methods.vae import vae
from gpvae_jax.networks import linear
from gpvae_jax.objectives import analytic_objective
from gpvae_jax.posteriors import diagonal_gaussian
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params


def householder(model: LatentModel, encoder: Network, *, steps: int = 4, num_samples: int = 1) -> InferenceMethod:
    """v_1 = Dense(h(x)), v_t = Dense(v_{t−1}), z ← z − 2 v_t (v_tᵀz)/|v_t|²; log-determinant 0 (eq. 4.3, paper).

    The posterior is a Gaussian whose covariance is the base's, rotated, and its KL to N(0, I) is the base's, which
    the loss takes in closed form. steps: T; 0 is the vae. num_samples: draws of z for the loss.
    φ is that of `vae`, {"encoder", "head"}, and "first" and "next", the Dense layers. Raises ValueError on a setting
    out of range.
    """
    check_at_least(0, steps=steps)
    check_at_least(1, num_samples=num_samples)
    amortized = vae(model, encoder)
    head = linear(encoder.out_shape[-1], 2 * model.latent_dim)
    first = linear(encoder.out_shape[-1], model.latent_dim)
    following = linear(model.latent_dim, model.latent_dim)

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = amortized.init(key, x)
        key_first, key_next = jax.random.split(jax.random.fold_in(key, FLOW_KEY))
        layers = {
            "first": stacked(first.init, key_first, min(steps, 1)),
            "next": stacked(following.init, key_next, max(steps - 1, 0)),
        }
        return Params(params.model, params.inference | layers)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[HouseholderPosterior, Info]:
        phi = params.inference
        features = encoder.apply(phi["encoder"], x)
        start = diagonal_gaussian(head.apply(phi["head"], features))
        if steps == 0:
            return HouseholderPosterior(start, jnp.zeros_like(start.mean)[:, None][:, :0]), {}
        vectors = [first.apply(jax.tree.map(lambda leaf: leaf[0], phi["first"]), features)]
        for t in range(steps - 1):
            layer = jax.tree.map(lambda leaf, t=t: leaf[t], phi["next"])
            vectors.append(following.apply(layer, vectors[-1]))
        return HouseholderPosterior(start, jnp.stack(vectors, axis=1)), {}

    return InferenceMethod(init, posterior, analytic_objective(model, posterior, num_samples))
