"""Chains of many examples annealed along a path of temperatures: what `ais` and `reverse_ais` have in common."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from gpvae_jax.evaluate.hmc import Point, move, point_at
from gpvae_jax.types import LatentModel

CHUNK = 25  # temperatures per compiled call, between two reports of progress
ADAPTATION = 0.1  # change of a log step size per unit of excess acceptance
FIRST_STEP = 0.3  # of the pilot, where the target is near N(0, I)
State = dict[str, np.ndarray]  # how far a run has come: all that is needed to go on, ready for an .npz


class Path(NamedTuple):
    """What the path runs between, for a batch of examples, and how chains move along it."""

    model: LatentModel
    theta: PyTree
    x: Array
    start: Any
    num_leapfrog: int


class Watch(NamedTuple):
    """Who is told of a run: `progress` the transitions made, `keep` the state after every CHUNK of them."""

    progress: Callable[[int], None] = lambda done: None
    keep: Callable[[State], None] = lambda state: None
    resume: Mapping[str, np.ndarray] | None = None  # a state that `keep` was given; the run goes on from there


class Chains(NamedTuple):
    """All chains of all examples."""

    point: Point
    log_weight: Float[Array, "C B"]
    accepted: Float[Array, "C B"]  # sum of acceptance probabilities
    log_step: Float[Array, " B"]


def both_runs(
    path: Path,
    pilot: Float[Array, "P B Z"],
    z: Float[Array, "C B Z"],
    schedule: Float[np.ndarray, " T1"],
    target: float,
    keys: tuple[PRNGKeyArray, PRNGKeyArray],
    watch: Watch,
) -> Chains:
    """The pilot run, which finds a step per temperature and example, and with these the run that counts."""
    count, resume = len(schedule) - 1, watch.resume
    if resume is None or not int(resume["stage"]):
        # the pilot first finds its step where it starts, and lets these transitions be forgotten
        waiting = np.concatenate([np.full(CHUNK, schedule[0]), schedule])
        ahead = Watch(lambda done: watch.progress(max(0, done - CHUNK)), _with(watch.keep, stage=0), resume)
        log_steps, _ = _anneal(path, pilot, waiting, None, target, keys[0], ahead)
        log_steps, resume = log_steps[CHUNK:], None
    else:
        log_steps = jnp.asarray(resume["log_steps"])
    keep = _with(watch.keep, stage=1, log_steps=log_steps)
    _, chains = _anneal(
        path, z, schedule, log_steps, None, keys[1], Watch(lambda done: watch.progress(count + done), keep, resume)
    )
    return chains


def _with(keep: Callable[[State], None], **more: Any) -> Callable[[State], None]:
    return lambda state: keep(state | {name: np.asarray(value) for name, value in more.items()})


def _anneal(
    path: Path,
    z: Float[Array, "C B Z"],
    schedule: np.ndarray,
    log_steps: Float[Array, "T B"] | None,
    target: float | None,
    key: PRNGKeyArray,
    watch: Watch,
) -> tuple[Float[Array, "T B"], Chains]:
    """Run all transitions, CHUNK at a time; returns the log step sizes that were used, and the chains.

    Steps are either given, or adapted from transition to transition to the acceptance `target`.
    """
    constants = (path.theta, path.x, path.start)
    chains = _first(path.model, *constants, z)
    used, first = jnp.zeros((0, z.shape[1]), z.dtype), 0
    if watch.resume is not None:
        leaves = [jnp.asarray(watch.resume[f"chains_{i}"]) for i in range(len(jax.tree.leaves(chains)))]
        chains = jax.tree.unflatten(jax.tree.structure(chains), leaves)
        used, first = jnp.asarray(watch.resume["used"]), int(watch.resume["done"])
    count = len(schedule) - 1
    for done in range(first, count, CHUNK):
        index = np.arange(done, min(done + CHUNK, count))
        temperatures = np.stack([schedule[index], schedule[index + 1]], axis=1).astype(z.dtype)
        held = None if log_steps is None else log_steps[done : done + CHUNK]
        chains, these = _transitions(
            path.model, path.num_leapfrog, target, constants, chains, temperatures, held, index, key
        )
        used = jnp.concatenate([used, these])
        stored = {f"chains_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(chains))}
        watch.keep(stored | {"used": np.asarray(used), "done": np.asarray(index[-1] + 1)})
        watch.progress(int(index[-1]) + 1)
    return used, chains


def transitions_alone(
    model: LatentModel,
    theta: PyTree,
    x: Float[Array, "B *D"],
    z: Float[Array, "C B Z"],
    schedule: Float[np.ndarray, " T1"],
    num_leapfrog: int,
) -> Callable[[], Chains]:
    """The compiled call that annealing repeats, for T ≤ CHUNK temperatures from the prior: to be timed."""
    constants = (theta, x, None)
    chains = _first(model, *constants, z)
    temperatures = np.stack([schedule[:-1], schedule[1:]], axis=1).astype(z.dtype)
    log_steps = jnp.full((len(temperatures), z.shape[1]), math.log(FIRST_STEP), z.dtype)
    index, key = np.arange(len(temperatures)), jax.random.key(0)
    return lambda: _transitions(model, num_leapfrog, None, constants, chains, temperatures, log_steps, index, key)[0]


@partial(jax.jit, static_argnums=0)
def _first(model: LatentModel, theta: PyTree, x: Array, start: Any, z: Float[Array, "C B Z"]) -> Chains:
    nothing = jnp.zeros(z.shape[:2], z.dtype)
    log_step = jnp.full(z.shape[1:2], math.log(FIRST_STEP), z.dtype)
    return Chains(point_at(model, theta, x, start, z), nothing, nothing, log_step)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _transitions(
    model: LatentModel,
    num_leapfrog: int,
    target: float | None,
    constants: tuple[PyTree, Array, Any],
    chains: Chains,
    temperatures: Float[Array, "T 2"],
    log_steps: Float[Array, "T B"] | None,
    index: Array,
    key: PRNGKeyArray,
) -> tuple[Chains, Float[Array, "T B"]]:
    """Some temperatures of the path: weigh by the change of density, then move under the new one."""
    at = partial(point_at, model, *constants)

    def one(chains: Chains, inputs: tuple) -> tuple[Chains, Array]:
        (old, new), held, number = inputs
        point = chains.point
        log_weight = chains.log_weight + (new - old) * (point.end - point.start)
        log_step = chains.log_step if held is None else held
        point, accepted = move(at, point, new, log_step, num_leapfrog, jax.random.fold_in(key, number))
        next_step = log_step
        if target is not None:
            next_step = log_step + ADAPTATION * (jnp.mean(accepted, axis=0) - target)
        return Chains(point, log_weight, chains.accepted + accepted, next_step), log_step

    return jax.lax.scan(one, chains, (temperatures, log_steps, index))
