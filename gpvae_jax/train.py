"""Training as pure functions: `init`, `start`, `step` and `epoch` of a `Trainer`, and `fit`, a generator over epochs.

An epoch is one compiled `lax.scan`; early stopping, the best parameters and the guard against non-finite losses
are part of the carried state, so that a whole run, with its stopping rule, can be vmapped over seeds.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from gpvae_jax.bounds import elbo, log_weights
from gpvae_jax.observation import Observation
from gpvae_jax.types import InferenceMethod, LatentModel, Metrics, Params

INIT_EXAMPLES = 10_000  # seen by a method's init, which needs statistics such as the variance, not every example


class TrainState(NamedTuple):
    """Everything a run needs to go on exactly where it stopped; a pytree, `[R, …]` when R seeds run at once."""

    params: Params
    average: Params | None  # exponential moving average of params, where it is switched on
    opt_state: PyTree
    key: PRNGKeyArray  # the run's root key: every random number is a function of it and of the step
    step: Int[Array, ""]
    epoch: Int[Array, ""]
    best: Params  # the parameters (averaged, if so trained) with the best validation bound so far
    best_bound: Float[Array, ""]  # nats per example
    best_epoch: Int[Array, ""]
    stopped: Array  # bool: the patience is used up
    failed_step: Int[Array, ""]  # first step with a non-finite loss, −1 while there is none


class TrainingData(NamedTuple):
    """Stored (not yet observed) training and validation examples; `fit` and jit bring them to the device."""

    train: Array | np.ndarray  # [N, *D]
    validation: Array | np.ndarray  # [V, *D]


class Record(NamedTuple):
    """One finished epoch. Values are floats, or arrays [R] when R seeds run at once."""

    epoch: int
    metrics: dict[str, Any]  # nats per example; includes validation_elbo, best_epoch, stopped, failed_step
    seconds: float
    state: TrainState  # valid until the next epoch starts, which reuses its memory: copy what you keep


class Trainer(NamedTuple):
    """Pure functions; `fit` jits them, or jit and vmap them yourself."""

    init: Callable[[PRNGKeyArray, TrainingData], TrainState]
    start: Callable[[Params, PRNGKeyArray], TrainState]  # a run from given parameters
    step: Callable[[TrainState, Array], tuple[TrainState, Metrics]]  # (state, raw batch [B, *D])
    epoch: Callable[[TrainState, TrainingData], tuple[TrainState, Metrics]]
    batch_size: int
    check: Callable[[TrainingData], None]  # on the host: ValueError where the data cannot be trained on


class DivergenceError(ArithmeticError):
    """A loss or gradient was not finite. `state` is the last good one, at the end of the epoch before."""

    def __init__(self, epoch: int, step: int, state: TrainState):
        super().__init__(
            f"The loss was not finite at step {step} (epoch {epoch}); the state before that epoch is kept. "
            "Lower the learning rate, clip the gradient, or check the data for extreme values."
        )
        self.epoch, self.step, self.state = epoch, step, state


def trainer(
    method: InferenceMethod,
    model: LatentModel,
    optimizer: optax.GradientTransformation,
    observation: Observation,
    *,
    batch_size: int = 128,
    beta: Callable[[Array], Array | float] = lambda step: 1.0,
    ema_decay: float | None = None,
    patience: int | None = None,
    validation_samples: int = 1,
    from_model: bool = False,
    augment: Callable[[PRNGKeyArray, Array], Array] | None = None,
) -> Trainer:
    """Bind a method, an optimiser and settings into the pure functions that train them.

    beta: weight of the KL as a function of the step. ema_decay: decay of the parameters' moving average, which
    then is what is validated and kept. patience: epochs without a better validation bound before a run stops.
    validation_samples: draws of z per validation example, the same noise every epoch. from_model: each step trains on
    a batch drawn from the model itself, in place of the one it is given. augment: (key, raw) -> as many more stored
    examples, which are trained on beside the others (`augmentation`).
    """

    def init(key: PRNGKeyArray, data: TrainingData) -> TrainState:
        key_init, key_observe, key_run = jax.random.split(key, 3)
        return start(
            method.init(key_init, observation.train(key_observe, jnp.asarray(data.train[:INIT_EXAMPLES]))), key_run
        )

    def start(params: Params, key: PRNGKeyArray) -> TrainState:
        zero, none_yet = jnp.zeros((), jnp.int32), jnp.full((), -jnp.inf, jnp.result_type(float))
        average = None if ema_decay is None else params
        state = TrainState(
            params,
            average,
            optimizer.init(params),
            key,
            zero,
            zero,
            params,
            none_yet,
            zero,
            zero > 0,
            zero - 1,
        )
        return jax.tree.map(jnp.copy, state)  # no two leaves share memory, so that all can be donated

    def step(state: TrainState, raw: Array) -> tuple[TrainState, Metrics]:
        key_observe, key_loss = jax.random.split(jax.random.fold_in(state.key, state.step))
        if from_model:
            _, x = jax.lax.stop_gradient(model.sample(state.params.model, key_observe, len(raw)))
        else:
            if augment is not None:
                key_observe, key_augment = jax.random.split(key_observe)
                more = augment(key_augment, raw)
                raw = jnp.concatenate([raw.astype(more.dtype), more])
            x = observation.train(key_observe, raw)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats, our callers may be strict
            loss = partial(method.loss, beta=beta(state.step))
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, key_loss, x)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if ema_decay is not None:
            average = optax.incremental_update(params, average, 1.0 - _decay(ema_decay, state.step))
        state = state._replace(params=params, average=average, opt_state=opt_state, step=state.step + 1)
        return state, metrics | {"loss": value}

    def validate(params: Params, data: TrainingData) -> Float[Array, ""]:
        def bound(raw: Array, key: PRNGKeyArray) -> Float[Array, " B"]:
            x = observation.evaluate(raw)
            key_posterior, key_z = jax.random.split(key)
            q, _ = (method.amortized or method.posterior)(params, key_posterior, x)
            return elbo(log_weights(model, params.model, q, key_z, x, validation_samples))

        return jnp.mean(map_batches(bound, jnp.asarray(data.validation), jax.random.key(0), batch_size))

    def epoch(state: TrainState, data: TrainingData) -> tuple[TrainState, Metrics]:
        count = data.train.shape[0]
        order = jax.random.permutation(jax.random.fold_in(state.key, -1 - state.epoch), count)
        batches = order[: count - count % batch_size].reshape(-1, batch_size)
        new, history = jax.lax.scan(lambda s, index: step(s, data.train[index]), state, batches)
        bound = validate(new.params if new.average is None else new.average, data)
        finite = jnp.isfinite(history["loss"])  # a gradient that is not shows in the next loss, or in the bound
        new = _close_epoch(state, new, bound, finite, patience)
        means = jax.tree.map(jnp.mean, history) | {"validation_elbo": bound}
        running = ~state.stopped & (state.failed_step < 0)  # of a run that has ended there is nothing to report
        means = jax.tree.map(lambda value: jnp.where(running, value, jnp.full_like(value, jnp.nan)), means)
        return new, means | {
            "best_epoch": new.best_epoch,
            "stopped": new.stopped,
            "failed_step": new.failed_step,
        }

    def check(data: TrainingData) -> None:
        check_fit(data, batch_size)
        model.check(np.asarray(observation.evaluate(jnp.asarray(data.validation))))

    return Trainer(init, start, step, epoch, batch_size, check)


def _decay(ema_decay: float, step: Int[Array, ""]) -> Float[Array, ""]:
    """min(decay, (1 + t) / (10 + t)): the average forgets the random start within the first steps (derived)."""
    t = step.astype(jnp.result_type(float))
    return jnp.minimum(ema_decay, (1 + t) / (10 + t))


def _close_epoch(old: TrainState, new: TrainState, bound: Array, finite: Array, patience: int | None) -> TrainState:
    """Keep the best parameters, count the patience, and undo an epoch that failed or came after stopping."""
    epoch = old.epoch + 1
    improved = bound > old.best_bound
    latest = new.params if new.average is None else new.average
    best_epoch = jnp.where(improved, epoch, old.best_epoch)
    new = new._replace(
        epoch=epoch,
        best=_select(improved, latest, old.best),
        best_bound=jnp.where(improved, bound, old.best_bound),
        best_epoch=best_epoch,
        stopped=jnp.zeros((), bool) if patience is None else epoch - best_epoch >= patience,
    )
    good = jnp.all(finite) & jnp.isfinite(bound)
    # a validation bound that fails after finite steps is the last step's doing
    first_bad = jnp.where(jnp.all(finite), finite.size - 1, jnp.argmin(finite)).astype(jnp.int32)
    failed = jnp.where(good, old.failed_step, old.step + first_bad)
    running = ~old.stopped & (old.failed_step < 0)
    kept = _select(good & running, new, old)
    return kept._replace(failed_step=jnp.where(running, failed, old.failed_step))


def _select(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def map_batches(
    function: Callable[[Array, PRNGKeyArray], PyTree], raw: Array, key: PRNGKeyArray, batch_size: int
) -> PyTree:
    """`function(raw[B, *D], key)` -> tree of [B, …] over all N examples, one batch at a time, as [N, …].

    The last batch is filled up with copies of the first examples and cut again, so every example counts once.
    Batch i gets key folded with i.
    """
    count = raw.shape[0]
    batches = -(-count // batch_size)
    index = jnp.arange(batches * batch_size).reshape(batches, batch_size) % count

    def one(inputs: tuple[Array, Array]) -> PyTree:
        number, rows = inputs
        return function(raw[rows], jax.random.fold_in(key, number))

    results = jax.lax.map(one, (jnp.arange(batches), index))
    return jax.tree.map(lambda r: r.reshape(-1, *r.shape[2:])[:count], results)


def fit(
    trainer: Trainer,
    data: TrainingData,
    key: PRNGKeyArray | None = None,
    *,
    epochs: int,
    num_seeds: int | None = None,
    state: TrainState | None = None,
) -> Iterator[Record]:
    """Train, yielding one `Record` per epoch; stop by breaking out of the loop.

    key: starts a run; with `num_seeds=R` it starts R runs in one program, run r with the random numbers of
    `fit(trainer, data, jax.random.fold_in(key, r))` and so, but for rounding, the same. state: goes on from a
    `TrainState` instead (its number of seeds is kept), which stays valid. A record's state does not: the next epoch
    reuses its memory, so copy what you keep of all but the last. Ends after `epochs` epochs in all, those of `state`
    included, or when every run has stopped early. Raises ValueError where the data cannot fill one batch or lie
    outside the likelihood's support, and DivergenceError once no run is left with finite losses.
    """
    trainer.check(data)
    data = TrainingData(*(jnp.asarray(part) for part in data))
    state, several = _start(trainer, data, key, num_seeds, state)
    run = jax.vmap(trainer.epoch, in_axes=(0, None)) if several else trainer.epoch
    run = jax.jit(run, donate_argnums=0)
    number = int(np.max(state.epoch))
    _check_finite(number + 1, state)
    while number < epochs and not finished(state):
        started = time.perf_counter()
        state, metrics = run(state, data)
        metrics = jax.tree.map(lambda m: m if several else m.item(), jax.device_get(metrics))
        number += 1
        _check_finite(number, state)
        yield Record(number, metrics, time.perf_counter() - started, state)


def _start(
    trainer: Trainer,
    data: TrainingData,
    key: PRNGKeyArray | None,
    num_seeds: int | None,
    state: TrainState | None,
) -> tuple[TrainState, bool]:
    """The first state, and whether it holds several seeds."""
    if (key is None) == (state is None):
        raise ValueError("fit starts from a key or goes on from a state: give exactly one of the two.")
    if state is not None:
        return jax.tree.map(jnp.copy, state), state.epoch.ndim == 1  # the first epoch takes its memory
    assert key is not None  # for the type checker: exactly one was given
    if num_seeds is None:
        return jax.jit(trainer.init)(key, data), False
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    return jax.jit(jax.vmap(trainer.init, in_axes=(0, None)))(seed_keys(key, num_seeds), data), True


def seed_keys(key: PRNGKeyArray, num_seeds: int) -> PRNGKeyArray:
    """The keys [R] of R runs: `key` folded with 0, 1, …"""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(num_seeds))


def _check_finite(epoch: int, state: TrainState) -> None:
    """Raise DivergenceError where no run is left whose losses were finite; a state to go on from may be of such."""
    failed = np.asarray(state.failed_step)
    if np.all(failed >= 0):
        raise DivergenceError(epoch, int(np.min(failed)), state)


def finished(state: TrainState) -> bool:
    """Whether every run of the state has ended, stopped early or without finite losses."""
    return bool(np.all(np.asarray(state.stopped) | (np.asarray(state.failed_step) >= 0)))


def check_fit(data: TrainingData, batch_size: int) -> None:
    """Raise ValueError, in one sentence, where `data` cannot be trained on in batches of `batch_size`."""
    if data.train.shape[0] < batch_size:
        raise ValueError(
            f"A batch of {batch_size} needs at least as many training examples, got {data.train.shape[0]}; "
            "lower the batch size."
        )
    if data.validation.shape[0] == 0:
        raise ValueError("The validation set is empty, and early stopping needs one; give at least one example.")
