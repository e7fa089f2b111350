"""The posts' figures of the amortization gap: encoder, SAVI and SVI on true posteriors. MNIST, two latents.

    python -m experiments.amortization_figure
    python -m experiments.amortization_figure --data digits --folder runs/amortization-digits    # needs no MNIST

Takes the VAE that figure 3 has trained, or trains it (2 latents, Bernoulli likelihood, dynamic binarisation, 400-400
networks, 60 epochs, seed 0). For the first 100 test images the diagonal Gaussian with the highest ELBO is searched for
(SVI), and eight gradient steps are taken from the encoder's answer (SAVI's at test time; of five step sizes the one
with the highest ELBO after them on as many validation images). Reported is the error
KL(q ‖ p(z|x)) of each, on a grid, in nats. Drawn are five images from the median amortization gap to the largest: the
true posterior's contours, the encoder's Gaussian, the way of the steps, and SVI's Gaussian. Four minutes on one CPU
core, and two after that. Expected: 3.49 ± 0.86 (encoder), 2.66 ± 0.63 (two steps), 2.20 ± 0.47 (eight), 1.07 ± 0.40
(SVI) nats, and in the last panel an encoder in another mode than the one with the mass, where no step leads it out.
Writes experiments/results/amortization_figure.png and .json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.command_line import command_line
from experiments.figure3 import trained
from gpvae_jax import runs
from gpvae_jax.build import build_encoder
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.grid import GridPosterior, grid_posterior, kl_to_posterior
from gpvae_jax.files import write_json
from gpvae_jax.gaussians.per_example import elbo_with_error
from gpvae_jax.methods.savi import savi
from gpvae_jax.methods.svi import svi
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.plots.posterior import Path as Way
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.report import estimate
from gpvae_jax.types import Params

RESULTS = Path(__file__).parent / "results"
STEPS, SHOWN = 8, 5
STEP_SIZES = (0.0003, 0.001, 0.003, 0.01, 0.03)


@dataclasses.dataclass(frozen=True)
class Amortization:
    """The run, and how much of it is looked at."""

    folder: Path = Path("runs/figure3/vae")
    data: str = "mnist"
    epochs: int = 60
    graded: int = 100
    """Test images whose errors are computed."""


def main(command: Amortization) -> None:
    """Train if it is not trained, refine, grade and draw."""
    prepare_jax()
    run = trained(command.folder, command.epochs, data=command.data)
    setup, params = run.setup, runs.best_params(run)
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[: command.graded]))
    step_size = _step_size(run, params, command.graded)
    ascent = _ascent(run, params, x, step_size)
    encoder = build_encoder(setup.config.model, setup.model.data_shape)
    search = svi(setup.model, encoder, base=setup.method)
    best, _ = jax.jit(search.posterior)(params, jax.random.key(1), x)

    grid = grid_posterior(setup.model, params.model, x)
    found = {"encoder": ascent[0], "SAVI, 2 steps": ascent[2], f"SAVI, {STEPS} steps": ascent[STEPS], "SVI": best}
    errors = {n: kl_to_posterior(setup.model, params.model, x, q, grid.log_evidence) for n, q in found.items()}
    for name, error in errors.items():
        print(f"{name:<14} KL(q ‖ p(z|x)) {error.mean():.3f} ± {estimate(error).se:.3f} nats")
    gap = errors["encoder"] - errors["SVI"]
    shown = np.argsort(gap)[np.linspace(len(gap) // 2, len(gap) - 1, SHOWN).astype(int)]
    panels = [_panel(grid, ascent, best, np.asarray(x), int(b), errors) for b in shown]
    RESULTS.mkdir(exist_ok=True)
    save_figure(posterior_panels(panels, columns=SHOWN), RESULTS / "amortization_figure.png")
    write_json(
        RESULTS / "amortization_figure.json",
        {
            "data": setup.dataset.name,
            "epochs": command.epochs,
            "images": len(gap),
            "kl": {name: estimate(error) for name, error in errors.items()},
            "step_size": step_size,
            "amortization_gap": estimate(gap),
            "environment": environment(),
        },
    )


def _step_size(run: runs.Run, params: Params, count: int) -> float:
    """The step size after whose steps validation images have the highest ELBO."""
    model = run.setup.model
    x = run.setup.observation.evaluate(jnp.asarray(run.setup.dataset.validation[:count]))
    bounds = {}
    for size in STEP_SIZES:
        q = _ascent(run, params, x, size)[-1]
        bounds[size] = float(elbo_with_error(model, params.model, q, jax.random.key(3), x, 100)[0].mean())
    return max(bounds, key=lambda size: bounds[size])


def _ascent(run: runs.Run, params: Params, x: jax.Array, step_size: float) -> list[DiagonalGaussian]:
    """The encoder's posterior, and that after each of SAVI's steps, none of them learned."""
    setup = run.setup
    encoder = build_encoder(setup.config.model, setup.model.data_shape)

    @jax.jit
    def step(q: DiagonalGaussian, key: Any) -> DiagonalGaussian:
        here = setup.method._replace(posterior=lambda params, key, x: (q, {}))
        one = savi(
            setup.model, encoder, base=here, steps=1, step_size=step_size, learn_step_size=False, inner_samples=8
        )
        return one.posterior(Params(params.model, {"base": params.inference}), key, x)[0]

    q, _ = jax.jit(setup.method.posterior)(params, jax.random.key(0), x)
    found = [q]
    for key in jax.random.split(jax.random.key(2), STEPS):
        found.append(step(found[-1], key))
    return found


def _panel(
    grid: GridPosterior,
    ascent: list[DiagonalGaussian],
    best: DiagonalGaussian,
    x: np.ndarray,
    b: int,
    errors: dict[str, np.ndarray],
) -> Panel:
    encoder, _, last, optimum = (float(error[b]) for error in errors.values())
    return Panel(
        title=f"KL(q ‖ p), nats: encoder {encoder:.2f}\n{STEPS} steps {last:.2f}, SVI {optimum:.2f}",
        first=grid.first[b],
        second=grid.second[b],
        log_density=grid.log_density[b],
        gaussians=[
            Gaussian("encoder (AVI), 1 σ (dashed: 2 σ)", np.asarray(ascent[0].mean[b]), np.asarray(ascent[0].std[b])),
            Gaussian("SVI's optimum, 1 σ (dashed: 2 σ)", np.asarray(best.mean[b]), np.asarray(best.std[b])),
        ],
        paths=[Way(f"mean over {STEPS} SAVI steps", np.stack([np.asarray(q.mean[b]) for q in ascent]))],
        images=[("input", x[b])],
    )


if __name__ == "__main__":
    command_line(main, Amortization, __doc__)
