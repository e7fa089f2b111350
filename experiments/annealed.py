"""Is the likelihood itself higher, or only the bound? Runs held against each other by annealed importance sampling.

    python -m experiments.annealed runs/table1/cpu/mnist-bernoulli-20/{vae,newton-1}
    python -m experiments.annealed runs/table1/cpu/omniglot-gaussian-20/{vae,newton-1,savi-2} --temperatures 1000

Importance bounds depend on the posterior that proposes; annealed chains (AIS) do not. On the first test images, paired
by image and seed: each run's AIS estimate of log p(x), its largest IWAE bound on the same images, and both over the
first run's. How far these estimates may lie below the truth is bracketed (BDMC) on a few images drawn from each model,
with as many temperatures and chains. Five minutes per run of three seeds on one CPU core at these settings, and it goes
on where it was stopped. Writes experiments/results/annealed_NAME.json and .md; NAME is the folder the first run lies
in.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.command_line import command_line
from experiments.elbos import open_paired
from experiments.table1.tables import nats
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import example_values
from gpvae_jax.evaluate.slow import annealed_evidence, bracketed_evidence
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import bars, console
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Annealed:
    """Which runs, evaluated before; the first is what the others are held against."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    images: int = 100
    temperatures: int = 500
    chains: int = 8
    bracketed: int = 20
    """Images drawn from each model to bracket its log p(x) on."""
    name: str | None = None
    results: Path = RESULTS


def main(command: Annealed) -> None:
    """Anneal every run, print the table and keep it."""
    prepare_jax()
    if not command.runs:
        raise ValueError("Give the folders of evaluated runs, the first being what the others are held against.")
    opened = open_paired(command.runs)
    for run in opened:
        if not (run.folder / "test.npz").is_file():
            raise ValueError(f"{run.folder} has not been evaluated; run gpvae evaluate {run.folder} first.")
    samples = {run.folder: max(_samples(run)) for run in opened}
    if len(set(samples.values())) > 1:
        told = ", ".join(f"{folder} {most}" for folder, most in samples.items())
        raise ValueError(f"The runs have bounds of unequal numbers of samples ({told}); evaluate them alike.")
    values = {run.folder.name: bounds(run, command) for run in opened}
    found = compared(values)
    for run in opened:
        found[run.folder.name]["bracket"] = bracket(run, command)
    text = table(found)
    console.print(text)
    name = command.name or opened[0].folder.resolve().parent.name
    command.results.mkdir(parents=True, exist_ok=True)
    write_text(command.results / f"annealed_{name}.md", text + "\n")
    settings = {"images": command.images, "temperatures": command.temperatures, "chains": command.chains}
    settings["bracketed"] = command.bracketed
    write_json(command.results / f"annealed_{name}.json", settings | {"runs": found, "environment": environment()})


def bounds(run: runs.Run, command: Annealed) -> dict[str, np.ndarray]:
    """Of the first images, [R, N]: the AIS estimate and the IWAE bound of the most samples."""
    found = _shown(f"AIS, {run.folder.name}", annealed_evidence, run, command.images, command)
    most, evidence = max(_samples(run)), np.asarray(found["log_evidence"], np.float64)
    bound = example_values(run.folder)[f"iwae_{most}"][:, : evidence.shape[1]]
    if bound.shape != evidence.shape:
        raise ValueError(
            f"{run.folder} was evaluated on {bound.shape[1]} images and annealed on {evidence.shape[1]}; give --images "
            "no greater than the former."
        )
    return {"AIS": evidence, f"IWAE-{most}": bound}


def _samples(run: runs.Run) -> list[int]:
    """The numbers of samples that a run has importance bounds of."""
    return [int(name.removeprefix("iwae_")) for name in example_values(run.folder) if name.startswith("iwae_")]


def bracket(run: runs.Run, command: Annealed) -> dict[str, float]:
    """Between upper and lower bound of log p(x) on images of the model's own: the mean width, nats, and its error."""
    found = _shown(f"BDMC, {run.folder.name}", bracketed_evidence, run, command.bracketed, command)
    lower, upper = (np.asarray(found[side]["log_evidence"], np.float64) for side in ("lower", "upper"))
    return estimate(np.mean(upper - lower, axis=0))._asdict()


def _shown(title: str, call: Callable[..., dict[str, Any]], run: runs.Run, images: int, command: Annealed) -> Any:
    """One of the slow estimates, with a bar."""
    with bars() as progress:
        task = progress.add_task(title, total=1.0, text="")
        return call(
            run,
            max_examples=images,
            num_temperatures=command.temperatures,
            num_chains=command.chains,
            progress=lambda done: progress.update(task, completed=done),
        )


def compared(values: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Per run and estimate: its mean, and what it is above the first run's, both with errors."""
    first = next(iter(values.values()))
    return {
        name: {
            kind: estimate(value.mean(axis=0))._asdict()
            | ({} if of is first else {"over": paired(first[kind], value)._asdict()})
            for kind, value in of.items()
        }
        for name, of in values.items()
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per run."""
    first, *_ = found
    kinds = [kind for kind in found[first] if kind != "bracket"]
    heads = [head for kind in kinds for head in (kind, f"over {first.replace('-', ' ')}")]
    lines = ["| | " + " | ".join([*heads, "bracket"]) + " |", "|:---|" + "---:|" * (len(heads) + 1)]
    for name, of in found.items():
        cells = [cell for kind in kinds for cell in (_mean(of[kind]), nats(of[kind].get("over")))]
        lines.append(f"| {name.replace('-', ' ')} | " + " | ".join([*cells, _mean(of["bracket"])]) + " |")
    return "\n".join(lines)


def _mean(of: dict[str, Any]) -> str:
    return f"{of['mean']:.2f} ± {of['se']:.2f}".replace("-", "−")


if __name__ == "__main__":
    command_line(main, Annealed, __doc__)
