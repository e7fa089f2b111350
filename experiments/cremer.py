"""Inference suboptimality (Cremer, Li & Duvenaud 2018): is it the family or the encoder that falls short?

    python -m experiments.cremer --data mnist
    python -m experiments.cremer --data fashion_mnist

As in that paper: encoder and decoder with two hidden layers of 200 units, 50 latents, binarised images, a VAE with a
fully factorised Gaussian ("vae") and one with a flow ("iaf", two steps; the paper's flow is another). For both, on 100
test and 100 training images: log p̂, the larger of IWAE-5000 and annealed importance sampling (started at q*, 200
temperatures, 8 chains), the bound L[q*] of each image's own best factorised Gaussian, full-covariance Gaussian and
flow (two steps around the factorised one), and the encoder's L[q]. From these the approximation gap log p̂ − L[q*] and
the amortization gap L[q*] − L[q], in each of the three families; the method's own family is the Gaussian for vae,
the flow for iaf. Images are binarised once (static), so that training images are the ones trained on. 60 epochs, Adam
0.001 with a cosine schedule, KL warm-up over 10 epochs, seed 0.
About 10 minutes per data set on one CPU core; goes on where it stopped. Writes experiments/results/cremer_DATA.json,
.md and .png, and the runs to runs/cremer.
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.command_line import command_line
from gpvae_jax import config, plots, runs
from gpvae_jax.commands import prepare_jax, save_figure, train_with_bar
from gpvae_jax.compare import same_settings
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.ais import ais, sigmoid_schedule
from gpvae_jax.evaluate.families import best_flow
from gpvae_jax.evaluate.gaps import LEARNING_RATE, gaps, moments
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.kept import Arrays, Work, kept
from gpvae_jax.evaluate.run import split_examples
from gpvae_jax.files import write_json, write_text
from gpvae_jax.gaussians.full import from_diagonal
from gpvae_jax.gaussians.per_example import optimize
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.progress import unit_bar
from gpvae_jax.report import Estimate, estimate
from gpvae_jax.types import Params

RESULTS = Path(__file__).parent / "results"
METHODS = {"vae": "factorised", "iaf": "flow"}  # method -> its own family
FAMILIES = ("factorised", "full", "flow")


@dataclasses.dataclass(frozen=True)
class Cremer:
    """The setting; only the data set needs to be named."""

    data: str = "mnist"
    epochs: int = 60
    images: int = 100
    """Of the test and of the training set, each."""
    batch: int = 50
    """Images searched at once, between two that are kept."""
    latent_dim: int = 50
    hidden: tuple[int, ...] = (200, 200)
    activation: str = "tanh"
    num_samples: int = 5000
    """Of the IWAE bound."""
    temperatures: int = 200
    chains: int = 8
    max_steps: int = 5000
    """Of each Gaussian's search."""
    flow_steps: int = 2000
    """Steps of each flow's search."""
    runs: Path = Path("runs/cremer")
    results: Path = RESULTS


def main(command: Cremer) -> None:
    """Train, search, and write the table and the figure."""
    prepare_jax()
    found: dict[str, Any] = {}
    for method in METHODS:
        run = _trained(command, method)
        for split in ("test", "train"):
            with unit_bar(f"{method}, {split} images") as update:
                found[f"{method}, {split}"] = summaries(_values(run, command, split, update), METHODS[method])
    name = f"cremer_{Path(command.data).stem}"
    table = markdown(found)
    settings = {key: value for key, value in vars(command).items() if not isinstance(value, Path)}
    command.results.mkdir(parents=True, exist_ok=True)
    write_json(command.results / f"{name}.json", {"settings": settings, "rows": found, "environment": environment()})
    write_text(command.results / f"{name}.md", table)
    save_figure(plots.gap_bars(_bars(found)), command.results / f"{name}.png")
    print(table, end="")


def _trained(command: Cremer, method: str) -> runs.Run:
    wanted = config.from_dict(
        {
            "method": method,
            "data": {"name": command.data, "binarization": "static"},
            "model": {
                "latent_dim": command.latent_dim,
                "hidden": list(command.hidden),
                "activation": command.activation,
            },
            "train": {
                "epochs": command.epochs,
                "schedule": "cosine",
                "beta_warmup_epochs": min(10.0, command.epochs / 2),
                "seed": 0,
            },
        }
    )
    folder = command.runs / f"{Path(command.data).stem}-{method}"
    exists = (folder / "config.json").is_file()
    run = runs.open_run(folder) if exists else runs.create(folder, wanted)
    same_settings(run, wanted)
    train_with_bar(run, resume=True)
    return run


def _values(run: runs.Run, command: Cremer, split: str, update: Any) -> Arrays:
    """Everything about each image of a split, [1, N], kept in cremer-SPLIT.npz of the run folder."""
    examples = split_examples(run, split, command.images, 0)
    names = ("images", "batch", "num_samples", "temperatures", "chains", "max_steps", "flow_steps")
    settings = {name: getattr(command, name) for name in names} | {"split": split}
    find = jax.jit(partial(_optima, run, command))

    def batches(work: Work) -> Iterator[Arrays]:
        count = -(-len(examples) // command.batch)
        for number in range(work.first, count):
            x = jnp.asarray(examples[number * command.batch : (number + 1) * command.batch])
            key_search, key_ais, key_iwae = jax.random.split(jax.random.fold_in(jax.random.key(0), number), 3)
            elbos, start = find(work.params, x, key_search)
            work.told((number + 0.6) / count)
            annealed = ais(
                run.setup.model, work.params.model, x, key_ais, schedule=sigmoid_schedule(command.temperatures),
                num_chains=command.chains, start=start,
            )  # fmt: skip
            work.told((number + 0.9) / count)
            bounds = importance_bounds(
                run.setup.method, run.setup.model, work.params, np.asarray(x), key_iwae,
                num_samples=(command.num_samples,),
            )  # fmt: skip
            work.told((number + 1) / count)
            iwae = bounds[f"iwae_{command.num_samples}"]
            more = {"ais": annealed.log_evidence, "ais_ess": annealed.ess, "iwae": iwae, "elbo": bounds["elbo"]}
            yield {name: np.asarray(value) for name, value in elbos.items()} | more

    return kept(run, f"cremer-{split}.npz", settings, batches, update)


def _optima(
    run: runs.Run, command: Cremer, params: Params, x: jax.Array, key: jax.Array
) -> tuple[dict[str, jax.Array], Any]:
    """L[q*] in the three families, and the factorised q*: each search starts from the last one's result."""
    model, theta = run.setup.model, params.model
    keys = jax.random.split(key, 4)
    search = partial(optimize, model, theta, x, optimizer=optax.adam(LEARNING_RATE), max_steps=command.max_steps)
    factorised = search(start=moments(run.setup.method, params, keys[0], x), key=keys[1])
    assert isinstance(factorised.posterior, DiagonalGaussian)  # as its start is
    full = search(start=from_diagonal(factorised.posterior), key=keys[2])
    flow = best_flow(model, theta, x, factorised.posterior, keys[3], steps=command.flow_steps)
    values = {
        "factorised": factorised.elbo,
        "full": full.elbo,
        "flow": flow.elbo,
        "factorised_converged": factorised.converged.astype(x.dtype),
        "full_converged": full.converged.astype(x.dtype),
        "flow_last_gain": flow.last_gain,
    }
    return values, factorised.posterior


def summaries(values: Arrays, own: str) -> dict[str, Any]:
    """Means over images with their standard errors: log p̂, L[q*], L[q] and the gaps; `own` is the method's family."""
    of = {name: array[0].astype(np.float64) for name, array in values.items()}
    evidence = np.maximum(of["ais"], of["iwae"])
    made: dict[str, Any] = {
        "log p̂": estimate(evidence),
        "L[q]": estimate(of["elbo"]),
        "iwae": estimate(of["iwae"]),
        "ais": estimate(of["ais"]),
        "own_family": own,
        "flow_last_gain": estimate(of["flow_last_gain"]),
    }
    for family in FAMILIES:
        parts = gaps(evidence, of[family], of["elbo"])
        made[family] = {"L[q*]": estimate(of[family])} | {n: estimate(getattr(parts, n)) for n in parts._fields}
        if f"{family}_converged" in of:
            made[family]["converged"] = float(of[f"{family}_converged"].mean())
    return made


def markdown(found: dict[str, Any]) -> str:
    """The table in nats per image; the method's own family in bold."""
    parts = ("approximation", "amortization", "inference")
    head = ["", "log p̂", *(f"L[q*] {family}" for family in FAMILIES), "L[q]", *parts]
    lines = ["| " + " | ".join(head) + " |", "|:---|" + "---:|" * (len(head) - 1)]
    for title, row in found.items():
        own = row["own_family"]
        optima = [_text(row[f]["L[q*]"], bold=f == own) for f in FAMILIES]
        cells = [title, _text(row["log p̂"]), *optima, _text(row["L[q]"]), *(_text(row[own][part]) for part in parts)]
        lines.append("| " + " | ".join(cells) + " |")
    note = "Gaps are those of the method's own family, in bold; ± standard error over images."
    return "\n".join([*lines, "", note, ""])


def _text(value: Estimate, *, bold: bool = False) -> str:
    text = f"{value.mean:.2f} ± {value.se:.2f}"
    return f"**{text}**" if bold else text


def _bars(found: dict[str, Any]) -> list[plots.GapBar]:
    return [
        plots.GapBar(f"{title}: q* {family}", row[family]["approximation"], row[family]["amortization"])
        for title, row in found.items()
        for family in FAMILIES
    ]


if __name__ == "__main__":
    command_line(main, Cremer, __doc__)
