"""Is the GP's own uncertainty a good trust region for a Newton step, and does it say who needs a second one?

    python -m experiments.trust_region runs/difficulty_gaussian/gpvae
    python -m experiments.trust_region runs/difficulty_gaussian/over-the-vae-held-out-images runs/gpvae/gpvae

For finished GPVAE runs. Every test image's posterior is refined at test time by Newton steps of several kinds, once
with the precision P of the GP's mean error as the prior of the step and once with P = 0: the gain in ELBO, paired over
the images, and the share of images that the step made worse. Then, for Gauss–Newton steps with P = 0: of what a second
step wins, how much is had when only some of the images get it, those with the largest score (the negative ELBO after
the first step, the others before it), as the area above chance, over all shares, in units of the oracle's. The ELBO is
measured on 200 draws. A few minutes a run on one CPU core. Writes experiments/results/trust_region.json; runs measured
before stay in it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from experiments.command_line import command_line
from experiments.elbos import DRAWS, elbos
from experiments.selective_refinement import SCORES
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.paired import paired
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.evaluate.scores import example_scores
from gpvae_jax.evaluate.uncertainty import selective_refinement
from gpvae_jax.files import write_json
from gpvae_jax.progress import bars, console
from gpvae_jax.refine import refined
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"
AT_THE_MEAN = ("inner_samples=0",)
ENCODER = ("curvature=encoder", "covariance=base", "halvings=0", *AT_THE_MEAN)
GAUSS_NEWTON = ("covariance=diagonal", *AT_THE_MEAN)
STEPS: dict[str, tuple[int, tuple[str, ...]]] = {
    "encoder, η = ½": (1, (*ENCODER, "step_size=0.5")),
    "encoder, η = 1": (1, ENCODER),
    "4 × encoder, η = ½": (4, (*ENCODER, "step_size=0.5")),
    "Gauss–Newton": (1, (*GAUSS_NEWTON, "halvings=0")),
    "Gauss–Newton, halved": (1, GAUSS_NEWTON),
    "2 × Gauss–Newton, halved": (2, GAUSS_NEWTON),
}  # name -> steps and settings of newton
ONE, TWO = "Gauss–Newton, halved", "2 × Gauss–Newton, halved"


@dataclasses.dataclass(frozen=True)
class TrustRegion:
    """Which runs."""

    runs: tyro.conf.Positional[tuple[Path, ...]]
    images: int = 1000
    results: Path = RESULTS


def main(command: TrustRegion) -> None:
    """Refine with and without P, compare, and print a table per run."""
    prepare_jax()
    opened = [runs.open_run(folder) for folder in command.runs]
    for run in opened:
        if run.setup.config.method != "gpvae":
            raise ValueError(f"A GPVAE run is needed, but {run.folder} is of {run.setup.config.method}.")
        params_by_seed(run)  # so that one that is not trained is told before the others are measured
    path = command.results / "trust_region.json"
    found = json.loads(path.read_text())["runs"] if path.is_file() else {}
    for run in opened:
        measured = measure(run, command.images)
        console.print(*_tables(_title(run), measured), "")
        found[_title(run)] = measured | {"images": command.images, "draws": DRAWS, "environment": environment()}
    command.results.mkdir(parents=True, exist_ok=True)
    write_json(path, {"runs": found})


def measure(run: runs.Run, images: int) -> dict[str, Any]:
    """Gains with and without P of every kind of step, over seeds and images, and the second step's choice."""
    x, each = split_examples(run, "test", images, 0), params_by_seed(run)
    kinds = {(name, gp): _with(run, name, gp) for name in STEPS for gp in (False, True)}
    with bars() as progress:
        task = progress.add_task(f"{run.folder.name}", total=(1 + len(kinds)) * len(each), text="")
        base, *refined_ones = (
            elbos(one, "test", images, draws=DRAWS, told=lambda: progress.advance(task))
            for one in (run, *kinds.values())
        )
    after = dict(zip(kinds, refined_ones, strict=True))
    rows = {name: _row(base, after[name, False], after[name, True]) for name in STEPS}
    scores = [example_scores(run.setup.method, run.setup.model, params, jnp.asarray(x)) for params in each]
    second = _second(after[ONE, False], after[TWO, False], scores)
    return {"elbo": float(base.mean()), "steps": rows, "second_step": second}


def _with(run: runs.Run, name: str, gp: bool) -> runs.Run:
    steps, settings = STEPS[name]
    return refined(run, "newton", steps, (*settings, f"use_gp_prior={str(gp).lower()}"))


def _row(base: np.ndarray, without: np.ndarray, with_gp: np.ndarray) -> dict[str, Any]:
    """Everything about one kind of step, from ELBOs [R, N]."""
    return {
        "gain": _difference(without, base),
        "gain_with_gp": _difference(with_gp, base),
        "gp_over_none": _difference(with_gp, without),
        "worse": float(np.mean(without < base)),
        "worse_with_gp": float(np.mean(with_gp < base)),
        "worst": float(np.min(without - base)),
        "worst_with_gp": float(np.min(with_gp - base)),
    }


def _difference(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    gain = paired(other, one)
    return {"mean": gain.mean, "se": gain.se, "se_seeds": gain.se_seeds}


def _second(one: np.ndarray, two: np.ndarray, scores: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Efficiency of each score at choosing the images for the second step; the ELBO is known from the first one."""
    made: dict[str, list[float]] = {}
    for seed, found in enumerate(scores):
        for name, score in (found | {"negative_elbo": -one[seed]}).items():
            if name in SCORES:
                by = selective_refinement(score, one[seed], two[seed])
                made.setdefault(SCORES[name], []).append(by.efficiency)
    efficiency = {name: estimate(np.array(values))._asdict() for name, values in made.items()}
    return {"gain": _difference(two, one), "efficiency": efficiency}


def _title(run: runs.Run) -> str:
    data, model = run.setup.config.data, run.setup.config.model
    return f"{Path(data.name).stem}, {model.likelihood}, {model.latent_dim} latents: {run.folder.name}"


def _tables(title: str, found: dict[str, Any]) -> tuple[Table, Table]:
    steps = Table(title=f"{title}: gain in ELBO, nats", title_justify="left", box=None)
    for column in ("step", "P = 0", "P of the GP", "difference", "worse, P = 0", "P of the GP"):
        steps.add_column(column, justify="left" if column == "step" else "right")
    for name, row in found["steps"].items():
        gains = [f"{row[k]['mean']:+.2f} ± {row[k]['se']:.2f}" for k in ("gain", "gain_with_gp", "gp_over_none")]
        steps.add_row(name, *gains, f"{100 * row['worse']:.0f} %", f"{100 * row['worse_with_gp']:.0f} %")
    second = Table("who gets a second step", "share of the oracle's advantage", box=None)
    for name, value in found["second_step"]["efficiency"].items():
        second.add_row(name, f"{value['mean']:.2f} ± {value['se']:.2f}")
    return steps, second


if __name__ == "__main__":
    command_line(main, TrustRegion, __doc__)
