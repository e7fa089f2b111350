"""`gpvae train`: one run in a folder, with a progress bar."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.progress import Progress, TaskID

from gpvae_jax import cli, compare, runs, train
from gpvae_jax.config import Config
from gpvae_jax.progress import STEPS, bars, say


def train_command(command: cli.Train) -> None:
    """Train one run in a folder."""
    settings = command.run
    default = f"{Path(settings.data.name).stem}-{settings.method}-{settings.train.seed}"
    folder = command.out or Path("runs") / default
    observer = _tensorboard(folder) if command.tensorboard else None  # before the folder is made: it may be missing
    if command.resume:
        run = runs.open_run(folder)
        compare.same_settings(run, settings, default=Config())
        say(f"Resuming {folder}: settings are the run's own.")
    else:
        run = runs.create(folder, settings)
    describe(run)
    record = train_with_bar(run, resume=command.resume, observer=observer)
    if record is None and run.setup.config.train.epochs:
        done, most = len(runs.history(folder)), run.setup.config.train.epochs
        say(f"Nothing left to train: {folder} ended after {done} of at most {most} epochs.")
        return
    if record is not None:
        say(f"Best validation ELBO {_text(record.state.best_bound)} nats at epoch {_text(record.state.best_epoch, 0)}.")
    say(f"Run folder: {folder}   next: gpvae evaluate {folder}")


def describe(run: runs.Run) -> None:
    """A line about what is about to run."""
    setup = run.setup
    counts = " + ".join(str(len(part)) for part in (setup.dataset.train, setup.dataset.validation, setup.dataset.test))
    say(
        f"{setup.config.method} on {setup.dataset.name} ({counts} train + validation + test, "
        f"binarization {setup.config.data.binarization}), {setup.likelihood.name} likelihood, "
        f"{setup.model.latent_dim} latents, {jax.devices()[0].device_kind}"
    )


def train_with_bar(
    run: runs.Run, *, resume: bool, observer: Callable[[train.Record], None] | None = None
) -> train.Record | None:
    """Train with a progress bar; the last record, or None where nothing was left to do."""
    record, total = None, run.setup.config.train.epochs or STEPS  # no epochs: another's parameters, or a fit to them
    with bars() as progress:
        task = progress.add_task("training", total=total, text="compiling")
        fitting = functools.partial(_fitting, progress, task, total)
        for record in runs.records(run, resume=resume, progress=fitting):
            if observer:
                observer(record)
            progress.update(task, completed=record.epoch, text=progress_text(record))
        if record is not None and record.epoch < total:
            progress.update(task, total=record.epoch)
    return record


def _fitting(progress: Progress, task: TaskID, total: int, done: float) -> None:
    progress.update(task, completed=round(done * total), text="fitting the error posterior")


def progress_text(record: train.Record) -> str:
    """Training and validation ELBO and speed, for beside a bar."""
    elbo, bound = record.metrics["elbo"], record.metrics["validation_elbo"]
    return f"ELBO {_text(elbo)}  validation {_text(bound)} nats  {record.seconds:.2f} s/epoch"


def _text(value: Any, digits: int = 2) -> str:
    values = np.atleast_1d(np.asarray(value))
    return " ".join(f"{v:.{digits}f}" for v in values)


def _tensorboard(folder: Path) -> Callable[[train.Record], None]:
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "TensorBoard files need the package tensorboardX: pip install 'gpvae-jax[tensorboard]'."
        ) from error
    writers: list[Any] = []

    def write(record: train.Record) -> None:
        if not writers:  # at the first epoch: it makes the folder
            writers.append(SummaryWriter(str(folder / "tensorboard")))
        (writer,) = writers
        for name, value in record.metrics.items():
            for i, v in enumerate(np.atleast_1d(value)):
                writer.add_scalar(f"{name}/{i}" if np.ndim(value) else name, float(v), record.epoch)
        writer.flush()

    return write
