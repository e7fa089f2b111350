"""A run's posterior over the true one, example by example, as panels to draw."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from gpvae_jax.evaluate.gaps import LEARNING_RATE, moments
from gpvae_jax.evaluate.grid import grid_posterior, grid_slice, kl_to_posterior, most_divergent
from gpvae_jax.gaussians.per_example import optimize
from gpvae_jax.plots.posterior import Gaussian, Panel
from gpvae_jax.types import InferenceMethod, LatentModel, Params

SAMPLES = 300


def posterior_panels_of(
    method: InferenceMethod, model: LatentModel, params: Params, x: Float[Array, "B *D"]
) -> list[Panel]:
    """One panel per example: the true posterior's contours, the method's samples and moments, and the image.

    Two latents: all of p(z|x), with KL from a diagonal Gaussian of the method's moments in the title. More: the plane
    of the two coordinates in which those moments and the example's best diagonal Gaussian (SVI) differ most, through
    that Gaussian's mean; the samples are projected onto it. Raises ValueError on a model with one latent.
    """
    if model.latent_dim < 2:
        raise ValueError(f"A picture of posteriors needs at least 2 latents, got {model.latent_dim}.")
    key_q, key_z, key_search = jax.random.split(jax.random.key(0), 3)
    own = jax.jit(lambda p, x: moments(method, p, key_q, x))(params, x)
    best = jax.jit(lambda p, x: optimize(model, p.model, x, own, key_search, optax.adam(LEARNING_RATE)))(params, x)
    target = best.posterior
    if model.latent_dim == 2:
        pairs = np.broadcast_to(np.arange(2), (len(x), 2))
        grid = grid_posterior(model, params.model, x)
        errors = kl_to_posterior(model, params.model, x, own, grid.log_evidence)
        titles = [f"KL(q ‖ p) {kl:.2f} nats" for kl in errors]
    else:
        pairs = most_divergent(*map(np.asarray, (own.mean, own.std, target.mean, target.std)))
        grid = grid_slice(model, params.model, x, np.asarray(target.mean), pairs)
        titles = [f"example {b + 1}" for b in range(len(x))]
    q, _ = jax.jit(method.posterior)(params, key_q, x)
    z, _ = q.sample_and_log_prob(key_z, SAMPLES)
    rebuilt = np.asarray(model.mean(params.model, jnp.asarray(own.mean)))

    def gaussian(label: str, of: object, b: int) -> Gaussian:
        mean, std = (np.asarray(getattr(of, part))[b][pairs[b]] for part in ("mean", "std"))
        return Gaussian(label, mean, std)

    has_picture = len(model.data_shape) == 3 and model.data_shape[-1] in (1, 3)
    return [
        Panel(
            title=titles[b],
            first=grid.first[b],
            second=grid.second[b],
            log_density=grid.log_density[b],
            gaussians=[
                gaussian("moments of q, 1 σ (dashed: 2 σ)", own, b),
                gaussian("best diagonal Gaussian", target, b),
            ],
            samples=np.asarray(z[:, b])[:, pairs[b]],
            images=[("input", np.asarray(x[b])), ("rebuilt", rebuilt[b])] if has_picture else [],
            coordinates=(int(pairs[b][0]), int(pairs[b][1])),
        )
        for b in range(len(x))
    ]
