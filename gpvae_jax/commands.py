"""What the commands do: the only room that prints, and the only one with progress bars."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from gpvae_jax import build, cli, runs, train
from gpvae_jax.data import DATASETS
from gpvae_jax.evaluate.run import evaluate_run
from gpvae_jax.likelihoods import LIKELIHOODS
from gpvae_jax.methods import METHODS
from gpvae_jax.observation import BINARIZATIONS

console = Console()
say = functools.partial(console.print, highlight=False, soft_wrap=True)


def run(command: Any) -> None:
    """Carry out a parsed command."""
    use_compilation_cache()
    {
        cli.Train: train_command,
        cli.Evaluate: evaluate_command,
        cli.List: list_command,
    }[type(command)](command)


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user has set a cache of their own."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/gpvae_jax/xla").expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def bars() -> Progress:
    """A progress bar with the time left and a text of one's own."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left  {task.fields[text]}"),
        console=console,
    )


def train_command(command: cli.Train) -> None:
    """Train one run in a folder."""
    settings = command.run
    default = f"{Path(settings.data.name).stem}-{settings.method}-{settings.train.seed}"
    folder = command.out or Path("runs") / default
    if command.resume:
        run = runs.open_run(folder)
        say(f"Resuming {folder}: settings are the run's own.")
    else:
        run = runs.create(folder, settings)
    describe(run)
    record = train_with_bar(
        run, resume=command.resume, observer=_tensorboard(folder) if command.tensorboard else None
    )
    if record is None:
        say(f"Nothing left to train: {folder} has all its {run.setup.config.train.epochs} epochs.")
        return
    say(
        f"Best validation ELBO {_text(record.state.best_bound)} nats at epoch {_text(record.state.best_epoch, 0)}."
    )
    say(f"Run folder: {folder}   next: gpvae evaluate {folder}")


def describe(run: runs.Run) -> None:
    """A line about what is about to run."""
    setup = run.setup
    counts = " + ".join(
        str(len(part)) for part in (setup.dataset.train, setup.dataset.validation, setup.dataset.test)
    )
    say(
        f"{setup.config.method} on {setup.dataset.name} ({counts} train + validation + test, "
        f"binarization {setup.config.data.binarization}), {setup.likelihood.name} likelihood, "
        f"{setup.model.latent_dim} latents, {jax.devices()[0].device_kind}"
    )


def train_with_bar(
    run: runs.Run, *, resume: bool, observer: Callable[[train.Record], None] | None = None
) -> train.Record | None:
    """Train with a progress bar; the last record, or None where nothing was left to do."""
    record, total = None, run.setup.config.train.epochs
    with bars() as progress:
        task = progress.add_task("training", total=total, text="compiling")
        for record in runs.records(run, resume=resume):
            if observer:
                observer(record)
            progress.update(task, completed=record.epoch, text=progress_text(record))
        if record is not None and record.epoch < total:
            progress.update(task, total=record.epoch)
    return record


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
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(record: train.Record) -> None:
        for name, value in record.metrics.items():
            for i, v in enumerate(np.atleast_1d(value)):
                writer.add_scalar(f"{name}/{i}" if np.ndim(value) else name, float(v), record.epoch)
        writer.flush()

    return write


def evaluate_command(command: cli.Evaluate) -> None:
    """Evaluate a trained run on its test set and keep the result in its folder."""
    run = runs.open_run(command.run)
    describe(run)
    count = len(run.setup.dataset.test[: command.max_examples])
    with bars() as progress:
        task = progress.add_task("evaluating", total=count * (run.setup.config.train.num_seeds or 1), text="")
        results = evaluate_run(
            run,
            num_samples=command.num_samples,
            max_examples=command.max_examples,
            seed=command.seed,
            progress=lambda done: progress.update(task, completed=done),
        )
    for name, value in results["test"].items():
        say(f"  {name:<12} {value['mean']:10.3f} ± {value['stderr']:.3f}")
    timing = results["latency_ms"]
    say(f"  {'inference':<12} {timing['median']:10.3f} ms per batch of {results['latency_batch']}")
    say(
        f"{count} test examples; bounds in nats per example, ± standard error over examples. {command.run}/results.json"
    )


def list_command(command: cli.List) -> None:
    """Everything that has a name."""
    say("[bold]Methods[/bold] (settings with their defaults)")
    for name, factory in METHODS.items():
        settings = ", ".join(f"{k}={v}" for k, v in build.method_settings(factory).items())
        say(f"  {name:<14}{(factory.__doc__ or '').strip().splitlines()[0]}\n  {'':<14}[dim]{settings}[/dim]")
    say("[bold]Data sets[/bold] (or the path of your own .npz or .npy file)")
    for name, spec in DATASETS.items():
        say(f"  {name:<18}{'×'.join(map(str, spec.shape)):<10} {spec.description}")
    say(f"[bold]Likelihoods[/bold]    {', '.join(LIKELIHOODS)}")
    say(f"[bold]Binarizations[/bold]  {', '.join(BINARIZATIONS)}")
    say(f"[bold]Architectures[/bold]  {', '.join(build.ARCHITECTURES)}")
