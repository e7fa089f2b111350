"""Choose each method's settings on validation data, with the same number of trials for every method that has as many.

    python -m experiments.tune --methods vae savi iaf

A trial trains on MNIST (Bernoulli likelihood, dynamic binarisation, 20 latents, 400-400 networks; Adam with a cosine
schedule, parameters averaged) for 12 epochs of the main table's 40, and is judged by its IWAE-500 bound on 1,000
validation images; test data are never read. The first trial is the first value of each setting, the others are drawn
without replacement from the space below, always the same ones. A line per trial goes to
experiments/results/tuning.jsonl; finished trials are not repeated. About two minutes (vae) to nine (savi) a method on
one CPU core.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path

import jax
import numpy as np

from experiments.command_line import command_line
from gpvae_jax import build, compare, config, train
from gpvae_jax.commands import prepare_jax
from gpvae_jax.data import Dataset, load
from gpvae_jax.environment import environment
from gpvae_jax.evaluate import importance_bounds
from gpvae_jax.files import write_text
from gpvae_jax.naming import unknown

RESULTS = Path(__file__).parent / "results" / "tuning.jsonl"
TRIALS = 5
RATES = {"train.learning_rate": (1e-3, 2e-3)}
# method -> setting -> values, the first trial's first; what stays fixed is what the main table compares at (K, T, M)
SPACES: dict[str, dict[str, tuple]] = {
    "vae": {"num_samples": (1, 2)},
    "gpvae": {
        "objective": ("expected", "marginal"),
        "weight_posterior": ("diagonal", "full"),
        "start_variance": (1e-3, 1e-4, 1e-2),
    },
    "recmix": {
        "refinement": ("recursive", "joint"),
        "against": ("others", "earlier"),
        "epsilon": ("constant", "amortized"),
        "initial_epsilon": (0.0, 0.1),
    },
    "mixture": {"weights": ("uniform", "amortized", "constant")},
    "savi": {"step_size": (0.1, 0.3, 1.0), "inner_samples": (1, 2), "learn_step_size": ("false", "true")},
    "iaf": {"width": (256, 512), "gate_bias": (2.0, 1.0), "layers": (1, 2)},
    "householder": {"steps": (4, 1, 8)},
    "iwae": {"doubly_reparameterized": ("false", "true")},
    "vlae": {"halvings": (3, 0), "num_samples": (1, 2)},
}
FIXED = {"vlae": ("steps=1",), "iwae": ("num_samples=5",), "recmix": ("num_components=3",)}


@dataclasses.dataclass(frozen=True)
class Tune:
    """What is tuned, and at what scale."""

    methods: tuple[str, ...] = tuple(SPACES)
    train_images: int = 50_000
    epochs: int = 12


def trials(method: str) -> list[str]:
    """Labels of the trials, that of the first values first."""
    if method not in SPACES:
        raise ValueError(unknown("method to tune", method, SPACES))
    space = RATES | SPACES[method]
    points = [
        ":".join([method, *FIXED.get(method, ()), *(f"{k}={v}" for k, v in zip(space, point, strict=True))])
        for point in itertools.product(*space.values())
    ]
    drawn = np.random.default_rng(0).permutation(len(points) - 1)[: TRIALS - 1] + 1
    return [points[0], *(points[i] for i in drawn)]


def run_trial(settings: config.Config, data: Dataset) -> dict[str, float]:
    """Train, and bound the validation likelihood."""
    started = time.perf_counter()
    setup = build.build(settings, data)
    record = None
    for latest in train.fit(setup.trainer, setup.data, jax.random.key(0), epochs=settings.train.epochs):
        record = latest
    assert record is not None
    seconds = time.perf_counter() - started
    values = importance_bounds(
        setup.method,
        setup.model,
        record.state.best,
        setup.dataset.validation,
        jax.random.key(1),
        observe=setup.observation.evaluate,
        num_samples=(500,),
    )
    bounds = {f"validation_{name}": float(values[name].mean()) for name in ("elbo", "iwae_500")}
    return bounds | {"best_epoch": int(record.state.best_epoch), "seconds": round(seconds, 1)}


def main(command: Tune) -> None:
    """Run what has not been run."""
    prepare_jax()
    labels = {method: trials(method) for method in command.methods}
    RESULTS.parent.mkdir(exist_ok=True)
    done = {json.loads(line)["label"] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    data = load("mnist")
    data = data._replace(train=data.train[: command.train_images], validation=data.validation[:1000])
    base = config.from_dict(
        {
            "data": {"name": "mnist"},
            "model": {"likelihood": "bernoulli", "latent_dim": 20, "hidden": [400, 400]},
            "train": {"epochs": command.epochs, "schedule": "cosine", "ema_decay": 0.999},
        }
    )
    for method in command.methods:
        for label, settings in compare.configs(base, labels[method], RESULTS.parent).items():
            if label in done:
                continue
            found = {"label": label, "train_images": command.train_images, "epochs": command.epochs}
            found |= run_trial(settings, data) | {"commit": environment()["commit"]}
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{found['validation_iwae_500']:9.3f}  {found['seconds']:7.1f} s  {label}", flush=True)
    write_text(RESULTS.with_suffix(".md"), table())


def table() -> str:
    """All trials as Markdown, the best of each method in bold."""
    found = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    lines = ["| method | settings | IWAE-500 | ELBO | seconds |", "|:---|:---|---:|---:|---:|"]
    for method in dict.fromkeys(trial["label"].split(":")[0] for trial in found):
        mine = [trial for trial in found if trial["label"].split(":")[0] == method]
        best = max(trial["validation_iwae_500"] for trial in mine)
        for trial in mine:
            bound = trial["validation_iwae_500"]
            shown = f"**{bound:.2f}**" if bound == best else f"{bound:.2f}"
            settings = ", ".join(item.removeprefix("train.") for item in trial["label"].split(":")[1:])
            line = (method, settings, shown, f"{trial['validation_elbo']:.2f}", f"{trial['seconds']:.0f}")
            lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    command_line(main, Tune, __doc__)
