"""Iterative amortized inference (Marino et al. 2018): a network that sees the gradient says where to go from there.

Marino et al. feed λ and ∇_λ L to a network that returns the next λ, from a start that knows nothing. Here the start is
the amortized one, and the network adjusts a Newton step (`newton`): how far to go along each latent's gradient, what
to add to it, and how to change the standard deviation, each as a function of the input's features *and* of the
gradient (derived). One gradient of log p(x, z) at the mean per step, no draws. Equations: docs/mathematics.md.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.checks import check_above, check_at_least
from gpvae_jax.gaussians.preconditioner import bounded
from gpvae_jax.gp.features import encode_with_features
from gpvae_jax.keys import beyond_base
from gpvae_jax.methods.vae import vae
from gpvae_jax.networks import mlp
from gpvae_jax.objectives import analytic_objective
from gpvae_jax.posteriors import LOG_STD_BOUND, DiagonalGaussian
from gpvae_jax.types import InferenceMethod, Info, LatentModel, Network, Params


def iterative(
    model: LatentModel,
    encoder: Network,
    *,
    base: InferenceMethod | None = None,
    steps: int = 1,
    width: int = 256,
    step_size: float = 0.5,
    largest_move: float = 1.0,
    remat: bool = False,
    num_samples: int = 1,
) -> InferenceMethod:
    """K steps μ ← μ + s (η e^a ⊙ u + b), log s ← log s + c, with u = s ⊙ ∇_z log p(x, z) at μ; trained through them
    (eq. 3.9, derived).

    a, b, c [B, Z] come from one hidden layer of `width` units over the base encoder's features, u on a logarithmic
    scale and the way come so far in units of s; the steps share it. At initialisation a, b and c are small, so that a
    step is about η s² ∇ log p. base: any method whose posterior is a `DiagonalGaussian`, `vae` by default; one given
    has an encoder of its own for the features. largest_move: of one step, root mean square over latents in the
    prior's standard deviations. remat: recompute each step in the backward pass. num_samples: draws for the loss.
    φ = {"base", "update", and "features" with a base given}. With steps = 0 it is the base.
    Cost per step: one decoder gradient and (F + 5 Z) width multiplications. Raises ValueError on a setting out of
    range.
    """
    check_at_least(0, steps=steps)
    check_at_least(1, width=width, num_samples=num_samples)
    check_above(0, step_size=step_size, largest_move=largest_move)
    latents = model.latent_dim
    encoding = encode_with_features(model, encoder, base, None, 0, own_features=False)
    network = mlp((encoding.width + 2 * latents,), (width,), (3, latents))
    start_base = vae(model, encoder) if base is None else base

    def init(key: PRNGKeyArray, x: Float[Array, "N *D"]) -> Params:
        params = start_base.init(key, x)
        key_update, key_features = jax.random.split(beyond_base(key, 0))
        update = network.init(key_update)
        phi: PyTree = {"base": params.inference, "update": update | {"out": _small(update["out"])}}
        if own := encoding.init(key_features):
            phi["features"] = own
        return Params(params.model, phi)

    def posterior(params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> tuple[DiagonalGaussian, Info]:
        q, base_info, psi = encoding.apply(params, key, x)
        psi = psi * math.sqrt(encoding.width)  # ψ comes scaled by 1/√F; a network wants the features themselves

        def log_joint(z: Float[Array, "B Z"]) -> Float[Array, ""]:
            value = model.log_likelihood(params.model, x, z[None]) + model.log_prior(params.model, z[None])
            return jnp.sum(value)

        def step(current: DiagonalGaussian) -> DiagonalGaussian:
            slope = current.std * jax.grad(log_joint)(current.mean)
            way = (current.mean - q.mean) / q.std
            out = network.apply(params.inference["update"], jnp.concatenate([psi, _symlog(slope), way], axis=-1))
            stretch, shift, widening = out[:, 0], out[:, 1], out[:, 2]
            stretch = jnp.clip(stretch, -2 * LOG_STD_BOUND, 2 * LOG_STD_BOUND)  # trained ones are nowhere near
            move = current.std * (step_size * jnp.exp(stretch) * slope + shift)
            log_std = jnp.clip(current.log_std + widening, -LOG_STD_BOUND, LOG_STD_BOUND)
            return DiagonalGaussian(current.mean + bounded(move, largest_move), log_std)

        step = jax.checkpoint(step) if remat else step
        current = q
        for _ in range(steps):
            current = step(current)
        return current, {"base": base_info, "base_mean": q.mean, "base_std": q.std}

    return InferenceMethod(init, posterior, analytic_objective(model, posterior, num_samples))


def _small(tree: PyTree) -> PyTree:
    """A tenth of a layer, so that what it puts out hardly counts at first."""
    return jax.tree.map(lambda leaf: 0.1 * leaf, tree)


def _symlog(u: Array) -> Array:
    """sign(u) log(1 + |u|): the identity near zero, and no outliers."""
    return jnp.sign(u) * jnp.log1p(jnp.abs(u))
