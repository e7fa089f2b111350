"""What each approximation of a GPVAE costs, in nats, where the true posterior is known.

    gpvae train --data mnist --latent-dim 2 --hidden 400 400 --epochs 60 --schedule cosine --ema-decay 0.999 \\
        --out runs/approximations/vae
    gpvae train --method gpvae --data mnist --latent-dim 2 --hidden 400 400 --epochs 60 --schedule cosine \\
        --ema-decay 0.999 --out runs/approximations/joint
    python -m experiments.approximations runs/approximations/vae --joint runs/approximations/joint

Two problems with two latents, in which p(z|x) is computed on a grid. "linear": a linear-Gaussian model of 10
dimensions and an encoder whose mean and standard deviation are off by a smooth function of x that is not linear in
the features; 2,000 examples. "mnist": the decoder and encoder of the run. In both the base is frozen and one piece of
the GPVAE is changed at a time: weight covariance, objective, width F, draws, the nodes of the quadrature, variational
against closed form, the examples fitted to. Reported: KL(q ‖ p(z|x)), less that of the first GPVAE, and by how much
drawing (W, U) anew for every sample, instead of integrating them out, lowers the bound. The run trained jointly
has another p(z|x): its own KL, and log p(x). Seed 0; standard errors over images. About 15 minutes on one CPU core.
Writes experiments/results/approximations.json and approximations.png.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from rich.table import Table

from experiments.command_line import command_line
from gpvae_jax import likelihoods, networks, runs, train
from gpvae_jax.build import build_encoder
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.grid import grid_posterior, kl_to_posterior
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.files import write_json
from gpvae_jax.gp.closed_form import closed_form
from gpvae_jax.gp.errors import redraw
from gpvae_jax.gp.posterior import GaussianScaleMixture
from gpvae_jax.methods.gpvae import gpvae
from gpvae_jax.methods.vae import vae
from gpvae_jax.model import latent_model
from gpvae_jax.objectives import frozen
from gpvae_jax.observation import Observation, scaled
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.progress import bars, console
from gpvae_jax.report import Estimate, estimate
from gpvae_jax.types import InferenceMethod, LatentModel, Network, Params

RESULTS = Path(__file__).parent / "results"
REFERENCE = "diagonal, expected ELBO"
# name -> settings of gpvae; what a name starting with "closed form" says is fitted without training
VARIANTS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "low rank": {"weight_posterior": "low_rank"},
    "full covariance": {"weight_posterior": "full"},
    "covariance shared by the latents": {"weight_posterior": "shared"},
    "marginal ELBO": {"objective": "marginal"},
    "8 draws a step": {"num_samples": 8},
    "4 nodes": {"quadrature": 4},
    "width F = 8": {"features": 8},
    "width F = 32": {"features": 32},
    "width F = 128": {"features": 128},
    "own features": {"own_features": True},
    "closed form": {"weight_posterior": "full"},
    "closed form, held-out examples": {"weight_posterior": "full"},
    "closed form, held-out, white noise": {"weight_posterior": "full", "white_noise": True},
}


@dataclasses.dataclass(frozen=True)
class Approximations:
    """The trained runs with two latents."""

    run: tyro.conf.Positional[Path]
    """Of the method vae."""
    joint: Path | None = None
    """Of the method gpvae, trained from scratch."""
    epochs: int = 10
    """Of MNIST; of the linear problem 25 times as many."""
    examples: int = 500
    """Test images graded."""
    fitted: int = 3000
    """Examples of the closed form."""


class Problem(NamedTuple):
    """A model whose posterior can be computed, an encoder with errors, and examples."""

    model: LatentModel
    base: InferenceMethod
    trained: Params  # θ and the base's φ
    encoder: Network  # the features' network
    shares_features: bool  # whether the encoder's features are the base's own
    observation: Observation
    data: train.TrainingData
    test: np.ndarray  # x[N, *D]
    epochs: int


def main(command: Approximations) -> None:
    """Fit every variant, grade it and draw."""
    prepare_jax()
    problems = {"linear": _linear(command), "mnist": _of_run(runs.open_run(command.run), command)}
    found: dict[str, dict[str, Any]] = {}
    with bars() as progress:
        task = progress.add_task("fitting", total=len(problems) * len(VARIANTS) - 1, text="")
        for title, problem in problems.items():
            grid = grid_posterior(problem.model, problem.trained.model, jnp.asarray(problem.test))
            base, _ = problem.base.posterior(problem.trained, jax.random.key(0), jnp.asarray(problem.test))
            fits: dict[str, Params] = {}
            kl = partial(
                kl_to_posterior,
                problem.model,
                problem.trained.model,
                jnp.asarray(problem.test),
                log_evidence=grid.log_evidence,
            )
            kls, redrawn = {"the encoder alone": kl(base)}, {}
            for name, settings in VARIANTS.items():
                if name == "own features" and not problem.shares_features:
                    continue  # they are its own in every variant
                progress.update(task, text=f"{title}: {name}")
                method, fits[name] = _fitted(problem, name, settings, command, fits)
                params = fits[name]
                q, info = method.posterior(params, jax.random.key(0), jnp.asarray(problem.test))
                kls[name] = kl(q)
                redrawn[name] = _cost_of_redrawing(problem.model, params, q, info, settings, problem.test)
                progress.advance(task)
            found[title] = _summaries(kls, redrawn)
    if command.joint is not None:
        found["jointly trained"] = _joint(runs.open_run(command.joint), command.examples)
    for title in problems:
        console.print(_table(title, found[title]))
    save_figure(_figure({title: found[title] for title in problems}), RESULTS / "approximations.png")
    settings = {"epochs": command.epochs, "examples": command.examples, "fitted": command.fitted}
    write_json(RESULTS / "approximations.json", settings | found | {"environment": environment()})


def _linear(command: Approximations) -> Problem:
    """x = Vz + noise, with an encoder off by sines of x, and random features of one hidden layer."""
    shape, latents = (10,), 2
    model = latent_model(networks.mlp((latents,), (), shape), likelihoods.gaussian())
    theta = model.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (100, *shape)))
    kernel = jax.random.normal(jax.random.key(2), (latents, shape[0]))
    theta = jax.tree.map(lambda leaf: kernel if leaf.ndim == 2 else jnp.zeros_like(leaf), theta)  # variance e⁰ = 1
    inverse = jnp.linalg.inv(jnp.eye(latents) + kernel @ kernel.T)
    directions = 0.5 * jax.random.normal(jax.random.key(3), (shape[0], latents))

    def posterior(params: Params, key: Any, x: jax.Array) -> tuple[DiagonalGaussian, dict[str, Any]]:
        phase = x @ directions
        mean = x @ kernel.T @ inverse + 0.3 * jnp.sin(phase)
        std = jnp.sqrt(jnp.diagonal(inverse))[None] * (1.5 + 0.3 * jnp.cos(phase))
        return DiagonalGaussian(mean, jnp.log(std)), {}

    base = vae(model, networks.mlp(shape, (64,)))._replace(posterior=posterior)
    _, x = model.sample(theta, jax.random.key(4), 2000 + 500 + command.examples)
    observation = scaled(None)
    parts = train.TrainingData(x[:2000], x[2000:2500])
    trained = Params(theta, {})
    network = networks.mlp(shape, (64,), activation="tanh")
    return Problem(model, base, trained, network, False, observation, parts, np.asarray(x[2500:]), 25 * command.epochs)


def _of_run(run: runs.Run, command: Approximations) -> Problem:
    setup = run.setup
    encoder = build_encoder(setup.config.model, setup.model.data_shape)
    test = np.asarray(setup.observation.evaluate(jnp.asarray(setup.dataset.test[: command.examples])))
    trained = params_by_seed(run)[0]
    return Problem(
        setup.model, setup.method, trained, encoder, True, setup.observation, setup.data, test, command.epochs
    )


def _fitted(
    problem: Problem, name: str, settings: dict[str, Any], command: Approximations, earlier: dict[str, Params]
) -> tuple[InferenceMethod, Params]:
    """The variant over the frozen base, trained; or in closed form, on the features the base has or one has learned."""
    held_out = "held-out" in name
    examples = problem.data.validation if held_out else problem.data.train
    base: dict[str, Any] = {} if problem.shares_features else {"base": problem.base, "feature_network": problem.encoder}
    method = gpvae(problem.model, problem.encoder, **base, num_data=len(examples), **settings)
    start = method.init(jax.random.key(5), jnp.asarray(problem.data.train[:100]))
    start = Params(problem.trained.model, start.inference | {"base": problem.trained.inference})
    if name.startswith("closed form"):
        if not problem.shares_features:
            learned = {"features": earlier["full covariance"].inference["features"]}
            start = Params(start.model, start.inference | learned)
        raw = np.asarray(examples[: command.fitted])
        observe: Callable[..., Any] = problem.observation.train
        if held_out:
            observe = _evaluated(problem.observation)
        return method, closed_form(method, problem.model, start, raw, jax.random.key(6), observe=observe).params
    steps = problem.epochs * (len(problem.data.train) // 128)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    run = train.trainer(frozen(method, "base"), problem.model, optimizer, problem.observation, ema_decay=0.99)
    state = jax.jit(run.start)(start, jax.random.key(7))
    *_, record = train.fit(run, problem.data, epochs=problem.epochs, state=state)
    return method, jax.tree.map(jnp.copy, record.state.best)


def _evaluated(observation: Observation) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda key, raw: observation.evaluate(raw)


def _cost_of_redrawing(
    model: LatentModel,
    params: Params,
    q: GaussianScaleMixture,
    info: dict[str, Any],
    settings: dict[str, Any],
    x: np.ndarray,
) -> np.ndarray:
    """L[marginal q] − the bound of the redrawn estimator, per example, from 300 draws each."""
    key_q, key_w = jax.random.split(jax.random.key(8))

    def bound(z: jax.Array, log_q: jax.Array) -> jax.Array:
        joint = model.log_likelihood(params.model, jnp.asarray(x), z) + model.log_prior(params.model, z)
        return jnp.mean(joint - log_q, axis=0)

    family = {"weight_posterior": settings.get("weight_posterior", "diagonal")}
    together = bound(*q.sample_and_log_prob(key_q, 300))
    return np.asarray(together - bound(*redraw(params, info, key_w, 300, **family)), np.float64)


def _summaries(kls: dict[str, np.ndarray], redrawn: dict[str, np.ndarray]) -> dict[str, Any]:
    reference = kls[REFERENCE]
    return {
        name: {
            "kl": estimate(kl),
            "against_reference": estimate(kl - reference),
            "redrawing_costs": estimate(redrawn[name]) if name in redrawn else None,
        }
        for name, kl in kls.items()
    }


def _joint(run: runs.Run, examples: int) -> dict[str, Estimate]:
    x = run.setup.observation.evaluate(jnp.asarray(run.setup.dataset.test[:examples]))
    params = params_by_seed(run)[0]
    q, info = jax.jit(run.setup.method.posterior)(params, jax.random.key(0), x)
    grid = grid_posterior(run.setup.model, params.model, x)
    base = DiagonalGaussian(info["base_mean"], jnp.log(info["base_std"]))
    kl, kl_of_base = (kl_to_posterior(run.setup.model, params.model, x, of, grid.log_evidence) for of in (q, base))
    return {
        "kl": estimate(kl),
        "kl_of_base": estimate(kl_of_base),
        "log_evidence": estimate(grid.log_evidence),
    }


def _table(title: str, found: dict[str, Any]) -> Table:
    table = Table("variant", "KL(q ‖ p(z|x))", "against the first GPVAE", "redrawing costs", title=f"{title}, nats")
    shown: Callable[[Any], str] = lambda e: "" if e is None else f"{e.mean:.4f} ± {e.se:.4f}"  # noqa: E731
    for name, row in found.items():
        table.add_row(name, *map(shown, row.values()))
    return table


def _figure(found: dict[str, dict[str, Any]]) -> Any:
    """Per problem, each variant's KL less the first GPVAE's, with two standard errors."""
    from matplotlib.figure import Figure

    figure = Figure((9.5, 4.6), layout="constrained", facecolor="white")
    all_axes = figure.subplots(1, len(found), sharey=True)
    names = ["the encoder alone", *(name for name in VARIANTS if name != REFERENCE)]  # one row each in every panel
    for axes, (title, rows) in zip(all_axes, found.items(), strict=True):
        values = [rows[name]["against_reference"] for name in names if name in rows]
        places = np.array([len(names) - i for i, name in enumerate(names) if name in rows])
        bars_of = partial(axes.errorbar, fmt="o", color="#0072B2", ecolor="#0072B2", markersize=5, capsize=2)
        bars_of([v.mean for v in values], places, xerr=[2 * v.se for v in values])
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set(
            yticks=range(len(names), 0, -1),
            yticklabels=names,
            title=title,
            xlabel=f"KL(q ‖ p(z|x)) less that of\n“{REFERENCE}” (nats; logarithmic beyond ±0.01)",
        )
        axes.set_xscale("symlog", linthresh=0.01)
        axes.margins(x=0.08)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    command_line(main, Approximations, __doc__)
