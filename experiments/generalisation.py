"""How much of the VAE's amortization gap do other methods close on images they were trained on, and on others?

    python -m experiments.generalisation runs/table1/cpu/omniglot-gaussian-20/{vae,newton-1,savi-8} --steps 2 3
    python -m experiments.generalisation runs/compared/{vae,newton} --steps 0 --gauss-newton 1 2 --name mine

The first run is the VAE. On the first images of each split: its amortization gap, which is what each image's own best
diagonal Gaussian (SVI, on the VAE's decoder) wins over the encoder's; what the other runs' ELBOs are above the VAE's;
and this as a share of the gap. Validation images come from where the training images do; the test images may not, as
those of Omniglot, which show other alphabets. An encoder whose answers are worse there has an *inference*
generalisation gap, and everything that is amortized shares it, a learned step and its curvature included.

About ten minutes for 100 images, three seeds and all splits on one CPU core, nearly all of it SVI, which goes on where
it was stopped. Expected, on Omniglot with a Gaussian likelihood: one Newton step closes the gap on training images, two
thirds of it on validation images, and half on new alphabets. Writes
experiments/results/generalisation_NAME.json and .md; NAME is the folder the VAE's run lies in.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from experiments.command_line import command_line
from experiments.elbos import DRAWS, elbos, open_with_vae
from experiments.table1.claims import share_of
from experiments.table1.tables import nats
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.evaluate.slow import optimal_bounds
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import bars, console
from gpvae_jax.refine import STEPPING, refined, with_steps
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Generalisation:
    """Which runs, the VAE first."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    images: int = 100
    steps: tuple[int, ...] = ()
    """Where a run's method takes steps, take so many in place of its own as well: a row each."""
    output_ranks: tuple[int, ...] = ()
    """And those steps, or its own, with gradients from so many directions of the decoder's output, of newton: a row
    each."""
    gauss_newton: tuple[int, ...] = ()
    """Take so many Gauss–Newton steps, halved where that is better, from the first run's posterior: a row each."""
    name: str | None = None
    results: Path = RESULTS


def main(command: Generalisation) -> None:
    """Measure every split, print the table and keep it."""
    prepare_jax()
    base, others = open_with_vae(command.runs)
    rows = {run.folder.name: run for run in others}
    for run, steps in itertools.product(others, command.steps):
        if run.setup.config.method in STEPPING:
            rows[f"{run.folder.name}, {steps} at test time"] = with_steps(run, steps)
    for run, steps, rank in itertools.product(others, command.steps or (None,), command.output_ranks):
        if run.setup.config.method == "newton":
            at_test_time = "" if steps is None else f", {steps} at test time"
            rows[f"{run.folder.name}{at_test_time}, {rank} output directions"] = with_steps(run, steps, rank)
    for steps in command.gauss_newton:
        settings = ("covariance=full", "inner_samples=0")
        rows[f"{base.folder.name}, {steps} Gauss–Newton"] = refined(base, "newton", steps, settings)
    for row in (base, *rows.values()):
        params_by_seed(row)  # so that what is not trained, or has not so many directions, is told before the rest
    found = {split: measure(base, rows, split, command.images) for split in ("train", "validation", "test")}
    keep(found, command.results / f"generalisation_{command.name or base.folder.resolve().parent.name}", command.images)


def keep(found: dict[str, Any], path: Path, images: int) -> None:
    """Print the table, and write it and what it is made from beside each other."""
    text = table(found)
    console.print(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path.with_name(f"{path.name}.md"), text + "\n")
    kept = {"images": images, "draws": DRAWS, "splits": found, "environment": environment()}
    write_json(path.with_name(f"{path.name}.json"), kept)


def measure(base: runs.Run, others: dict[str, runs.Run], split: str, images: int, first: int = 0) -> dict[str, Any]:
    """On a split's images from the `first` on, the VAE's ELBO and gap; of every other run the gain and its share."""
    elbo = elbos(base, split, images, first=first)
    with bars() as progress:
        task = progress.add_task(f"SVI, {split}", total=1.0, text="")
        best = optimal_bounds(
            base,
            max_examples=images,
            families=("diagonal",),
            split=split,
            first=first,
            progress=lambda done: progress.update(task, completed=done),
        )["diagonal"]
    gaps = np.asarray(best, np.float64) - elbo
    rows = {name: elbos(run, split, images, first=first) for name, run in others.items()}
    return {
        "elbo": estimate(elbo.mean(axis=0))._asdict(),
        "gap": paired(elbo, best)._asdict(),
        "rows": {
            name: {
                "gain": paired(elbo, own)._asdict(),
                "share": share_of((own - elbo).mean(axis=0), gaps.mean(axis=0))._asdict(),
            }
            for name, own in rows.items()
        },
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: a column per split."""
    splits = found.values()

    def row(title: str, cells: list[str]) -> str:
        return f"| {title} | {' | '.join(cells)} |".replace("-", "−")

    lines = [row("", list(found)), "|:---|" + "---:|" * len(splits)]
    lines += [row("the VAE's ELBO", [f"{of['elbo']['mean']:.2f}" for of in splits])]
    lines += [row("its amortization gap", [nats(of["gap"]) for of in splits])]
    for name in next(iter(splits))["rows"]:
        rows = [of["rows"][name] for of in splits]
        cells = [f"{nats(r['gain'])}: {100 * r['share']['mean']:.0f} ± {100 * r['share']['se']:.0f} %" for r in rows]
        lines += [row(name.replace("-", " "), cells)]
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main, Generalisation, __doc__)
