"""What the encoder's error costs, and how much of it the fitted error posterior wins back.

    python -m experiments.error_anatomy runs/gpvae/gpvae runs/gpvae/closed-form-held-out-images …

For every GPVAE run, on the first test images: each image's best diagonal Gaussian (μ*, σ*) is searched for from the
base's (m, s). To second order the mean's error costs ½ Σ (μ* − m)²/σ*² nats and the standard deviation's
Σ (σ* − s)²/σ*² (eq. 7.2, derived); put against them what is left once the predicted errors f and h are taken off, on
the test images and, to tell fitting from learning, on as many training images. Also what the ELBO itself says of
(m, s), of (m, s) with either part at its optimum, and of the corrected Gaussian. All seeds; standard errors over
images. About two minutes per run and seed on one CPU core. Writes experiments/results/error_anatomy.json.
Equations: docs/mathematics.md.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.table import Table

from experiments.command_line import command_line
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.run import params_by_seed, summary
from gpvae_jax.files import write_json
from gpvae_jax.gaussians.per_example import elbo_with_error
from gpvae_jax.gp.laplace import find_optima
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.progress import bars, console
from gpvae_jax.types import Params

RESULTS = Path(__file__).parent / "results" / "error_anatomy.json"


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """What is looked at."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Trained GPVAE runs."""
    examples: int = 300
    max_steps: int = 1000
    out: Path = RESULTS


def main(command: Anatomy) -> None:
    """Take every run apart and print the table."""
    prepare_jax()
    found: dict[str, Any] = {}
    with bars() as progress:
        task = progress.add_task("runs", total=len(command.folders), text="")
        for folder in command.folders:
            progress.update(task, text=folder.name)
            found[folder.name] = _of_run(runs.open_run(folder), command)
            progress.advance(task)
    console.print(_table(found))
    command.out.parent.mkdir(exist_ok=True)
    write_json(
        command.out,
        {"examples": command.examples, "runs": found, "environment": environment()},
    )


def _of_run(run: runs.Run, command: Anatomy) -> dict[str, Any]:
    """Summaries over seeds and examples: {"test" or "train": {quantity: mean, stderr, stderr_over_seeds}}."""
    setup, count = run.setup, command.examples
    if setup.config.method != "gpvae":
        raise ValueError(f"A GPVAE run is needed, but {run.folder} is of {setup.config.method}.")
    seen = setup.observation.train(jax.random.key(1), jnp.asarray(setup.dataset.train[:count]))
    images = {"test": setup.observation.evaluate(jnp.asarray(setup.dataset.test[:count])), "train": seen}

    @jax.jit
    def anatomy(params: Params, x: jax.Array) -> dict[str, jax.Array]:
        q, info = setup.method.posterior(params, jax.random.key(0), x)
        base = DiagonalGaussian(info["base_mean"], jnp.log(info["base_std"]))
        best = find_optima(setup.model, params.model, jax.random.key(1), x, base, max_steps=command.max_steps)
        log_std = jnp.log(best.std)

        def elbo(q: DiagonalGaussian) -> jax.Array:
            return elbo_with_error(setup.model, params.model, q, jax.random.key(2), x, 200)[0]

        def cost(error: jax.Array, precision: jax.Array) -> jax.Array:
            return 0.5 * jnp.sum(precision * jnp.square(error), axis=-1)

        mean_error, std_error = best.mean - base.mean, best.std - base.std
        return {
            "mean_cost": cost(mean_error, best.mean_precision),
            "mean_cost_left": cost(mean_error - info["mean_error"], best.mean_precision),
            "std_cost": cost(std_error, best.std_precision),
            "std_cost_left": cost(std_error - info["std_error"], best.std_precision),
            "elbo_base": elbo(base),
            "elbo_best_mean": elbo(DiagonalGaussian(best.mean, base.log_std)),
            "elbo_best_std": elbo(DiagonalGaussian(base.mean, log_std)),
            "elbo_corrected": elbo(q.moment_matched()),
            "elbo_best": elbo(DiagonalGaussian(best.mean, log_std)),
        }

    made = {}
    for part, x in images.items():
        values = [jax.device_get(anatomy(params, x)) for params in params_by_seed(run)]
        made[part] = {name: summary(np.stack([v[name] for v in values]).astype(np.float64)) for name in values[0]}
    return made


def _table(found: dict[str, Any]) -> Table:
    columns = {
        "mean's error": "mean_cost",
        "left of it": "mean_cost_left",
        "std's error": "std_cost",
        "left of it ": "std_cost_left",
        "ELBO (m, s)": "elbo_base",
        "(μ*, s)": "elbo_best_mean",
        "(m, σ*)": "elbo_best_std",
        "corrected": "elbo_corrected",
        "(μ*, σ*)": "elbo_best",
    }
    table = Table("run", "images", *columns, title="nats per image, ± standard error over images")
    for name, parts in found.items():
        for part, values in parts.items():
            cells = (f"{values[key]['mean']:.2f} ± {values[key]['stderr']:.2f}" for key in columns.values())
            table.add_row(name, part, *cells)
    return table


if __name__ == "__main__":
    command_line(main, Anatomy, __doc__)
