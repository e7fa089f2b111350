"""One cell done: trained, evaluated, and written as a small JSON file."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.table1.cells import BY_TITLE, DATASETS, GUESSES, Cell, Scale, candidates, needs
from gpvae_jax import build, compare, config, data, runs
from gpvae_jax.commands import finish_run, train_run
from gpvae_jax.data import Dataset
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import example_values
from gpvae_jax.evaluate.slow import optimal_bounds
from gpvae_jax.files import write_json
from gpvae_jax.train import DivergenceError

RESULTS = Path(__file__).parents[1] / "results" / "table1"
GAP_EXAMPLES = 100  # test images for which the best Gaussian is searched: a minute per seed, of one core
KEPT = ("num_examples", "num_seeds", "num_samples", "untrusted", "num_params", "environment")


class Job(NamedTuple):
    """Where things are, and how large."""

    budget: str
    scale: Scale
    runs: Path
    results: Path
    files: dict[str, str]  # data set -> the file of one's own that it is read from

    def folder(self, cell: Cell) -> Path:
        """The cell's run, or of a choice its runs."""
        return self.runs / self.budget / cell.name

    def result(self, cell: Cell) -> Path:
        """What it leaves when it is done."""
        return self.results / self.budget / f"{cell.name}.json"

    def read(self, cell: Cell) -> dict[str, Any]:
        """What it has left."""
        return json.loads(self.result(cell).read_text())


def files(items: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE, …; raises ValueError, one sentence, where it is something else."""
    found = dict(item.partition("=")[::2] for item in items)
    for name, path in found.items():
        if name not in DATASETS or not path:
            raise ValueError(f"--data takes NAME=FILE with a NAME of {', '.join(DATASETS)}, got '{name}'.")
        if path not in data.DATASETS and not Path(path).expanduser().is_file():
            raise FileNotFoundError(f"--data {name}={path}: there is no such file.")
    return found


def do(job: Job, cell: Cell) -> None:
    """Do what is left of a cell and write its result."""
    dataset = data.load(job.files.get(cell.data, cell.data))
    _check_images(job, cell, dataset)
    found = {"start": _start, "choice": _choose, "row": _row}[cell.kind](job, cell, dataset)
    if cell.kind != "start":
        found["start"] = None if _from_scratch(job.scale, cell) else job.read(needs(cell)[0])["parameters"]
    found = {"cell": cell._asdict(), "budget": job.budget, "scale": job.scale._asdict()} | found
    job.result(cell).parent.mkdir(parents=True, exist_ok=True)
    write_json(job.result(cell), found | {"data_checksum": dataset.checksum}, indent=None)


def settings(job: Job, cell: Cell, dataset: Dataset, label: str, epochs: int) -> config.Config:
    """The configuration of one run of a cell."""
    scale = job.scale
    count = len(dataset.train) if scale.train_examples is None else min(scale.train_examples, len(dataset.train))
    row = None if cell.kind != "row" else BY_TITLE[cell.title]
    scratch = _from_scratch(scale, cell)
    if scratch and row:
        epochs += scale.start_epochs
    training = {
        "epochs": epochs,
        "learning_rate": 2e-3,
        "schedule": "constant" if cell.kind == "start" else "cosine",
        "beta_warmup_epochs": min(5.0, scale.start_epochs / 2) if scratch else 0.0,
        "ema_decay": 0.999,
        "num_seeds": scale.num_seeds,
        "patience": None if cell.kind == "start" else scale.patience,
        "start_from": None if scratch else str(job.folder(needs(cell)[0])),
    }
    base = config.from_dict(
        {
            "data": {"name": job.files.get(cell.data, cell.data), "train_examples": count},
            "model": {
                "likelihood": cell.likelihood,
                "latent_dim": cell.latents,
                "architecture": scale.architecture,
                "hidden": scale.hidden,
            },
            "train": training,
        }
    )
    (made,) = compare.configs(base, [f"{cell.title}={label}"], job.runs).values()
    return build.resolve(made, dataset)


def _from_scratch(scale: Scale, cell: Cell) -> bool:
    """Whether the cell's runs do not go on from the start."""
    if cell.kind != "row":
        return cell.kind == "start" or not (scale.warm or cell.title == "recmix")
    row = BY_TITLE[cell.title]
    return row.own_shapes or not (scale.warm or row.family == "recmix")


def _start(job: Job, cell: Cell, dataset: Dataset) -> dict[str, Any]:
    """A VAE with KL warm-up and a constant learning rate, which the others go on from."""
    run = train_run(job.folder(cell), settings(job, cell, dataset, "vae", job.scale.start_epochs), dataset)
    return {
        "parameters": runs.parameters_checksum(runs.best_params(run)),
        "seconds": _seconds(run),
        "environment": environment(),
    }


def _choose(job: Job, cell: Cell, dataset: Dataset) -> dict[str, Any]:
    """Short runs of a family's candidates, judged by the IWAE bound of validation images; test images stay unseen.

    A candidate of which all seeds diverge, or one within its first epoch, has no bound and is not chosen.
    """
    started, values = time.perf_counter(), {}
    row = next(row for row in BY_TITLE.values() if row.family == cell.title)
    samples = job.scale.num_samples[:1]
    for end in candidates(cell.title):
        label = f"{row.label}:{end}"
        with contextlib.suppress(DivergenceError, runs.UntrainedError):
            run = finish_run(
                job.folder(cell) / compare.folder_name(label),
                settings(job, cell, dataset, label, job.scale.trial_epochs),
                dataset,
                num_samples=samples,
                max_examples=job.scale.trial_examples,
                split="validation",
            )
            values[end] = example_values(run.folder, "validation")[f"iwae_{samples[0]}"]
    bounds = {end: float(v.mean()) for end, v in values.items() if np.all(np.isfinite(v))}
    if not bounds:
        raise ValueError(f"None of the settings of {cell.title} has finite bounds, so there is none to choose.")
    best, first = max(bounds, key=lambda end: bounds[end]), next(iter(bounds))
    return {
        "chosen": best,
        "trials": {end: bounds.get(end) for end in candidates(cell.title)},
        "over_the_first": {end: paired(values[first], values[end])._asdict() for end in bounds if end != first},
        "seconds": round(time.perf_counter() - started, 1),
        "environment": environment(),
    }


def _row(job: Job, cell: Cell, dataset: Dataset) -> dict[str, Any]:
    _, choice, *_ = needs(cell)
    label = f"{BY_TITLE[cell.title].label}:{job.read(choice)['chosen']}"
    folder, scale = job.folder(cell), job.scale
    run = train_run(folder, settings(job, cell, dataset, label, scale.epochs), dataset)
    started = time.perf_counter()
    run = finish_run(folder, run.setup.config, dataset, num_samples=scale.num_samples, max_examples=scale.test_examples)
    results = json.loads((folder / "results.json").read_text())
    values = {bound: example_values(folder)[bound] for bound in ("elbo", f"iwae_{max(scale.num_samples)}")}
    if cell.title == "vae":
        count = min(GAP_EXAMPLES, results["num_examples"])
        best = optimal_bounds(run, max_examples=count, families=("diagonal",))["diagonal"]
        values["amortization_gap"] = best - values["elbo"][:, :count]
    epochs = runs.history(folder)
    return {
        "label": label,
        "test": results["test"],
        **{name: results[name] for name in KEPT},
        "epochs": len(epochs),
        "best_epoch": epochs[-1]["best_epoch"],
        "validation_elbo": float(np.mean(_at_best(epochs))),
        "train_seconds": sum(epoch["seconds"] for epoch in epochs),
        "seconds": _seconds(run) + round(time.perf_counter() - started, 1),
        "values": {name: _means(value) for name, value in values.items()},
    }


def _means(values: np.ndarray) -> dict[str, np.ndarray]:
    """Of values [R, N] what pairs a row with any other: means over seeds and over images, nats."""
    return {"images": values.mean(axis=0).round(3), "seeds": values.mean(axis=1)}


def _at_best(epochs: list[dict[str, Any]]) -> list[float]:
    """Each seed's validation ELBO at the epoch that was kept. Raises ValueError where a seed kept its start."""
    best = epochs[-1]["best_epoch"]
    if not all(best):
        raise ValueError(f"Seed {list(best).index(0)} has no epoch with a finite validation ELBO: see its settings.")
    return [epochs[epoch - 1]["validation_elbo"][seed] for seed, epoch in enumerate(best)]


def _seconds(run: runs.Run) -> float:
    return round(sum(epoch["seconds"] for epoch in runs.history(run.folder)), 1)


def renew_starts(job: Job, cells: list[Cell]) -> None:
    """Where a start's run is gone, as on another machine, and rows that need it are left, have it trained again."""
    lost = [c for c in cells if c.kind == "start" and job.result(c).is_file() and not job.folder(c).is_dir()]
    for start in lost:
        if any(start in needs(other) and not job.result(other).is_file() for other in cells):
            job.result(start).unlink()


def _check_images(job: Job, cell: Cell, dataset: Dataset) -> None:
    """Raise ValueError where finished cells of this table have other images."""
    for path in job.result(cell).parent.glob("*.json"):
        if json.loads(path.read_text())["data_checksum"] != dataset.checksum:
            raise ValueError(
                f"{path} was made from other images than {job.files.get(cell.data, cell.data)} holds now; give the "
                "same file or split, or remove the table's results."
            )


def check_scale(job: Job, cells: list[Cell]) -> None:
    """Raise ValueError where results lie that were made at another scale than is wanted now."""
    wanted = json.loads(json.dumps(job.scale._asdict()))
    for cell in cells:
        if not job.result(cell).is_file():
            continue
        for name, value in job.read(cell)["scale"].items():
            if name not in GUESSES and value != wanted[name]:
                raise ValueError(
                    f"{job.result(cell)} was made with {name} = {value!r}, but '{job.budget}' now means "
                    f"{wanted[name]!r}; remove the results of the old scale and their runs in {job.runs}."
                )
