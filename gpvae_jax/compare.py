"""Several finished runs side by side: the rows of the table, the pictures, and the report."""

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax import config, plots, runs
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.latency import Latency, measure
from gpvae_jax.evaluate.paired import Verdict, holm, paired, verdict
from gpvae_jax.evaluate.run import LATENCY_BATCH, example_values, latency_call, params_by_seed
from gpvae_jax.files import read_json, write_text
from gpvae_jax.likelihoods import bits_per_dim
from gpvae_jax.report import CompareRow, Estimate, Picture, estimate, table, write_report
from gpvae_jax.report.rows import BELOW, BEST, TIED
from gpvae_jax.report.table import escape_latex
from gpvae_jax.types import Params

SHOWN = 12  # examples in a row of pictures
# what all rows of a comparison have in common, or their bounds cannot be compared
SHARED = ("name", "data_dir", "raw_dir", "binarization", "binarization_seed")


def configs(base: config.Config, labels: Sequence[str], out: Path) -> dict[str, config.Config]:
    """A configuration per row of the table from labels [TITLE=]NAME:setting=value:…, under their titles.

    A setting is the method's own, or with a dot in its name the run's, as in wide=vae:model.capacity=iaf. A
    train.start_from that is an earlier row's title means the run of that row, in `out`. Raises ValueError on a title
    that comes twice, on a run's setting that does not exist, and on other data or another likelihood than the others'.
    """
    made: dict[str, config.Config] = {}
    for label in labels:
        head, *settings = label.split(":")
        title, titled, name = head.partition("=")
        title, name = (title, name) if titled else (label, head)
        if not folder_name(title).strip("-."):
            raise ValueError(
                f"A row's title names its folder, but '{label}' has none; write TITLE=NAME, or NAME alone."
            )
        if title in made:
            raise ValueError(f"Each row of a comparison is named once, but '{title}' comes twice.")
        own = tuple(item for item in settings if not _of_run(item))
        wanted = dataclasses.replace(base, method=name, settings=(*base.settings, *own))
        for item in filter(_of_run, settings):
            wanted = config.override(wanted, *item.partition("=")[::2])
        if wanted.train.start_from in made:
            start = str(out / folder_name(str(wanted.train.start_from)))
            wanted = dataclasses.replace(wanted, train=dataclasses.replace(wanted.train, start_from=start))
        _check_shared(base, wanted, title)
        made[title] = wanted
    return made


def _check_shared(base: config.Config, wanted: config.Config, title: str) -> None:
    pairs = {f"data.{name}": (getattr(base.data, name), getattr(wanted.data, name)) for name in SHARED}
    pairs["model.likelihood"] = base.model.likelihood, wanted.model.likelihood
    for name, (common, own) in pairs.items():
        if own != common:
            raise ValueError(
                f"Rows of a comparison share their data and likelihood, but '{title}' asks for {name}={own} where the "
                f"others have {common}; compare it in a call of its own."
            )


def _of_run(item: str) -> bool:
    return "." in item.partition("=")[0]


def folder_name(label: str) -> str:
    """A row's title as the name of its run folder."""
    return re.sub(r"[^\w.]+", "-", label)


def same_settings(run: runs.Run, wanted: config.Config, default: config.Config | None = None) -> None:
    """Raise ValueError where an existing run folder was made with other settings than are wanted now.

    default: where given, what is as it has it was not asked for.
    """
    has, asked = _flat(config.to_dict(run.setup.config)), _flat(config.to_dict(wanted))
    unasked = {} if default is None else _flat(config.to_dict(default))
    for name, value in asked.items():
        if value not in (has[name], unasked.get(name, has[name])):
            raise ValueError(
                f"{run.folder} holds a run with {name} = {has[name]!r}, but {value!r} was asked for; choose another "
                "folder with --out, or remove this one."
            )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def rows(compared: dict[str, runs.Run]) -> list[CompareRow]:
    """A row per evaluated run, the first being what the others are compared with, example by example.

    Inference is timed here, all methods in turn, so that their ratios hold. Bounds average over seeds first.
    """
    values = {name: example_values(run.folder) for name, run in compared.items()}
    bounds = _largest_bounds(values)
    first, *others = bounds
    gains = {name: paired(bounds[first], bounds[name]) for name in others}
    p_values = dict(zip(others, holm([gain.p_value for gain in gains.values()]), strict=True))
    timings, found = latencies(compared), verdict(bounds)
    made: list[CompareRow] = []
    for name, run in compared.items():
        results = read_json(run.folder / "results.json")
        of = {key: value.mean(axis=0) for key, value in values[name].items()}
        gain, bound = gains.get(name), bounds[name].mean(axis=0)
        epochs = runs.history(run.folder)
        discrete = run.setup.likelihood.name == "discretized_logistic"
        made.append(
            CompareRow(
                name=name,
                num_params=sum(results["num_params"].values()),
                epochs=len(epochs),
                epochs_before=runs.epochs_before(run.folder),
                train_seconds=sum(epoch["seconds"] for epoch in epochs),
                num_examples=results["num_examples"],
                elbo=estimate(of["elbo"]),
                iwae={k: estimate(of[f"iwae_{k}"]) for k in results["num_samples"]},
                ess=float(of["ess"].mean()),
                untrusted=results.get("untrusted"),
                latency_ms=timings[name].median,
                difference=None if gain is None else Estimate(gain.mean, gain.se),
                difference_se_seeds=None if gain is None or math.isnan(gain.se_seeds) else gain.se_seeds,
                p_value=None if gain is None else float(p_values[name]),
                bits_per_dim=estimate(bits_per_dim(bound, run.setup.model.data_shape)) if discrete else None,
                best_epoch=int(np.median(epochs[-1]["best_epoch"])) if epochs else None,
                latency_batch=results["latency_batch"],
                verdict=_verdict_of(name, found) if others else None,
            )
        )
    return made


def _verdict_of(name: str, found: Verdict) -> str:
    if name == found.best:
        return TIED if found.tied else BEST
    return TIED if name in found.tied else BELOW


def _largest_bounds(values: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The IWAE bounds [R, N] of the most samples."""
    name = max((n for n in next(iter(values.values())) if n.startswith("iwae_")), key=lambda n: int(n[len("iwae_") :]))
    return {method: of[name] for method, of in values.items()}


def conclusion(compared: dict[str, runs.Run]) -> str:
    """One sentence: which method has the highest bound, and from which others it cannot be told."""
    values = {name: example_values(run.folder) for name, run in compared.items()}
    return verdict(_largest_bounds(values), "test bound").sentence


def latencies(compared: dict[str, runs.Run]) -> dict[str, Latency]:
    """Inference time of every run on one batch, interleaved."""
    return measure({name: latency_call(run, params_by_seed(run)[0]) for name, run in compared.items()})


def pictures(compared: dict[str, runs.Run], made: list[CompareRow]) -> list[Picture]:
    """The report's figures: learning curves of what was trained, likelihood against time, and of examples that can be
    drawn reconstructions and prior samples.
    """
    styles = plots.method_styles(compared)
    found: list[Picture] = []
    if histories := {name: rows for name, run in compared.items() if (rows := runs.history(run.folder))}:
        found.append(
            Picture(
                "Learning curves",
                "The bound on held-out validation data decides which epoch is kept (marked) and when to stop.",
                plots.learning_curves(histories, styles),
            )
        )
    found.append(
        Picture(
            "Likelihood against time",
            "Up is a tighter bound on the test likelihood, left is faster inference.",
            plots.likelihood_against_time(made, styles),
        )
    )
    any_run = next(iter(compared.values()))
    if not plots.drawable(any_run.setup.model.data_shape):
        return found
    params = {name: params_by_seed(run)[0] for name, run in compared.items()}
    x = test_images(any_run)
    value_range = (0.0, 1.0) if any_run.setup.dataset.levels is not None else (float(x.min()), float(x.max()))
    rebuilt = {name: reconstruct(run, params[name], x) for name, run in compared.items()}
    drawn = {name: draw(run, params[name], 2 * SHOWN, seed=0) for name, run in compared.items()}
    return [
        *found,
        Picture(
            "Reconstructions",
            "Test examples, and what each model makes of one sample of its posterior for them.",
            plots.reconstructions(x, rebuilt, value_range),
        ),
        Picture(
            "Prior samples",
            "Each model's mean image for latents drawn from the prior, the same draws for every method.",
            plots.prior_samples(drawn, SHOWN, value_range),
        ),
    ]


def test_images(run: runs.Run) -> np.ndarray:
    """The first test examples x[n, *D], as the likelihood sees them."""
    return np.asarray(run.setup.observation.evaluate(jnp.asarray(run.setup.dataset.test[:SHOWN])))


def reconstruct(run: runs.Run, params: Params, x: np.ndarray) -> np.ndarray:
    """E[x|z] [n, *D] for one posterior sample z of each example x[n, *D]."""
    key_posterior, key_z = jax.random.split(jax.random.key(0))
    q, _ = run.setup.method.posterior(params, key_posterior, jnp.asarray(x))
    z, _ = q.sample_and_log_prob(key_z, 1)
    return np.asarray(run.setup.model.mean(params.model, z[0]))


def draw(run: runs.Run, params: Params, count: int, *, seed: int) -> np.ndarray:
    """E[x|z] [count, *D] for latents drawn from the prior."""
    z, _ = run.setup.model.sample(params.model, jax.random.key(seed), count)
    return np.asarray(run.setup.model.mean(params.model, z))


def report(folder: Path, compared: dict[str, runs.Run], command: str) -> tuple[list[CompareRow], Path]:
    """Write table.md, table.csv, table.tex and report.html into `folder`; returns the rows and the report's path."""
    made = rows(compared)
    write_text(folder / "table.md", table(made, "markdown") + f"\n{conclusion(compared)}\n")
    write_text(folder / "table.csv", table(made, "csv"))
    below = f"\\par\\medskip{{\\footnotesize {escape_latex(conclusion(compared))}}}\n"
    write_text(folder / "table.tex", table(made, "latex") + below)
    path = write_report(
        folder / "report.html",
        f"Inference methods on {next(iter(compared.values())).setup.dataset.name}",
        run=_what_was_run(compared),
        rows=made,
        pictures=pictures(compared, made),
        command=command,
        notes=[conclusion(compared), *_notes(next(iter(compared.values())))],
    )
    return made, path


def _what_was_run(compared: dict[str, runs.Run]) -> dict[str, Any]:
    setup, here = next(iter(compared.values())).setup, environment()
    model, training = setup.config.model, setup.config.train
    network = f"hidden layers {model.hidden}" if model.architecture == "mlp" else f"{model.width} channels and up"
    return {
        "Data": f"{setup.dataset.name}, examples of shape {'×'.join(map(str, setup.model.data_shape))}",
        "Split": setup.dataset.split["counts"],
        "Binarisation": f"{setup.config.data.binarization}, seed {setup.config.data.binarization_seed}",
        "Likelihood": setup.likelihood.name,
        "Latent dimensions": model.latent_dim,
        "Networks": f"{model.architecture}, {network}, {model.activation}",
        "Training": f"{training.optimizer}, learning rate {training.learning_rate}, batch {training.batch_size}, up "
        f"to {training.epochs} epochs, patience {training.patience}",
        "Seeds": f"{training.num_seeds or 1}, from {training.seed}",
        "Device": f"{here['device']} ({here['backend']}); {here['cpus']} cores, {here['processor']}",
        "Versions": {"Python": here["python"]} | here["packages"],
        "Commit": here["commit"],
        "Data checksum": setup.dataset.checksum[:16],
        "Inference time": f"posterior of a batch of {LATENCY_BATCH}, one sample and its density; median",
    }


def _notes(run: runs.Run) -> list[str]:
    grey = run.setup.dataset.levels != 2 and run.setup.config.data.binarization == "none"
    if run.setup.likelihood.name == "bernoulli" and grey:
        return ["Grey images under a Bernoulli likelihood: the bounds are cross-entropies, not log-likelihoods."]
    return []
