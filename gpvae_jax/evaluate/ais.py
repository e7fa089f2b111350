"""Annealed importance sampling of log p(x) (Neal 2001), and its reverse from exact posterior samples (BDMC).

The path is geometric, π_t ∝ p(z) p_θ(x|z)^β_t (eq. 7.3, paper: Wu et al. 2017), or from any Gaussian q instead of the
prior, π_t ∝ q(z)^(1−β_t) p_θ(x, z)^β_t; between two temperatures every chain makes one Hamiltonian Monte Carlo
transition. Step sizes are found by a pilot run and then held, so that the estimate of p(x) is exactly unbiased
(derived: steps that adapt to the chain they move would bias it), and log p̂ a lower bound on log p(x) on average.
Equations: docs/mathematics.md.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.bounds import effective_sample_size, iwae
from gpvae_jax.evaluate.hmc import Point, move, point_at
from gpvae_jax.types import LatentModel

CHUNK = 25  # temperatures per compiled call, between two reports of progress
ADAPTATION = 0.1  # change of a log step size per unit of excess acceptance
FIRST_STEP = 0.3  # of the pilot, where the target is near N(0, I)


class Annealed(NamedTuple):
    """Per-example results of annealing."""

    log_evidence: Float[np.ndarray, " B"]  # log p̂ in nats, from all C chains
    standard_error: Float[np.ndarray, " B"]  # of it, by the delta method over chains; too small where ess is near 1
    ess: Float[np.ndarray, " B"]  # effective number of the C chains
    acceptance: Float[np.ndarray, " B"]  # mean rate over transitions and chains
    log_weights: Float[np.ndarray, "C B"]  # forward: mean of exp is p(x) on average; reverse: 1/p(x)


class _Chains(NamedTuple):
    point: Point
    log_weight: Float[Array, "C B"]
    accepted: Float[Array, "C B"]  # sum of acceptance probabilities
    log_step: Float[Array, " B"]


def linear_schedule(num_temperatures: int) -> Float[np.ndarray, " T1"]:
    """β_0 = 0 … β_T = 1, evenly spaced."""
    return np.linspace(0.0, 1.0, num_temperatures + 1)


def sigmoid_schedule(num_temperatures: int, sharpness: float = 4.0) -> Float[np.ndarray, " T1"]:
    """β_0 = 0 … β_T = 1 along a sigmoid from −sharpness to +sharpness: denser at both ends (Grosse et al. 2015)."""
    values = 1 / (1 + np.exp(-np.linspace(-sharpness, sharpness, num_temperatures + 1)))
    return (values - values[0]) / (values[-1] - values[0])


def ais(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    key: PRNGKeyArray,
    *,
    schedule: Float[np.ndarray, " T1"],
    num_chains: int = 16,
    num_leapfrog: int = 10,
    start: Any = None,
    num_pilot: int = 4,
    target_acceptance: float = 0.65,
    progress: Callable[[int], None] = lambda done: None,
) -> Annealed:
    """log p̂(x) of each example from C = `num_chains` chains over the temperatures of `schedule`, 0 = β_0 < … < β_T = 1
    (eq. 7.4, paper).

    start: a posterior with `sample_and_log_prob` and `log_prob`, from which the path starts; None is the prior.
    num_pilot: chains of the pilot run that finds a step per temperature and example for the target acceptance.
    progress: called with the number of transitions made, of 2 T. Cost: T · num_leapfrog decoder gradients for each
    of the num_chains + num_pilot chains and each example. Raises ValueError on a schedule that does not rise from
    0 to 1 and on counts below 1.
    """
    _check(schedule, num_chains=num_chains, num_leapfrog=num_leapfrog, num_pilot=num_pilot)
    key_pilot, key_start, key_run = jax.random.split(key, 3)
    path = _Path(model, theta, x, start, num_leapfrog)
    draw = partial(_from_prior, model, x) if start is None else start.sample_and_log_prob
    first, _ = draw(jax.random.fold_in(key_start, 0), num_pilot)
    z, _ = draw(jax.random.fold_in(key_start, 1), num_chains)
    return _both_runs(path, first, z, schedule, target_acceptance, (key_pilot, key_run), progress)


def reverse_ais(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    z: Float[Array, "B Z"],
    key: PRNGKeyArray,
    *,
    schedule: Float[np.ndarray, " T1"],
    num_chains: int = 16,
    num_leapfrog: int = 10,
    start: Any = None,
    num_pilot: int = 4,
    target_acceptance: float = 0.65,
    progress: Callable[[int], None] = lambda done: None,
) -> Annealed:
    """An upper bound on log p(x), on average, for x drawn from the model together with z (Grosse et al. 2015).

    z[B, Z] made x[B, *D], so it is an exact sample of p(z|x); every chain starts there and runs the path of `ais`
    backwards. Its weights estimate 1/p(x), and log_evidence is −log of their mean. Arguments, cost and errors as
    for `ais`; the pilot runs the same way back.
    """
    _check(schedule, num_chains=num_chains, num_leapfrog=num_leapfrog, num_pilot=num_pilot)
    key_pilot, key_run = jax.random.split(key)
    path = _Path(model, theta, x, start, num_leapfrog)
    first, repeated = (jnp.broadcast_to(z, (chains, *z.shape)) for chains in (num_pilot, num_chains))
    backwards = np.ascontiguousarray(schedule[::-1])
    found = _both_runs(path, first, repeated, backwards, target_acceptance, (key_pilot, key_run), progress)
    return found._replace(log_evidence=-found.log_evidence)


class Bracket(NamedTuple):
    """Two-sided bounds on log p(x) of simulated data; lower ≤ log p(x) ≤ upper on average."""

    x: Float[np.ndarray, "B *D"]
    lower: Annealed
    upper: Annealed


def bidirectional(model: LatentModel, theta: PyTree, key: PRNGKeyArray, num_examples: int, **settings: Any) -> Bracket:
    """BDMC (eq. 7.5, paper: Grosse et al. 2015): `ais` and `reverse_ais` on data drawn from the model itself.

    The width of the bracket tells how far `ais` can be from the truth on data like these. settings: as for `ais`.
    """
    key_data, key_lower, key_upper = jax.random.split(key, 3)
    z, x = model.sample(theta, key_data, num_examples)
    lower = ais(model, theta, x, key_lower, **settings)
    return Bracket(np.asarray(x), lower, reverse_ais(model, theta, x, z, key_upper, **settings))


class _Path(NamedTuple):
    """What the path runs between, for a batch of examples, and how chains move along it."""

    model: LatentModel
    theta: PyTree
    x: Array
    start: Any
    num_leapfrog: int


def _both_runs(
    path: _Path,
    pilot: Float[Array, "P B Z"],
    z: Float[Array, "C B Z"],
    schedule: np.ndarray,
    target: float,
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    progress: Callable[[int], None],
) -> Annealed:
    """The pilot run, which finds the steps, and the run that counts."""
    count = len(schedule) - 1
    # the pilot first finds its step where it starts, and lets these transitions be forgotten
    waiting = np.concatenate([np.full(CHUNK, schedule[0]), schedule])
    log_steps, _ = _anneal(path, pilot, waiting, None, target, keys[0], lambda done: progress(max(0, done - CHUNK)))
    _, chains = _anneal(path, z, schedule, log_steps[CHUNK:], None, keys[1], lambda done: progress(count + done))
    return _summary(chains, count)


def _anneal(
    path: _Path,
    z: Float[Array, "C B Z"],
    schedule: np.ndarray,
    log_steps: Float[Array, "T B"] | None,
    target: float | None,
    key: PRNGKeyArray,
    progress: Callable[[int], None],
) -> tuple[Float[Array, "T B"], _Chains]:
    """Run all transitions, CHUNK at a time; returns the log step sizes that were used, and the chains.

    Steps are either given, or adapted from transition to transition to the acceptance `target`.
    """
    count = len(schedule) - 1
    constants = (path.theta, path.x, path.start)
    chains = _first(path.model, *constants, z)
    used = []
    for done in range(0, count, CHUNK):
        index = np.arange(done, min(done + CHUNK, count))
        temperatures = np.stack([schedule[index], schedule[index + 1]], axis=1).astype(z.dtype)
        held = None if log_steps is None else log_steps[done : done + CHUNK]
        chains, these = _transitions(
            path.model, path.num_leapfrog, target, constants, chains, temperatures, held, index, key
        )
        used.append(these)
        jax.block_until_ready(chains)
        progress(int(index[-1]) + 1)
    return jnp.concatenate(used), chains


@partial(jax.jit, static_argnums=0)
def _first(model: LatentModel, theta: PyTree, x: Array, start: Any, z: Float[Array, "C B Z"]) -> _Chains:
    nothing = jnp.zeros(z.shape[:2], z.dtype)
    log_step = jnp.full(z.shape[1:2], math.log(FIRST_STEP), z.dtype)
    return _Chains(point_at(model, theta, x, start, z), nothing, nothing, log_step)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _transitions(
    model: LatentModel,
    num_leapfrog: int,
    target: float | None,
    constants: tuple[PyTree, Array, Any],
    chains: _Chains,
    temperatures: Float[Array, "T 2"],
    log_steps: Float[Array, "T B"] | None,
    index: Array,
    key: PRNGKeyArray,
) -> tuple[_Chains, Float[Array, "T B"]]:
    """Some temperatures of the path: weigh by the change of density, then move under the new one."""
    at = partial(point_at, model, *constants)

    def one(chains: _Chains, inputs: tuple) -> tuple[_Chains, Array]:
        (old, new), held, number = inputs
        point = chains.point
        log_weight = chains.log_weight + (new - old) * (point.end - point.start)
        log_step = chains.log_step if held is None else held
        point, accepted = move(at, point, new, log_step, num_leapfrog, jax.random.fold_in(key, number))
        next_step = log_step
        if target is not None:
            next_step = log_step + ADAPTATION * (jnp.mean(accepted, axis=0) - target)
        return _Chains(point, log_weight, chains.accepted + accepted, next_step), log_step

    return jax.lax.scan(one, chains, (temperatures, log_steps, index))


def _from_prior(
    model: LatentModel, x: Array, key: PRNGKeyArray, num_samples: int
) -> tuple[Float[Array, "C B Z"], None]:
    return jax.random.normal(key, (num_samples, x.shape[0], model.latent_dim), jnp.result_type(float)), None


def _summary(chains: _Chains, num_transitions: int) -> Annealed:
    log_w = chains.log_weight
    evidence = iwae(log_w)
    relative = jnp.exp(log_w - evidence[None])
    count = log_w.shape[0]
    error = jnp.std(relative, axis=0, ddof=1) / math.sqrt(count) if count > 1 else jnp.full_like(evidence, jnp.nan)
    acceptance = jnp.mean(chains.accepted, axis=0) / num_transitions
    return Annealed(*jax.device_get((evidence, error, effective_sample_size(log_w), acceptance, log_w)))


def _check(schedule: np.ndarray, **counts: int) -> None:
    schedule = np.asarray(schedule)
    rises = schedule.ndim == 1 and len(schedule) > 1 and bool(np.all(np.diff(schedule) > 0))
    if not rises or schedule[0] != 0 or schedule[-1] != 1:
        raise ValueError("A schedule of temperatures must rise from 0 to 1; make one with sigmoid_schedule(1000), say.")
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}.")
