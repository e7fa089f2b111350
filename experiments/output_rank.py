"""Two Newton steps for the price of one: gradients from a few directions of a Gaussian decoder's output.

    python -m experiments.output_rank runs/table1/cpu/omniglot-gaussian-20/{vae,newton-1}
    python -m experiments.output_rank runs/compared/{vae,newton} --ranks 50 100 --steps 1 2 --name mine

The first run is the VAE, the others are of `newton`, with a Gaussian likelihood for anything but exact steps, or, as
they are, of any other method. On test images, from --first-image on: the ELBO that each of these has above the VAE's
with so many steps, whose gradients are exact or from so many directions of the decoder's output (eq. 3.13, derived;
docs/mathematics.md), with --hidden-ranks of its hidden layers as well (eq. 3.16, derived); that as a share of the VAE's
amortization gap; and the time of inference over the VAE's, batches of 128, all in turn, one sample and its density.

Six minutes for 100 images and three seeds on one CPU core, half of it SVI, which goes on where it was stopped; pin it
to one core and let nothing else run, for the times' sake. Expected: from 100 directions of 400 two steps take as long
as an exact one and win nearly as much as two. Writes experiments/results/output_rank_NAME.json and .md; NAME is the
folder the VAE's run lies in.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import tyro

from experiments.command_line import command_line
from experiments.elbos import DRAWS, open_with_vae
from experiments.generalisation import measure
from experiments.table1.tables import nats
from gpvae_jax import compare, runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import console
from gpvae_jax.refine import with_steps

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class OutputRank:
    """Which runs, the VAE first."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    images: int = 100
    first_image: int = 0
    steps: tuple[int, ...] = (1, 2, 3)
    ranks: tuple[int, ...] = (50, 100, 200)
    hidden_ranks: tuple[int, ...] = ()
    """And from so many directions of the hidden layers: a row each for every rank."""
    name: str | None = None
    results: Path = RESULTS


def main(command: OutputRank) -> None:
    """Measure every number of steps and rank, print the table and keep it."""
    prepare_jax()
    base, others = open_with_vae(command.runs)
    rows: dict[str, runs.Run] = {}
    for run in others:
        if run.setup.config.method != "newton":
            rows[f"{run.folder.name} | – | –"] = run
            continue
        for steps, ranks in itertools.product(command.steps, reductions(command)):
            title = f"{run.folder.name} | {steps} | {', '.join(map(str, ranks)) or 'exact'}"
            rows[title] = with_steps(run, steps, *ranks)
    for row in (base, *rows.values()):
        params_by_seed(row)  # so that what is not trained, or has not so many directions, is told before the rest
    found = measure(base, rows, "test", command.images, command.first_image)
    timed = compare.latencies({"vae": base} | rows)
    times = {name: timing._asdict() for name, timing in timed.items()}
    text = table(found, times)
    console.print(text)
    name = command.name or base.folder.resolve().parent.name
    command.results.mkdir(parents=True, exist_ok=True)
    write_text(command.results / f"output_rank_{name}.md", text + "\n")
    kept = {"images": command.images, "first_image": command.first_image, "draws": DRAWS, "test": found}
    kept |= {"latency_ms": times, "environment": environment()}
    write_json(command.results / f"output_rank_{name}.json", kept)


def reductions(command: OutputRank) -> list[tuple[int, ...]]:
    """None, so many output directions, and so many output and hidden directions."""
    return [(), *((rank,) for rank in command.ranks), *itertools.product(command.ranks, command.hidden_ranks)]


def table(found: dict[str, Any], times: dict[str, Any]) -> str:
    """Markdown, a row per run, number of steps and rank."""
    lines = ["| run | steps | directions | time | ELBO gain | of the gap |", "|:---|---:|---:|---:|---:|---:|"]
    for name, row in found["rows"].items():
        share = f"{100 * row['share']['mean']:.0f} ± {100 * row['share']['se']:.0f} %"
        times_vae = f"{times[name]['median'] / times['vae']['median']:.1f}×"
        line = f"| {name.replace('-', ' ')} | {times_vae} | {nats(row['gain'])} | {share} |"
        lines.append(line.replace("-", "−"))
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main, OutputRank, __doc__)
