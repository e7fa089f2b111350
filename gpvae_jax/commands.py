"""What the commands do: the only room that prints, but for the progress bars."""

import functools
import json
import math
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress, TaskID

from gpvae_jax import build, cli, compare, plots, runs, train
from gpvae_jax.config import Config
from gpvae_jax.data import DATASETS, Dataset
from gpvae_jax.deploy import PLATFORMS, export_inference
from gpvae_jax.evaluate import slow
from gpvae_jax.evaluate.panels import posterior_panels_of
from gpvae_jax.evaluate.run import SPLITS, evaluate_run, params_by_seed, summary
from gpvae_jax.likelihoods import LIKELIHOODS
from gpvae_jax.methods import METHODS
from gpvae_jax.methods.svi import FAMILIES
from gpvae_jax.naming import unknown
from gpvae_jax.observation import BINARIZATIONS
from gpvae_jax.progress import STEPS, bars, console, say, unit_bar
from gpvae_jax.refine import refined
from gpvae_jax.report import png, table


def run(command: Any) -> None:
    """Carry out a parsed command."""
    use_compilation_cache()
    carry_out: dict[type, Callable[[Any], None]] = {
        cli.Train: train_command,
        cli.Evaluate: evaluate_command,
        cli.Compare: compare_command,
        cli.Sample: sample_command,
        cli.Plot: plot_command,
        cli.Export: export_command,
        cli.List: list_command,
    }
    carry_out[type(command)](command)


def use_compilation_cache() -> None:
    """Keep compiled programs between processes, unless the user has set a cache of their own."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str(Path("~/.cache/gpvae_jax/xla").expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


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
    record = train_with_bar(run, resume=command.resume, observer=_tensorboard(folder) if command.tensorboard else None)
    if record is None:
        say(f"Nothing left to train: {folder} has all its {run.setup.config.train.epochs} epochs.")
        return
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
    writer = SummaryWriter(str(folder / "tensorboard"))

    def write(record: train.Record) -> None:
        for name, value in record.metrics.items():
            for i, v in enumerate(np.atleast_1d(value)):
                writer.add_scalar(f"{name}/{i}" if np.ndim(value) else name, float(v), record.epoch)
        writer.flush()

    return write


def evaluate_command(command: cli.Evaluate) -> None:
    """Evaluate a trained run on its test set and keep the result in its folder."""
    for name in command.estimators:
        if name not in ESTIMATORS:
            raise ValueError(unknown("estimator", name, ESTIMATORS))
    if command.split not in SPLITS:
        raise ValueError(unknown("split", command.split, SPLITS))
    if command.split != "test" and set(command.estimators) != {"iwae"}:
        raise ValueError(
            f"Only the estimator iwae knows the split '{command.split}'; leave the others to the test set."
        )
    run = runs.open_run(command.run)
    describe(run)
    if command.refine is not None:
        run = refined(run, command.refine, command.steps, command.refine_settings)
        run.folder.mkdir(parents=True, exist_ok=True)
    elif command.steps is not None or command.refine_settings:
        raise ValueError("--steps and --refine-settings are of a refinement; name it with --refine.")
    path = run.folder / SPLITS[command.split]
    if "iwae" in command.estimators or not path.is_file():
        count = len(getattr(run.setup.dataset, command.split)[: command.max_examples])
        with bars() as progress:
            task = progress.add_task("evaluating", total=count * (run.setup.config.train.num_seeds or 1), text="")
            results = evaluate_run(
                run,
                num_samples=command.num_samples,
                max_examples=command.max_examples,
                seed=command.seed,
                split=command.split,
                progress=lambda done: progress.update(task, completed=done),
            )
    else:
        results = json.loads(path.read_text())
    for name, value in results[command.split].items():
        say(f"  {name:<12} {value['mean']:10.3f} ± {value['stderr']:.3f}")
    if results.get("untrusted") is not None:
        say(f"  {'k̂ > 0.7':<12} {100 * results['untrusted']:10.1f} % of the examples")
    timing = results["latency_ms"]
    say(f"  {'inference':<12} {timing['median']:10.3f} ms per batch of {results['latency_batch']}")
    examples = f"{results['num_examples']} {command.split} examples"
    say(f"{examples}; bounds in nats per example, ± standard error over examples.")
    results |= _slow_estimates(run, command, results["num_examples"])
    runs.write_json(path, results)
    say(f"Kept in {path}")


ESTIMATORS = ("iwae", "ais", "gaps", "uncertainty")


def _slow_estimates(run: runs.Run, command: cli.Evaluate, evaluated: int) -> dict[str, Any]:
    """What the slow estimators find, for results.json; printed on the way."""
    wanted, count = set(command.estimators), min(command.slow_examples, evaluated)
    found: dict[str, Any] = {}
    annealed = optima = None
    if "ais" in wanted:
        with unit_bar("annealing") as update:
            annealed = slow.annealed_evidence(
                run,
                max_examples=count,
                num_temperatures=command.temperatures,
                num_chains=command.chains,
                seed=command.seed,
                progress=update,
            )
        found["ais"] = {name: summary(value) for name, value in annealed.items()}
        value = found["ais"]["log_evidence"]
        say(f"  {'AIS':<12} {value['mean']:10.3f} ± {value['stderr']:.3f} over {count} examples")
    if wanted & {"gaps", "uncertainty"}:
        with unit_bar("optimising each example") as update:
            families = FAMILIES if "gaps" in wanted else FAMILIES[:1]
            optima = slow.optimal_bounds(run, max_examples=count, families=families, seed=command.seed, progress=update)
    if "gaps" in wanted:
        assert optima is not None
        found["gaps"] = slow.gap_summaries(run, optima, annealed)
        for family in optima:
            for name, value in found["gaps"][family].items():
                say(f"  {family:<9} {name:<14} gap {value['mean']:8.3f} ± {value['stderr']:.3f}")
    if "uncertainty" in wanted:
        assert optima is not None
        found["uncertainty"] = slow.uncertainty_summaries(run, optima)
        say("  Spearman's correlation with the amortization gap, 95 % interval, first seed:")
        for name, score in found["uncertainty"]["spearman_with_amortization_gap"][0].items():
            say(f"  {name:<22} {score['value']:+.2f}  [{score['low']:+.2f}, {score['high']:+.2f}]")
    return found


def compare_command(command: cli.Compare) -> None:
    """Train what is not yet trained, evaluate what is not yet evaluated, and write the report."""
    wanted = compare.configs(command.run, command.methods or tuple(METHODS), command.out)
    data = runs.load_data(command.run)
    wanted = {label: build.build(settings, data).config for label, settings in wanted.items()}  # all checked first
    compared = {}
    with bars() as progress:
        task = progress.add_task("comparing", total=STEPS * len(wanted), text="")
        for number, (label, settings) in enumerate(wanted.items()):
            step = functools.partial(_advance, progress, task, STEPS * number, label)
            compared[label] = _finish_run(command, compare.folder_name(label), settings, data, step)
        progress.update(task, text="timing inference and writing the report")
        made, path = compare.report(command.out, compared, shlex.join(["gpvae", *sys.argv[1:]]))
        progress.update(task, text="")
    console.print(table(made, "rich"))
    say(compare.conclusion(compared))
    say(f"Report: {path}   the table as Markdown, CSV and LaTeX beside it, one run folder per method")


def _advance(progress: Progress, task: TaskID, start: int, label: str, done: float, text: str) -> None:
    progress.update(task, completed=round(start + done * STEPS), text=f"{label}: {text}")


def _finish_run(
    command: cli.Compare, name: str, settings: Config, data: Dataset, step: Callable[[float, str], None]
) -> runs.Run:
    """A trained and evaluated run in its folder, doing only what is still missing."""
    folder = command.out / name
    exists = (folder / "config.json").exists()
    run = runs.open_run(folder, data) if exists else runs.create(folder, settings, data)
    compare.same_settings(run, settings)
    if not _evaluated(run, command):
        step(0.0, "compiling")
        for record in runs.records(run, resume=True, progress=lambda done: step(0.8 * done, "fitting in closed form")):
            step(0.8 * record.epoch / settings.train.epochs, progress_text(record))
        step(0.8, "evaluating")
        count = len(run.setup.dataset.test[: command.max_examples]) * (settings.train.num_seeds or 1)
        evaluate_run(
            run,
            num_samples=command.num_samples,
            max_examples=command.max_examples,
            progress=lambda done: step(0.8 + 0.2 * done / count, "evaluating"),
        )
    step(1.0, "done")
    return run


def _evaluated(run: runs.Run, command: cli.Compare) -> bool:
    path = run.folder / "results.json"
    if not path.is_file():
        return False
    results = json.loads(path.read_text())
    count = len(run.setup.dataset.test[: command.max_examples])
    return (results["num_samples"], results["num_examples"]) == (list(command.num_samples), count)


def sample_command(command: cli.Sample) -> None:
    """Draw examples from a trained model: samples.png and samples.npz."""
    if command.count < 1:
        raise ValueError(f"--count must be at least 1, got {command.count}.")
    run = runs.open_run(command.run)
    params = params_by_seed(run)[0]
    out = command.out or command.run
    out.mkdir(parents=True, exist_ok=True)
    z, x = run.setup.model.sample(params.model, jax.random.key(command.seed), command.count)
    mean = np.asarray(run.setup.model.mean(params.model, z))
    runs.write_npz(out / "samples.npz", {"z": np.asarray(z), "x": np.asarray(x), "mean": mean})
    save_figure(plots.images_grid(mean, columns=math.ceil(math.sqrt(command.count))), out / "samples.png")
    say(f"{command.count} samples: {out / 'samples.png'} (means), {out / 'samples.npz'} (z, x and mean)")


POSTERIORS = 6  # test examples whose posteriors are drawn


def plot_command(command: cli.Plot) -> None:
    """Draw what a run folder holds."""
    run = runs.open_run(command.run)
    out = command.out or command.run
    out.mkdir(parents=True, exist_ok=True)
    name, params = run.setup.config.method, params_by_seed(run)[0]
    x = compare.test_images(run)
    figures = {
        "learning_curve.png": plots.learning_curves({name: runs.history(command.run)}),
        "reconstructions.png": plots.reconstructions(x, {name: compare.reconstruct(run, params, x)}),
        "prior_samples.png": plots.prior_samples({name: compare.draw(run, params, 4 * compare.SHOWN, seed=0)}),
    }
    if run.setup.model.latent_dim > 1:
        panels = posterior_panels_of(run.setup.method, run.setup.model, params, jnp.asarray(x[:POSTERIORS]))
        figures["posteriors.png"] = plots.posterior_panels(panels)
    for file, figure in figures.items():
        save_figure(figure, out / file)
        say(f"{out / file}")


def export_command(command: cli.Export) -> None:
    """Write a run's inference as a program of its own."""
    run = runs.open_run(command.run)
    each = params_by_seed(run)
    if not 0 <= command.member < len(each):
        raise ValueError(f"--member must be from 0 to {len(each) - 1}, the run's seeds, got {command.member}.")
    setup, out = run.setup, command.out or command.run / "inference.jaxexport"
    content = export_inference(setup.method, setup.model, each[command.member], num_samples=command.num_samples)
    out.parent.mkdir(parents=True, exist_ok=True)
    runs.write_bytes(out, content)
    size, shape = len(content) / 2**20, "×".join(map(str, setup.model.data_shape))
    say(f"{out}: {size:.1f} MiB, takes a seed (uint32) and x of shape B×{shape} (float32), for {', '.join(PLATFORMS)}")
    say(f"Load it with jax.export.deserialize, or gpvae_jax.deploy.load_inference({str(out)!r}).")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    runs.write_bytes(path, png(figure))


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
