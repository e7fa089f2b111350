"""Steps of refinement only where they are needed: does the GP's uncertainty know which images those are?

    python -m experiments.selective_refinement runs/difficulty_gaussian/over-the-vae-held-out-images-unit-features

Every test image of a GPVAE run is refined by SAVI or SVI steps from its own posterior (no parameter changes; SAVI's
step size is the best of a few on validation images), and the ELBO before and after measured on 500 draws. A rule then
puts the images in order, and the mean bound is drawn against the share of them refined, to which the compute spent is
proportional: the GP's uncertainty, the posterior's variance, the reconstruction error and the negative ELBO (which
both cost a decoder pass), against chance and an oracle that knows each image's gain. Efficiency is the area above
chance as a share of the oracle's. Every seed; the figure shows the first. calibration.png, where the run's
optima-diagonal.npz is there (`gpvae evaluate --estimators uncertainty`): the mean amortization gap by quantile of each
score. About a minute per seed on one CPU core for 8 SAVI steps and 1,000 images. Writes
experiments/results/selective_refinement.json and .png, and calibration.png.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from experiments.command_line import command_line
from experiments.elbos import elbo
from gpvae_jax import plots, runs
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.evaluate.scores import example_scores
from gpvae_jax.evaluate.uncertainty import Refinement, calibration, selective_refinement
from gpvae_jax.files import write_json
from gpvae_jax.progress import bars, console
from gpvae_jax.refine import refined
from gpvae_jax.report import estimate
from gpvae_jax.types import Params

RESULTS = Path(__file__).parent / "results"
SCORES = {  # name in the results -> in the figure
    "gp_total": "GP uncertainty",
    "posterior_variance": "posterior variance",
    "reconstruction_error": "reconstruction error",
    "negative_elbo": "negative ELBO",
}
STEP_SIZES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of SAVI
TUNED_ON = 200  # validation images, first seed
SHARES = (0.1, 0.25, 0.5)  # of the images refined, at which the share of the whole gain is told
DRAWS = 500


@dataclasses.dataclass(frozen=True)
class Selective:
    """Which run, and how it is refined."""

    run: tyro.conf.Positional[Path]
    refine: str = "savi"
    """savi, svi or newton."""
    steps: int = 8
    images: int = 1000
    groups: int = 10
    """Quantiles of the calibration."""
    name: str = "selective_refinement"
    """Of the files written."""
    results: Path = RESULTS


def main(command: Selective) -> None:
    """Refine, judge every score, and draw the first seed."""
    prepare_jax()
    run = runs.open_run(command.run)
    x, each = split_examples(run, "test", command.images, 0), params_by_seed(run)
    settings = _step_size(run, command, each[0]) if command.refine == "savi" else ()
    better = refined(run, command.refine, command.steps, settings)
    found: dict[str, list[dict[str, Any]]] = {}
    drawn: dict[str, Refinement] = {}
    with bars() as progress:
        task = progress.add_task("refining", total=2 * len(each), text="")
        for seed, params in enumerate(each):
            bounds = []
            for setup in (run.setup, better.setup):
                bounds.append(elbo(setup, params, x, DRAWS))
                progress.advance(task)
            scores = example_scores(run.setup.method, run.setup.model, params, jnp.asarray(x))
            scores |= {"negative_elbo": -bounds[0]}
            for name in (name for name in SCORES if name in scores):
                curve = selective_refinement(scores[name], *bounds)
                found.setdefault(name, []).append(_at_shares(curve))
                if not seed:
                    drawn[SCORES[name]] = curve
            if not seed:
                calibrated = _calibration(run, command, scores, bounds[0])
    console.print(_table(found))
    command.results.mkdir(parents=True, exist_ok=True)
    save_figure(plots.refinement_curves(drawn), command.results / f"{command.name}.png")
    if calibrated:
        save_figure(plots.calibration_curves(calibrated), command.results / "calibration.png")
    about = {"run": command.run.name, "refine": command.refine, "steps": command.steps, "settings": settings}
    kept = {SCORES[name]: rows for name, rows in found.items()} | {"calibration": calibrated}
    last = {"images": len(x), "environment": environment()}
    write_json(command.results / f"{command.name}.json", about | kept | last)


def _step_size(run: runs.Run, command: Selective, params: Params) -> tuple[str, ...]:
    """SAVI's step size with the best ELBO on validation images, as a setting."""
    x = split_examples(run, "validation", TUNED_ON, 0)
    tried = {}
    for size in STEP_SIZES:
        setting = f"step_size={size}"
        tried[setting] = elbo(refined(run, "savi", command.steps, (setting,)).setup, params, x, DRAWS).mean()
    return (max(tried, key=lambda setting: tried[setting]),)


def _at_shares(curve: Refinement) -> dict[str, Any]:
    """The efficiency, and the shares of the whole gain at each of SHARES: by score, oracle and chance."""
    last, first = curve.by_score[-1], curve.by_score[0]
    if last <= first:
        raise ValueError(f"Refining every image lowers the mean ELBO by {first - last:.2f} nats; choose other steps.")
    rows = [round(share * (len(curve.fraction) - 1)) for share in SHARES]
    by = {name: getattr(curve, name) for name in ("by_score", "by_oracle", "at_random")}
    shares = {name: [float((values[i] - first) / (last - first)) for i in rows] for name, values in by.items()}
    return {"efficiency": curve.efficiency, "elbo": first, "refined": last, "refined_share": SHARES} | shares


def _calibration(run: runs.Run, command: Selective, scores: dict[str, np.ndarray], elbo: np.ndarray) -> dict[str, Any]:
    """Of the first seed, for the images whose optimum the run folder holds."""
    path = run.folder / "optima-diagonal.npz"
    if not path.is_file():
        return {}
    with np.load(path) as stored:
        count = sum(name.startswith("0/") and name.endswith("/elbo") for name in stored.files)
        names = [f"0/{number}/elbo" for number in range(count)]
        best = np.concatenate([stored[name] for name in names]).astype(np.float64)[: len(elbo)]
    gap = best - elbo[: len(best)]
    return {
        SCORES[name]: calibration(score[: len(best)], gap, command.groups)
        for name, score in scores.items()
        if name in SCORES
    }


def _table(found: dict[str, list[dict[str, Any]]]) -> Table:
    columns = [f"gain at {100 * share:.0f} %" for share in SHARES]
    table = Table("score", "efficiency", *columns, title="share of the gain of refining all; mean over seeds ± error")
    for name, rows in found.items():
        efficiency = estimate(np.array([row["efficiency"] for row in rows]))
        gains = np.mean([row["by_score"] for row in rows], axis=0)
        table.add_row(
            SCORES[name], f"{efficiency.mean:.2f} ± {efficiency.se:.2f}", *(f"{100 * g:.0f} %" for g in gains)
        )
    oracle = np.mean([row["by_oracle"] for row in next(iter(found.values()))], axis=0)
    table.add_row("oracle", "1.00", *(f"{100 * g:.0f} %" for g in oracle))
    return table


if __name__ == "__main__":
    command_line(main, Selective, __doc__)
