"""The GPVAE post's Fig. 3: uncertainty and posteriors, MNIST, two latents.

    python -m experiments.figure3

Trains a GPVAE with 2 latents (Bernoulli likelihood, dynamic binarisation, 400-400 networks, 60 epochs, seed 0), scores
the first 1,000 test images by the variance of its error functions, and draws six of them at equal steps of rank, from
the most certain to the most uncertain: above, the true posterior on a grid with the base encoder's Gaussian and samples
of the GPVAE's posterior; below, input and reconstruction. Also prints, for the first 300, the rank correlation of the
score with the exact error KL(q ‖ p(z|x)) of the base encoder. Four minutes on one CPU core, and a minute after that.
Writes experiments/results/figure3.png and figure3.json.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from gpvae_jax import config, runs
from gpvae_jax.commands import save_figure, train_with_bar, use_compilation_cache
from gpvae_jax.evaluate.grid import grid_posterior
from gpvae_jax.evaluate.uncertainty import spearman
from gpvae_jax.gp.errors import uncertainty
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.posteriors import DiagonalGaussian

RESULTS = Path(__file__).parent / "results"
SHOWN, SCORED = 6, 1000


@dataclasses.dataclass(frozen=True)
class Figure3:
    """Where the run is kept, and how it is trained."""

    run: Path = Path("runs/figure3")
    settings: tuple[str, ...] = ()
    """Settings of the GPVAE (default: the paper's form)."""
    epochs: int = 60
    graded: int = 300
    """Images whose exact error is computed."""


def main(command: Figure3) -> None:
    """Train if it is not trained, and draw."""
    use_compilation_cache()
    values = {
        "method": "gpvae",
        "settings": list(command.settings),
        "data": {"name": "mnist"},
        "model": {"likelihood": "bernoulli", "latent_dim": 2, "hidden": [400, 400]},
        "train": {"epochs": command.epochs, "schedule": "cosine", "ema_decay": 0.999, "learning_rate": 1e-3},
    }
    exists = (command.run / "config.json").exists()
    run = runs.open_run(command.run) if exists else runs.create(command.run, config.from_dict(values))
    train_with_bar(run, resume=True)
    setup, params = run.setup, runs.best_params(run)
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[:SCORED]))
    q, info = jax.jit(setup.method.posterior)(params, jax.random.key(0), x)
    score = np.asarray(uncertainty(info).total, np.float64)
    base = DiagonalGaussian(info["base_mean"], jnp.log(info["base_std"]))

    graded = np.arange(min(command.graded, SCORED))
    grid = grid_posterior(setup.model, params.model, x[graded])
    error = grid.kl_from(_density(base, graded, grid.points()))
    correlation = spearman(score[graded], error)
    print(f"Spearman(GP uncertainty, KL(base q ‖ true posterior)) over {len(graded)} images: {correlation}")

    order = np.argsort(score)[np.linspace(0, SCORED - 1, SHOWN).astype(int)]
    grid = grid_posterior(setup.model, params.model, x[order])
    errors = grid.kl_from(_density(base, order, grid.points()))
    z, _ = q.sample_and_log_prob(jax.random.key(1), 300)
    rebuilt = np.asarray(setup.model.mean(params.model, q.mean[order]))
    panels = [
        Panel(
            title=f"uncertainty {score[i]:.2g}\nKL(q ‖ p) {errors[n]:.2f} nats",
            first=grid.first[n],
            second=grid.second[n],
            log_density=grid.log_density[n],
            gaussians=[Gaussian("base encoder, 1 and 2 σ", np.asarray(base.mean[i]), np.asarray(base.std[i]))],
            samples=np.asarray(z[:, i]),
            images=[("input", np.asarray(x[i])), ("rebuilt", rebuilt[n])],
        )
        for n, i in enumerate(order)
    ]
    RESULTS.mkdir(exist_ok=True)
    save_figure(posterior_panels(panels), RESULTS / "figure3.png")
    runs.write_json(
        RESULTS / "figure3.json",
        {
            "settings": command.settings,
            "epochs": command.epochs,
            "spearman_with_exact_error": correlation,
            "graded": len(graded),
            "mean_kl": float(error.mean()),
            "shown": {"score": score[order], "kl": errors},
            "environment": runs.environment(),
        },
    )


def _density(q: DiagonalGaussian, rows: np.ndarray, points: np.ndarray) -> np.ndarray:
    """log q(z|x_b) at the points [B, G, G, 2] of some examples, in float64."""
    mean, std = (np.asarray(part, np.float64)[rows][:, None, None] for part in (q.mean, q.std))
    return np.sum(-0.5 * ((points - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi), axis=-1)


if __name__ == "__main__":
    main(tyro.cli(Figure3, description=__doc__))
