"""A run folder: what was asked (`config.json`), what happened (`metrics.jsonl`), what was learned and measured.

config.json   every setting, package versions, device, commit, the data's checksum and split
metrics.jsonl one line per epoch
last/ best/   checkpoints: the whole training state, and the best parameters alone
results.json  summaries of `evaluate`; per-example values beside it in test.npz
"""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from gpvae_jax import checkpoint, config, train
from gpvae_jax.build import Setup, build, build_likelihood, build_model_and_method, check_used, num_training
from gpvae_jax.data import Dataset, load
from gpvae_jax.data.dataset import checksum
from gpvae_jax.environment import environment
from gpvae_jax.files import plain, read_json, write_json, write_text
from gpvae_jax.gp.closed_form import closed_form
from gpvae_jax.keys import beyond_base
from gpvae_jax.observation import observation
from gpvae_jax.types import InferenceMethod, LatentModel, Params
from gpvae_jax.warm_start import warm_start


class UntrainedError(ValueError):
    """A seed's loss was never finite for an epoch, so that its best parameters are those it started from."""


class Run(NamedTuple):
    """A run folder and the functions its configuration stands for."""

    folder: Path
    setup: Setup
    trained: Path | None = None  # the run whose parameters it has, where they are not its own
    adapt: Callable[[Params], Params] = lambda params: params  # from a seed's trained parameters to those used
    refinement: str | None = None  # the method that refines its posterior, where one does


def open_run(folder: str | Path, data: Dataset | None = None) -> Run:
    """Open a run folder made by `create`. Raises FileNotFoundError or ValueError, one sentence, where it is not one.

    data: the data set, loaded again where it is not given. It must be, bit for bit, the one the run was trained on.
    """
    folder = Path(folder)
    settings, about = _recorded(folder)
    recorded = about["checksum"]
    data = load_data(settings) if data is None else data
    if data.checksum != recorded:
        raise ValueError(
            f"The data set '{settings.data.name}' is not the one {folder} was trained on: its checksum is "
            f"{data.checksum[:12]}…, expected {recorded[:12]}…; restore the original data or train anew."
        )
    return Run(folder, build(settings, data))


class Trained(NamedTuple):
    """What a run has learned, and how to use it on images of one's own; all functions are pure."""

    config: config.Config
    model: LatentModel
    method: InferenceMethod
    params: tuple[Params, ...]  # the best parameters, of each seed
    prepare: Callable[[PRNGKeyArray, jax.Array], jax.Array]  # (key, raw[B, *D]) -> x[B, *D], as `Observation.prepare`
    levels: int | None  # grey levels of the data it was trained on, which raw has to have; None: real values


def open_trained(folder: str | Path) -> Trained:
    """The model, method and parameters of a trained run, without its data set: config.json, metrics.jsonl and best/
    are enough.

    Raises FileNotFoundError or ValueError, one sentence, where the folder holds no trained run.
    """
    folder = Path(folder)
    settings, about = _recorded(folder)
    shape, counts, levels = tuple(about["shape"]), about["split"]["counts"], about["levels"]
    model, method = build_model_and_method(
        settings,
        build_likelihood(settings.model.likelihood, levels),
        shape,
        num_training(settings, counts["train"], counts["validation"]),
    )
    seeds = settings.train.num_seeds
    like = _shapes(method.init, seeds, jax.ShapeDtypeStruct((1, *shape), jnp.result_type(float)))
    params = tuple(_unstacked(_best(folder, like, settings.train.epochs), seeds))
    functions = observation(levels, str(settings.data.binarization))
    return Trained(settings, model, method, params, functions.prepare, levels)


def _start_of(settings: config.Config, data: Dataset) -> Run:
    """The run that another starts from, which has its data set or one of its own."""
    folder = Path(str(settings.train.start_from))
    _, about = _recorded(folder)
    return open_run(folder, data if about["checksum"] == data.checksum else None)


def _first_loss(setup: Setup, key: PRNGKeyArray, raw: jax.Array) -> jax.Array:
    x = setup.observation.train(key, raw)
    return setup.method.loss(setup.method.init(key, x), key, x)[0]


def _recorded(folder: Path) -> tuple[config.Config, dict[str, Any]]:
    """A run's settings and what is recorded of its data."""
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it holds no config.json; give the folder of a run.")
    settings, _ = config.read(path)
    about = read_json(path).get("data")
    if not isinstance(about, dict) or not {"checksum", "levels", "shape", "split"} <= about.keys():
        raise ValueError(f"{path} does not say which data it was trained on, so it is no run's; train anew.")
    return settings, about


def create(folder: str | Path, settings: config.Config, data: Dataset | None = None) -> Run:
    """Make a run folder. Everything that can be wrong with the settings is found before anything is written."""
    folder = Path(folder)
    if (folder / "config.json").exists():
        raise FileExistsError(f"{folder} already holds a run; continue it with --resume or choose another folder.")
    data = load_data(settings) if data is None else data
    setup = checked(settings, data)
    before = 0 if settings.train.start_from is None else _check_start(setup)
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "config": config.to_dict(setup.config),
        "data": {
            "checksum": data.checksum,
            "levels": data.levels,
            "shape": data.train.shape[1:],
            "split": data.split,
        },
        "epochs_before": before,
        "environment": environment(),
    }
    write_json(folder / "config.json", record)
    return Run(folder, setup)


def checked(settings: config.Config, data: Dataset, *, start_is_there: bool = False) -> Setup:
    """What a run would be made of. Raises ValueError, one sentence, on whatever can be wrong with its settings; of what
    it starts from only where `start_is_there`: that may be another run that is still to be trained.
    """
    setup = build(settings, data)
    check_used(settings)
    jax.eval_shape(
        functools.partial(_first_loss, setup), jax.random.key(0), setup.data.train[: settings.train.batch_size]
    )
    if start_is_there and settings.train.start_from is not None:
        _check_start(setup)
    return setup


def _check_start(setup: Setup) -> int:
    """How many epochs the run that this one starts from was trained. Raises where that one is no start for it."""
    trained = _start_of(setup.config, setup.given)
    jax.eval_shape(_start_from(Run(trained.folder, setup), trained), _abstract_state(trained).best)
    best_params(trained)
    return trained_epochs(trained.folder)


def load_data(settings: config.Config) -> Dataset:
    """The data set a configuration names."""
    return load(settings.data.name, data_dir=settings.data.data_dir, raw_dir=settings.data.raw_dir)


def records(
    run: Run,
    *,
    resume: bool = False,
    save_every: float = 30.0,
    progress: Callable[[float], None] = lambda done: None,
) -> Iterator[train.Record]:
    """Train a run, yielding each epoch's record after it is on disk; `resume` goes on from the last checkpoint.

    A checkpoint is written when `save_every` seconds have passed since the last, at the end, and where the caller stops
    between two epochs; a diverging run keeps its last good state. An interrupt within an epoch, which was given the
    state's buffers, leaves the last checkpoint. Resuming repeats nothing and leaves nothing out: the parameters come
    out the same. A closed-form fit, which has no epochs, tells `progress` the share done, and leaves closed_form.json.
    Raises FileExistsError where the folder holds trained parameters and `resume` is not asked for.
    """
    settings = run.setup.config.train
    state = None
    if not resume and (run.folder / "best").exists():
        raise FileExistsError(
            f"{run.folder} already holds trained parameters; continue with resume, or train in another folder."
        )
    if resume and checkpoint.latest(run.folder / "last") is not None:
        _, state = checkpoint.restore(run.folder / "last", _abstract_state(run))
    _cut_metrics(run.folder, 0 if state is None else int(np.max(state.epoch)))
    if state is None and settings.start_from is not None:
        trained = _start_of(run.setup.config, run.setup.given)
        state = jax.jit(_start_from(run, trained))(best_params(trained))
        if settings.closed_form is not None:
            state = _fitted(run, state, settings.closed_form, progress)
        if settings.epochs == 0:
            (run.folder / "metrics.jsonl").touch()
            _save(run, state)
    key = jax.random.key(settings.seed) if state is None else None
    num_seeds = settings.num_seeds if state is None else None
    since_save, record = 0.0, None
    with (run.folder / "metrics.jsonl").open("a") as file:
        try:
            for record in train.fit(
                run.setup.trainer,
                run.setup.data,
                key,
                epochs=settings.epochs,
                num_seeds=num_seeds,
                state=state,
            ):
                line = {"epoch": record.epoch, "seconds": round(record.seconds, 4)} | plain(record.metrics)
                file.write(json.dumps(line) + "\n")
                file.flush()
                since_save += record.seconds
                if since_save > save_every:
                    _save(run, record.state)
                    since_save = 0.0
                yield record
        except train.DivergenceError as error:
            _save(run, error.state)
            raise
        finally:
            if record is not None and since_save and not _given_away(record.state):
                _save(run, record.state)


def _start_from(run: Run, trained: Run) -> Callable[[Params], train.TrainState]:
    """From another run's best parameters to the first state of this one, each seed from its own or all from one."""
    seeds, from_seeds = (r.setup.config.train.num_seeds for r in (run, trained))
    if from_seeds not in (None, seeds):
        raise ValueError(
            f"{trained.folder} holds {from_seeds} seeds, so a run of {seeds or 1} cannot start from it; "
            f"use --num-seeds {from_seeds}."
        )
    setup = run.setup

    def first(key: Any, params: Params) -> train.TrainState:
        state = setup.trainer.init(key, setup.data)
        warm = warm_start(state.params, params, beyond_base(key, 0))
        return setup.trainer.start(warm, state.key)

    key = jax.random.key(setup.config.train.seed)
    if seeds is None:
        return functools.partial(first, key)
    axes = (0, None if from_seeds is None else 0)
    return functools.partial(jax.vmap(first, in_axes=axes), train.seed_keys(key, seeds))


def _fitted(run: Run, state: train.TrainState, count: int, progress: Callable[[float], None]) -> train.TrainState:
    """The state with every seed's error posterior in closed form, from `count` examples of the kind asked for; the
    scales that were chosen, and their evidence, are written down.
    """
    setup, seeds = run.setup, run.setup.config.train.num_seeds
    raw, observe = np.asarray(setup.data.train[:count]), setup.observation.train
    each = [state] if seeds is None else [jax.tree.map(lambda a, r=r: a[r], state) for r in range(seeds)]
    fitted: list[train.TrainState] = []
    chosen: list[dict[str, Any]] = []
    for number, one in enumerate(each):
        key_sample, key_fit = jax.random.split(jax.random.fold_in(one.key, 0))
        if setup.config.train.examples == "model":
            raw = np.asarray(setup.model.sample(one.params.model, key_sample, count)[1])
            observe = _as_drawn
        found = closed_form(
            setup.method,
            setup.model,
            one.params,
            raw,
            key_fit,
            observe=observe,
            progress=lambda done, number=number: progress((number + done) / len(each)),  # type: ignore[misc]
        )
        fitted.append(setup.trainer.start(found.params, one.key))
        chosen.append({"prior_scale": found.prior_scale, "log_evidence": found.log_evidence})
    write_json(run.folder / "closed_form.json", {"seeds": chosen})
    return fitted[0] if seeds is None else jax.tree.map(lambda *leaves: jnp.stack(leaves), *fitted)


def _as_drawn(key: PRNGKeyArray, x: jax.Array) -> jax.Array:
    return x


def _given_away(state: train.TrainState) -> bool:
    """Whether the next epoch, which did not end, has taken the state's buffers."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _save(run: Run, state: train.TrainState) -> None:
    epoch = int(np.max(state.epoch))
    # in this order: where it is cut off between them, going on from the older state comes to the same best parameters
    checkpoint.save(run.folder / "best", epoch, state.best)
    checkpoint.save(run.folder / "last", epoch, state)


def best_params(run: Run) -> Params:
    """The best parameters of a trained run, `[R, …]` when it trained R seeds, as they were trained (`by_seed` adapts).

    Raises UntrainedError where a seed has none, FileNotFoundError and ValueError as `checkpoint.restore`.
    """
    return _best(run.trained or run.folder, _abstract_state(run).best, run.setup.config.train.epochs)


def _best(folder: Path, like: Params, asked: int) -> Params:
    epoch, params = checkpoint.restore(folder / "best", like)
    if asked:  # without epochs a run has what it started from, on purpose
        epochs = history(folder, epoch)
        best = np.atleast_1d(epochs[-1]["best_epoch"] if epochs else 0)
        if not np.all(best):
            raise UntrainedError(
                f"Seed {np.argmin(best)} of {folder} has no trained parameters: its loss was not finite from the "
                "first epoch on; train anew with a lower learning rate or a clipped gradient."
            )
    return params


def parameters_checksum(params: Params) -> str:
    """The checksum of parameters; results that hold another are those of the run before it was trained on."""
    return checksum([np.asarray(leaf) for leaf in jax.tree.leaves(params)])


def by_seed(run: Run, params: Params) -> list[Params]:
    """The parameters that a run uses of each of its seeds, from its best ones."""
    return [run.adapt(one) for one in _unstacked(params, run.setup.config.train.num_seeds)]


def _unstacked(params: Params, seeds: int | None) -> list[Params]:
    return [params] if seeds is None else [jax.tree.map(lambda p, r=r: p[r], params) for r in range(seeds)]


def _abstract_state(run: Run) -> train.TrainState:
    """Shapes and dtypes of the run's training state, without computing anything."""
    data = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), run.setup.data)
    return _shapes(run.setup.trainer.init, run.setup.config.train.num_seeds, data)


def _shapes(init: Callable[[PRNGKeyArray, Any], Any], seeds: int | None, data: Any) -> Any:
    """What `init(key, data)` makes, of each seed where there are several, for data of which only shapes are known."""
    if seeds is None:
        return jax.eval_shape(init, jax.random.key(0), data)
    keys = jax.eval_shape(lambda k: jax.random.split(k, seeds), jax.random.key(0))
    return jax.eval_shape(jax.vmap(init, in_axes=(0, None)), keys, data)


def history(folder: Path, count: int | None = None) -> list[dict[str, Any]]:
    """The recorded epochs of a run, or the first so many; raises FileNotFoundError where it was never trained."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no metrics.jsonl; train the run first.")
    try:
        return [json.loads(line) for line in path.read_text().splitlines()[:count]]
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}; continue the run with --resume, or train it anew.") from error


def ended(run: Run) -> bool:
    """Whether training has come to its end: all epochs, the patience of every seed, or no seed with finite losses."""
    if checkpoint.latest(run.folder / "last") is None:
        return False
    epoch, state = checkpoint.restore(run.folder / "last", _abstract_state(run))
    return epoch >= run.setup.config.train.epochs or train.finished(state)


def epochs_before(folder: Path) -> int:
    """Epochs that the parameters a run started from had been trained; 0 from scratch."""
    return int(read_json(folder / "config.json").get("epochs_before", 0))


def trained_epochs(folder: Path) -> int:
    """Epochs that a run's best parameters have been trained, those of the run it started from included."""
    epochs = history(folder, checkpoint.latest(folder / "best"))  # more may be recorded than a killed run has kept
    return epochs_before(folder) + (int(np.median(epochs[-1]["best_epoch"])) if epochs else 0)


def _cut_metrics(folder: Path, epoch: int) -> None:
    """Drop lines of epochs after the checkpoint, which will be trained again; a torn last line goes with them."""
    path = folder / "metrics.jsonl"
    if path.is_file():
        lines = path.read_text().splitlines()[:epoch]
        write_text(path, "".join(line + "\n" for line in lines))
