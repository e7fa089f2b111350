"""A Gaussian fitted to each example by itself: the ELBO maximised per example, all examples of a batch at once."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from gpvae_jax.gaussians.family import Gaussian, deform, log_scale, matched_noise, place, retract
from gpvae_jax.types import LatentModel

ROUND_STEPS = 50  # gradient steps between two looks at the ELBO
CHUNK = 50  # draws evaluated at once for the final ELBO


class Optimum(NamedTuple):
    """Per-example results of `optimize`."""

    posterior: Gaussian
    elbo: Float[Array, " B"]  # nats, from draws the optimisation has not seen
    standard_error: Float[Array, " B"]  # of elbo, over those draws
    steps: Int[Array, " B"]  # gradient steps spent
    converged: Bool[Array, " B"]  # stopped by its own rule, not by max_steps
    trace: Float[Array, "R B"]  # best ELBO at the start and after each ROUND_STEPS, on one noise; constant once stopped


class _State(NamedTuple):
    current: Gaussian
    best: Gaussian
    value: Float[Array, " B"]  # of best
    scale: Float[Array, " B"]  # of the optimiser's updates
    cuts: Int[Array, " B"]  # how often scale was cut
    opt_state: PyTree
    steps: Int[Array, " B"]
    trace: Float[Array, "R B"]
    round: Int[Array, ""]


def optimize(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    start: Gaussian,
    key: PRNGKeyArray,
    optimizer: optax.GradientTransformation,
    *,
    max_steps: int = 5000,
    num_samples: int = 8,
    check_samples: int | None = None,
    tolerance: float = 1e-3,
    max_cuts: int = 6,
    eval_samples: int = 1000,
) -> Optimum:
    """The Gaussian with the greatest ELBO for each example, all examples of the batch at once.

    start: a DiagonalGaussian or FullGaussian batch; its family is the family searched. optimizer: any optax
    transformation; it works in the coordinates u of `family.retract`, in units of the current posterior's
    spread, and keeps its state per example. num_samples: draws per step, in antithetic pairs; the gradient is the
    path derivative alone (Roeder et al. 2017), whose variance vanishes where q is the exact posterior.

    Each example stops by itself: after every ROUND_STEPS steps the mean of its iterates is compared with the best so
    far, on check_samples draws (by default 128, or 2 Z where that is more) that stay the same and have the moments of
    N(0, I) up to the third, so that small gains can be told from noise. A gain below `tolerance` nats goes back to the
    best with half the step, and after more than `max_cuts` of these the example is frozen. The loop ends when all are,
    or at max_steps (rounded up to whole rounds). eval_samples: fresh draws for the result. Cost: num_samples decoder
    gradients per step and example.
    Raises ValueError on numbers of draws that do not allow this.
    """
    latents = start.mean.shape[-1]
    check_samples = max(128, 2 * latents) if check_samples is None else check_samples
    _check(num_samples, check_samples, latents)
    rounds = -(-max_steps // ROUND_STEPS)
    key_check, key_steps, key_eval = jax.random.split(key, 3)
    noise = matched_noise(key_check, check_samples, start.mean)
    step = _ascent_step(partial(_log_joint, model, theta, x), optimizer, num_samples)

    def bound(q: Gaussian) -> Float[Array, " B"]:
        entropy = log_scale(q) + 0.5 * q.mean.shape[-1] * math.log(2 * math.pi * math.e)
        return jnp.mean(_log_joint(model, theta, x, place(q, noise)), axis=0) + entropy

    def round_of_steps(state: _State) -> _State:
        active = state.cuts <= max_cuts
        scale = jnp.where(active, state.scale, jnp.zeros_like(state.scale))
        keys = jax.random.split(jax.random.fold_in(key_steps, state.round), ROUND_STEPS)
        carry = (state.current, state.opt_state, jax.tree.map(jnp.zeros_like, state.current))
        (current, opt_state, total), _ = jax.lax.scan(partial(step, scale), carry, keys)
        candidate = jax.tree.map(lambda t: t / ROUND_STEPS, total)
        return _close_round(state, active, current, candidate, bound(candidate), opt_state, tolerance)

    state = _start(start, bound(start), optimizer, rounds)
    state = jax.lax.while_loop(lambda s: (s.round < rounds) & jnp.any(s.cuts <= max_cuts), round_of_steps, state)
    elbo, error = elbo_with_error(model, theta, state.best, key_eval, x, eval_samples)
    unreached = (jnp.arange(rounds + 1, dtype=state.round.dtype) > state.round)[:, None]
    trace = jnp.where(unreached, state.value[None], state.trace)
    return Optimum(state.best, elbo, error, state.steps, state.cuts > max_cuts, trace)


def elbo_with_error(
    model: LatentModel, theta: PyTree, q: Gaussian, key: PRNGKeyArray, x: Float[Array, "B *D"], num_samples: int
) -> tuple[Float[Array, " B"], Float[Array, " B"]]:
    """ELBO and its standard error over at least `num_samples` draws, CHUNK at a time; equal keys give paired draws."""

    def log_weights(key: PRNGKeyArray, count: int) -> Float[Array, "S B"]:
        z, log_q = q.sample_and_log_prob(key, count)
        return _log_joint(model, theta, x, z) - log_q

    def chunk(total: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], None]:
        log_w = log_weights(key, CHUNK) - centre[None]
        return (total[0] + jnp.sum(log_w, axis=0), total[1] + jnp.sum(jnp.square(log_w), axis=0)), None

    # sums are taken about one draw of each example, without which float32 would lose the variance
    centre = log_weights(key, 1)[0]
    chunks = -(-num_samples // CHUNK)
    count = chunks * CHUNK
    start = (jnp.zeros_like(centre), jnp.zeros_like(centre))
    (total, squares), _ = jax.lax.scan(chunk, start, jax.random.split(key, chunks))
    variance = jnp.maximum(squares - jnp.square(total) / count, 0) / (count - 1)
    return centre + total / count, jnp.sqrt(variance / count)


def _check(num_samples: int, check_samples: int, latent_dim: int) -> None:
    if num_samples % 2 or num_samples < 2 or check_samples % 2 or check_samples < 2 * latent_dim:
        raise ValueError(
            f"optimize expects an even num_samples and an even check_samples of at least {2 * latent_dim}, twice the "
            f"latent dimensions, got {num_samples} and {check_samples}."
        )


def _log_joint(model: LatentModel, theta: PyTree, x: Array, z: Float[Array, "S B Z"]) -> Float[Array, "S B"]:
    return model.log_likelihood(theta, x, z) + model.log_prior(theta, z)


def _ascent_step(log_joint: Callable, optimizer: optax.GradientTransformation, num_samples: int) -> Callable:
    """One optimiser step of every example, its updates times scale[B]; also sums the iterates up."""

    def step(scale: Array, carry: tuple, key: PRNGKeyArray) -> tuple[tuple, None]:
        q, opt_state, total = carry
        half = jax.random.normal(key, (num_samples // 2, *q.mean.shape), q.mean.dtype)
        noise = jnp.concatenate([half, -half])

        def descent(u: Gaussian) -> Array:
            # the density is held at q, where log q of a deformed draw is −½ |e|² and a constant
            deformed = deform(u, noise)
            log_w = log_joint(place(q, deformed)) + 0.5 * jnp.sum(jnp.square(deformed), axis=-1)
            return -jnp.sum(jnp.mean(log_w, axis=0))

        here = jax.tree.map(jnp.zeros_like, q)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, our callers may be strict
            updates, opt_state = jax.vmap(optimizer.update)(jax.grad(descent)(here), opt_state, here)
        q = retract(q, jax.tree.map(lambda u: u * _per_example(scale, u), updates))
        return (q, opt_state, jax.tree.map(jnp.add, total, q)), None

    return step


def _start(start: Gaussian, value: Array, optimizer: optax.GradientTransformation, rounds: int) -> _State:
    count = jnp.zeros(value.shape, jnp.int32)
    with jax.numpy_dtype_promotion("standard"):
        opt_state = jax.vmap(optimizer.init)(start)
    trace = jnp.zeros((rounds + 1, *value.shape), value.dtype).at[0].set(value)
    return _State(start, start, value, jnp.ones_like(value), count, opt_state, count, trace, jnp.zeros((), jnp.int32))


def _close_round(
    state: _State,
    active: Bool[Array, " B"],
    current: Gaussian,
    candidate: Gaussian,
    value: Float[Array, " B"],
    opt_state: PyTree,
    tolerance: float,
) -> _State:
    """Keep the candidate where it is better; where it is not by `tolerance`, go back to the best with half the step."""
    better = active & (value > state.value)  # false for NaN
    gained = active & (value > state.value + tolerance)
    best = _select(better, candidate, state.best)
    best_value = jnp.where(better, value, state.value)
    cut = active & ~gained
    return _State(
        current=_select(gained, current, best),
        best=best,
        value=best_value,
        scale=jnp.where(cut, 0.5 * state.scale, state.scale),
        cuts=state.cuts + cut.astype(jnp.int32),
        opt_state=opt_state,
        steps=state.steps + ROUND_STEPS * active.astype(jnp.int32),
        trace=state.trace.at[state.round + 1].set(best_value),
        round=state.round + 1,
    )


def _per_example(values: Float[Array, " B"], like: Array) -> Array:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _select(condition: Bool[Array, " B"], yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(_per_example(condition, a), a, b), yes, no)
