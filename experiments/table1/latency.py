"""Inference time of every finished row, all rows of a table in turn: for a machine that does nothing else.

    python -m experiments.table1.latency --data omniglot=omniglot.npz

Reads experiments/results/table1/SCALE/TABLE/*.json and writes TABLE.latency.json beside the folders: milliseconds for
a batch of 128, for its posterior, one sample of it and that sample's density, median and 10th and 90th percentiles.
Parameters are as before training, for the operations are the same, and tables with images of one size, one likelihood
and one number of latents share their programs. Compiling all rows takes two minutes per table of one CPU core, and each
row is called for five seconds. On a shared CPU the ratios of two measurements differed by up to
a third.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from experiments.command_line import command_line
from experiments.table1.cells import SCALES, Cell
from experiments.table1.tables import latency_file, read
from experiments.table1.work import RESULTS, Job, files, settings
from gpvae_jax import build, data, runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.data import Dataset
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.latency import measure
from gpvae_jax.evaluate.run import LATENCY_BATCH, latency_call
from gpvae_jax.files import write_json
from gpvae_jax.progress import say


@dataclasses.dataclass(frozen=True)
class Latency:
    """What is measured."""

    data: tuple[str, ...] = ()
    """Files of your own for data sets by name, as in omniglot=FILE.npz."""
    results: Path = RESULTS
    seconds: float = 5.0
    """For each row."""


def main(command: Latency) -> None:
    """Measure scale after scale, and in each the programs of equal images, likelihood and latents together."""
    prepare_jax()
    measured = 0
    for budget, scale in SCALES.items():
        job = Job(budget, scale, Path(), command.results, files(command.data))
        groups: dict[tuple[Any, ...], list[Path]] = {}
        for folder in sorted(path for path in (command.results / budget).glob("*") if path.is_dir()):
            if "vae" in (rows := read(folder)):  # what the others' times are held against
                cell = Cell(**rows["vae"]["cell"])
                shape = _dataset(job, cell.data).test.shape[1:]
                groups.setdefault((shape, cell.likelihood, cell.latents), []).append(folder)
        for folders in groups.values():
            _measure(job, folders, command.seconds)
            measured += len(folders)
    if not measured:
        raise ValueError(
            f"{command.results} holds no table with a finished VAE, as SCALE/TABLE/vae.json; make one with "
            "python -m experiments.table1."
        )


def _measure(job: Job, folders: list[Path], seconds: float) -> None:
    """The tables whose programs differ in nothing but the methods' settings, each program once."""
    tables = {folder: read(folder) for folder in folders}
    programs = {_program(found): found for rows in tables.values() for found in rows.values()}
    calls = {name: _call(job, found, _dataset(job, found["cell"]["data"])) for name, found in programs.items()}
    times = {program: value._asdict() for program, value in measure(calls, seconds=seconds).items()}
    for folder, rows in tables.items():
        found = {title: times[_program(row)] for title, row in rows.items()}
        batch = min(LATENCY_BATCH, len(_dataset(job, rows["vae"]["cell"]["data"]).test))
        write_json(latency_file(folder), {"batch": batch, "latency_ms": found, "environment": environment()})
        say(f"{folder.name}: {len(found)} rows, the VAE {found['vae']['median']:.2f} ms")


def _program(found: dict[str, Any]) -> str:
    """A row's settings but for those of training."""
    return ":".join(item for item in found["label"].split(":") if not item.startswith("train."))


@functools.cache
def _load(name: str) -> Dataset:
    return data.load(name)


def _dataset(job: Job, name: str) -> Dataset:
    return _load(job.files.get(name, name))


def _call(job: Job, found: dict[str, Any], dataset: Dataset) -> tuple[Any, tuple[Any, ...]]:
    """A finished row's inference, untrained."""
    setup = build.build(settings(job, Cell(**found["cell"]), dataset, found["label"], epochs=1), dataset)
    params = jax.jit(setup.trainer.init)(jax.random.key(0), setup.data).params
    return latency_call(runs.Run(Path(), setup), params)


if __name__ == "__main__":
    command_line(main, Latency, __doc__)
