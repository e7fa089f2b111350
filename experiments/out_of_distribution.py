"""Does a score tell strangers from the data a model was trained on? Areas under the ROC curve.

    python -m experiments.out_of_distribution runs/gpvae/gpvae --outliers fashion_mnist omniglot.npz

The run's test images against each outlier set, binarised in the same way, and against noise: every pixel a fair coin
("noise"), and the test images with their pixels shuffled ("shuffled"). Scores: the GPVAE's uncertainty (of mean,
of standard deviation, both; plain, and in units of the encoder's variance), the posterior's variance, the
reconstruction error, the negative ELBO and IWAE-100, and typicality, |IWAE-100 − its mean on validation data|
(Nalisnick et al. 2019). 0.5 is chance; below it the score is lower for strangers. All seeds, mean and standard error;
a minute per seed on one CPU core. Writes experiments/results/out_of_distribution.json.
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
from gpvae_jax.data import load
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.evaluate.scores import example_scores
from gpvae_jax.evaluate.uncertainty import auroc
from gpvae_jax.files import write_json
from gpvae_jax.observation import observe
from gpvae_jax.progress import bars, console
from gpvae_jax.report import estimate
from gpvae_jax.types import Params

RESULTS = Path(__file__).parent / "results" / "out_of_distribution.json"


@dataclasses.dataclass(frozen=True)
class Outliers:
    """What is told apart."""

    run: tyro.conf.Positional[Path]
    outliers: tuple[str, ...] = ("fashion_mnist",)
    """Data sets of images of the same shape: names, or paths of .npz files."""
    examples: int = 1000
    out: Path = RESULTS


def main(command: Outliers) -> None:
    """Score every set with every seed and print the table."""
    prepare_jax()
    run = runs.open_run(command.run)
    sets = _sets(run, command)
    found: dict[str, dict[str, list[float]]] = {name: {} for name in sets if name not in ("test", "validation")}
    with bars() as progress:
        task = progress.add_task("scoring", total=len(sets) * len(params_by_seed(run)), text="")
        for params in params_by_seed(run):
            scores = {}
            for name, x in sets.items():
                progress.update(task, text=name)
                scores[name] = _scores(run, params, x)
                progress.advance(task)
            typical = scores.pop("validation")["negative_iwae"].mean()
            for of in scores.values():
                of["typicality"] = np.abs(of["negative_iwae"] - typical)
            for name, areas in found.items():
                for score, outside in scores[name].items():
                    areas.setdefault(score, []).append(auroc(scores["test"][score], outside).value)
    summaries = {n: {s: estimate(np.asarray(a)) for s, a in areas.items()} for n, areas in found.items()}
    console.print(_table(summaries))
    command.out.parent.mkdir(exist_ok=True)
    settings = {"run": command.run.name, "settings": run.setup.config.settings, "data": run.setup.dataset.name}
    made = settings | {"examples": command.examples, "auroc": summaries, "environment": environment()}
    write_json(command.out, made)


def _sets(run: runs.Run, command: Outliers) -> dict[str, np.ndarray]:
    """x[N, *D] of each set, as the likelihood sees it."""
    setup, count = run.setup, command.examples
    kind = str(setup.config.data.binarization)

    def seen(images: np.ndarray, levels: int | None) -> np.ndarray:
        drawn = setup.dataset._replace(test=images[:count], levels=levels)
        drawn, observation = observe(drawn, kind, seed=0)
        return np.asarray(observation.evaluate(jnp.asarray(drawn.test)))

    inside = np.asarray(setup.observation.evaluate(jnp.asarray(setup.dataset.test[:count])))
    rng = np.random.default_rng(0)
    flat = rng.permuted(inside.reshape(len(inside), -1), axis=1).reshape(inside.shape)
    sets = {
        "validation": np.asarray(setup.observation.evaluate(jnp.asarray(setup.dataset.validation[:count]))),
        "test": inside,
        "noise": rng.integers(0, 2, inside.shape).astype(inside.dtype),
        "shuffled": flat,
    }
    for name in command.outliers:
        other = load(name, data_dir=setup.config.data.data_dir)
        if other.test.shape[1:] != setup.model.data_shape:
            raise ValueError(f"'{name}' has images of shape {other.test.shape[1:]}, not {setup.model.data_shape}.")
        sets[other.name] = seen(other.test, other.levels)
    return sets


def _scores(run: runs.Run, params: Params, x: np.ndarray) -> dict[str, np.ndarray]:
    setup = run.setup
    bounds = importance_bounds(setup.method, setup.model, params, x, jax.random.key(0), num_samples=(100,))
    scores = {"negative_elbo": -bounds["elbo"], "negative_iwae": -bounds["iwae_100"]}
    return example_scores(setup.method, setup.model, params, jnp.asarray(x)) | {
        name: np.asarray(value, np.float64) for name, value in scores.items()
    }


def _table(summaries: dict[str, dict[str, Any]]) -> Table:
    table = Table("score", *summaries, title="AUROC against the test images, ± standard error over seeds")
    for score in next(iter(summaries.values())):
        table.add_row(score, *(f"{of[score].mean:.3f} ± {of[score].se:.3f}" for of in summaries.values()))
    return table


if __name__ == "__main__":
    command_line(main, Outliers, __doc__)
