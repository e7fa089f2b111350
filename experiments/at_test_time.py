"""Newton steps on a trained VAE, nothing learned: where to take gradient and curvature, and with which covariance.

    python -m experiments.at_test_time runs/table1/cpu/mnist-bernoulli-20/vae
    python -m experiments.at_test_time runs/demo/vae --name digits

Every validation image's posterior is refined by two Gauss–Newton steps with halving: at the posterior's mean, which
leads to the mode, or by the average over S draws, which leads to the Gaussian with the greatest ELBO; the result's
covariance diagonal or full. Gains over the amortized posterior, paired; below them what SVI wins, each image's own best
Gaussian of either kind.

Eleven minutes for 120 images, three seeds and 20 latents on one CPU core, nearly all of it SVI, which goes on
where it was stopped. Expected: steps at the mean win less than steps on draws, and where posteriors are wide they lose.
Writes experiments/results/at_test_time_NAME.json and .md; NAME is the folder the run lies in.
"""

import dataclasses
from pathlib import Path
from typing import Any

import tyro

from experiments.command_line import command_line
from experiments.elbos import DRAWS, elbos
from experiments.table1.tables import nats
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.evaluate.slow import optimal_bounds
from gpvae_jax.files import write_json, write_text
from gpvae_jax.progress import bars, console
from gpvae_jax.refine import refined

RESULTS = Path(__file__).parent / "results"
INNER = (0, 2, 4, 8, 16)  # S; 0: at the mean
COVARIANCES = ("diagonal", "full")
STEPS = 2


@dataclasses.dataclass(frozen=True)
class AtTestTime:
    """Which run."""

    run: tyro.conf.Positional[Path]
    images: int = 120
    name: str | None = None
    results: Path = RESULTS


def main(command: AtTestTime) -> None:
    """Refine in every way, print the table and keep it."""
    prepare_jax()
    run = runs.open_run(command.run)
    if run.setup.config.method != "vae":
        raise ValueError(f"A VAE's run is needed, but {run.folder} is of {run.setup.config.method}.")
    found = measure(run, command.images)
    text = table(found)
    console.print(text)
    name = command.name or run.folder.resolve().parent.name
    command.results.mkdir(parents=True, exist_ok=True)
    write_text(command.results / f"at_test_time_{name}.md", text + "\n")
    kept = {"images": command.images, "draws": DRAWS, "steps": STEPS, "environment": environment()}
    write_json(command.results / f"at_test_time_{name}.json", kept | found)


def measure(run: runs.Run, images: int) -> dict[str, Any]:
    """The amortized ELBO, and what every kind of refinement and SVI win, in nats per validation image."""
    kinds = {(inner, covariance): _refined(run, inner, covariance) for inner in INNER for covariance in COVARIANCES}
    with bars() as progress:
        task = progress.add_task("Newton", total=(1 + len(kinds)) * len(params_by_seed(run)), text="")
        amortized, *after = (
            elbos(one, "validation", images, told=lambda: progress.advance(task)) for one in (run, *kinds.values())
        )
        searched = progress.add_task("SVI", total=1.0, text="")
        best = optimal_bounds(
            run,
            max_examples=images,
            families=COVARIANCES,
            split="validation",
            progress=lambda done: progress.update(searched, completed=done),
        )
    newton = [
        {"inner_samples": inner, "covariance": covariance, "gain": paired(amortized, values)._asdict()}
        for (inner, covariance), values in zip(kinds, after, strict=True)
    ]
    svi = [
        {"covariance": covariance, "gain": paired(amortized, best[covariance])._asdict()} for covariance in COVARIANCES
    ]
    return {"elbo": float(amortized.mean()), "newton": newton, "svi": svi}


def _refined(run: runs.Run, inner: int, covariance: str) -> runs.Run:
    return refined(run, "newton", STEPS, (f"inner_samples={inner}", f"covariance={covariance}"))


def table(found: dict[str, Any]) -> str:
    """Markdown: a row per kind of step, a column per covariance."""
    gains = {(row["inner_samples"], row["covariance"]): row["gain"] for row in found["newton"]}
    rows = {
        "at the mean" if inner == 0 else f"{inner} draws": [gains[inner, covariance] for covariance in COVARIANCES]
        for inner in INNER
    }
    rows["SVI"] = [row["gain"] for row in found["svi"]]
    head = f"amortized {found['elbo']:.2f}".replace("-", "−")
    lines = [f"| {head} | {' | '.join(COVARIANCES)} |", "|:---|" + "---:|" * len(COVARIANCES)]
    lines += [f"| {title} | {' | '.join(map(nats, cells))} |" for title, cells in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    command_line(main, AtTestTime, __doc__)
