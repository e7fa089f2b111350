"""The picture at the top of the README: one true posterior, and what five ways to infer take it for.

    python -m experiments.front_page

A VAE with 2 latents on scikit-learn's handwritten digits (Bernoulli likelihood, dynamic binarisation, 128-128 networks,
seed 0). Its decoder is held; a mixture of three encoders and an inverse autoregressive flow are trained in it, Newton
steps and SVI refine the VAE's own answer, so all face the same p(z|x), which a grid gives exactly. Shown are two of the
first 100 test digits, those on which the VAE's posterior is worst; under each name the mean of KL(q ‖ p(z|x)) over
the 100. A minute on one CPU core. Writes experiments/results/front_page.png and front_page.json.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.command_line import command_line
from gpvae_jax import likelihoods, networks
from gpvae_jax.checks import check_at_least
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.data import load
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.grid import GridPosterior, grid_posterior, kl_to_posterior
from gpvae_jax.files import write_json
from gpvae_jax.methods import iaf, mixture, newton, svi, vae
from gpvae_jax.model import latent_model
from gpvae_jax.objectives import frozen
from gpvae_jax.observation import observe
from gpvae_jax.plots.style import FAINT, INK
from gpvae_jax.report import estimate
from gpvae_jax.train import TrainingData, fit, trainer
from gpvae_jax.types import InferenceMethod, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
GRADED, SHOWN = 100, 2
DROPS = (0.0, 0.5, 2.0, 4.5, 8.0)  # nats below the top: 1, 2, 3 and 4 standard deviations of a Gaussian
TRUE, TAKEN = "#009E73", "#D55E00"


@dataclasses.dataclass(frozen=True)
class FrontPage:
    """How long everything is trained."""

    epochs: int = 200
    out: Path = RESULTS / "front_page.png"


def main(command: FrontPage) -> None:
    """Train, grade and draw."""
    prepare_jax()
    check_at_least(1, epochs=command.epochs)
    data, observation = observe(load("digits"), "dynamic", seed=0)
    model = latent_model(networks.mlp((2,), (128, 128), (8, 8, 1)), likelihoods.bernoulli())
    encoder = networks.mlp((8, 8, 1), (128, 128))
    training = TrainingData(data.train, data.validation)
    x = observation.evaluate(jnp.asarray(data.test[:GRADED]))

    def fitted(method: InferenceMethod, theta: Any = None) -> Params:
        run = trainer(method if theta is None else frozen(method, "model"), model, optax.adam(1e-3), observation)
        start = method.init(jax.random.key(0), x)
        state = run.start(start if theta is None else start._replace(model=theta), jax.random.key(1))
        *_, record = fit(run, training, epochs=command.epochs, state=state)
        return record.state.best

    base = fitted(vae(model, encoder))
    mixed, flow = mixture(model, encoder), iaf(model, encoder, width=64)
    steps = newton(model, encoder, steps=3, curvature="gauss_newton", step_size=1.0, halvings=4, inner_samples=8)
    methods = {
        "one Gaussian (VAE)": (vae(model, encoder), base),
        "mixture of three": (mixed, fitted(mixed, base.model)),
        "flow (IAF)": (flow, fitted(flow, base.model)),
        "3 Newton steps": (steps, Params(base.model, {"base": base.inference})),
        "SVI, 1,000 steps": (svi(model, encoder, max_steps=1000), base),
    }
    grid = grid_posterior(model, base.model, x)
    posteriors = {name: jax.jit(m.posterior)(params, jax.random.key(2), x)[0] for name, (m, params) in methods.items()}
    errors = {name: kl_to_posterior(model, base.model, x, q, grid.log_evidence) for name, q in posteriors.items()}
    shown = np.argsort(-errors["one Gaussian (VAE)"])[:SHOWN]
    for name, error in errors.items():
        print(f"{name:22} KL(q ‖ p(z|x)) {error.mean():.3f} ± {estimate(error).se:.3f} nats")
    save_figure(_figure(grid, posteriors, errors, np.asarray(x), shown), command.out)
    kept = {name: estimate(error) for name, error in errors.items()}
    write_json(command.out.with_suffix(".json"), {"kl": kept, "environment": environment()})


def _figure(grid: GridPosterior, posteriors: dict, errors: dict, x: np.ndarray, shown: np.ndarray) -> "Figure":
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    points = np.moveaxis(grid.points().reshape(len(x), -1, 2), 0, 1)
    densities = {
        name: np.asarray(jax.jit(lambda q, z: q.log_prob(z))(q, jnp.asarray(points, jnp.float32))).T.reshape(
            grid.log_density.shape
        )
        for name, q in posteriors.items()
    }
    figure = Figure((10.4, 4.3), layout="constrained", facecolor="white")
    panels = figure.subplots(len(shown), 1 + len(posteriors), width_ratios=[0.55] + [1] * len(posteriors))
    for row, b in enumerate(shown):
        panels[row, 0].imshow(x[b, ..., 0], cmap="gray", vmin=0, vmax=1)
        panels[row, 0].axis("off")
        draw = partial(_draw, first=grid.first[b], second=grid.second[b], true=grid.log_density[b])
        for axes, (name, density) in zip(panels[row, 1:], densities.items(), strict=True):
            draw(axes, taken=density[b])
            if row == 0:
                axes.set_title(f"{name}\nKL {errors[name].mean():.2f} nats", fontsize=9, color=INK)
            axes.set_xlabel("z₁", fontsize=7, labelpad=1)
        panels[row, 1].set_ylabel("z₂", fontsize=7, labelpad=1)
    lines = [
        Line2D([], [], color=TRUE, linewidth=6, alpha=0.6, label="true posterior p(z|x)"),
        Line2D([], [], color=TAKEN, label="what the method takes it for, q(z|x)"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw(axes: Any, *, first: np.ndarray, second: np.ndarray, true: np.ndarray, taken: np.ndarray) -> None:
    shades = [(0, 0.62, 0.45, alpha) for alpha in (0.75, 0.5, 0.3, 0.14)]
    axes.contourf(first, second, (true.max() - true).T, levels=DROPS, colors=shades)
    axes.contour(first, second, (taken.max() - taken).T, levels=DROPS[1:], colors=TAKEN, linewidths=1.1)
    axes.tick_params(labelsize=6, color=FAINT, labelcolor=INK)
    axes.spines[:].set_color(FAINT)


if __name__ == "__main__":
    command_line(main, FrontPage, __doc__)
