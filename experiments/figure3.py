"""The GPVAE post's Fig. 3: uncertainty and posteriors, MNIST, two latents.

    python -m experiments.figure3

Trains a VAE with 2 latents (Bernoulli likelihood, dynamic binarisation, 400-400 networks, 60 epochs, seed 0) and, over
its frozen encoder and decoder, a GPVAE (20 epochs). Scores the first 1,000 test images by the variance of its error
functions, and draws six of them at equal steps of rank, from the most certain to the most uncertain: above, the true
posterior on a grid with the base encoder's Gaussian and samples of the GPVAE's posterior; below, input and
reconstruction. Also prints, for the first 300, the errors KL(q ‖ p(z|x)) of base and GPVAE, and the rank
correlation of the score with the base's. Four minutes on one CPU core, and two minutes after that.
Writes experiments/results/figure3.png and figure3.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.command_line import command_line
from gpvae_jax import build, compare, config, runs
from gpvae_jax.commands import prepare_jax, save_figure, train_with_bar
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.grid import grid_posterior, kl_to_posterior
from gpvae_jax.evaluate.uncertainty import spearman
from gpvae_jax.files import write_json
from gpvae_jax.gp.errors import uncertainty
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"
SHOWN, SCORED = 6, 1000


@dataclasses.dataclass(frozen=True)
class Figure3:
    """Where the run is kept, and how it is trained."""

    folder: Path = Path("runs/figure3")
    settings: tuple[str, ...] = ()
    """Settings of the GPVAE (default: the paper's form)."""
    epochs: int = 60
    gp_epochs: int = 20
    graded: int = 300
    """Images whose error is computed."""


def main(command: Figure3) -> None:
    """Train if it is not trained, and draw."""
    prepare_jax()
    base_run = trained(command.folder / "vae", command.epochs)
    run = trained(
        command.folder / "gpvae",
        command.gp_epochs,
        method="gpvae",
        settings=list(command.settings),
        start_from=str(base_run.folder),
        frozen="base",
    )
    setup, params = run.setup, runs.best_params(run)
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[:SCORED]))
    q, info = jax.jit(setup.method.posterior)(params, jax.random.key(0), x)
    score = np.asarray(uncertainty(info).total, np.float64)
    base = DiagonalGaussian(info["base_mean"], jnp.log(info["base_std"]))

    graded = np.arange(min(command.graded, SCORED))
    grid = grid_posterior(setup.model, params.model, x[graded])
    error, corrected = (
        kl_to_posterior(setup.model, params.model, x[graded], _rows(of, graded), grid.log_evidence) for of in (base, q)
    )
    correlation = spearman(score[graded], error)
    print(f"KL(q ‖ true posterior): base {error.mean():.3f}, GPVAE {corrected.mean():.3f} nats, {len(graded)} images")
    print(f"Spearman(GP uncertainty, KL of the base): {correlation}")

    order = np.argsort(score)[np.linspace(0, SCORED - 1, SHOWN).astype(int)]
    grid = grid_posterior(setup.model, params.model, x[order])
    errors = kl_to_posterior(setup.model, params.model, x[order], _rows(base, order), grid.log_evidence)
    z, _ = q.sample_and_log_prob(jax.random.key(1), 300)
    rebuilt = np.asarray(setup.model.mean(params.model, q.mean[order]))
    panels = [
        Panel(
            title=f"uncertainty {score[i]:.2g}\nKL(q ‖ p) {errors[n]:.2f} nats",
            first=grid.first[n],
            second=grid.second[n],
            log_density=grid.log_density[n],
            gaussians=[Gaussian("base encoder, 1 σ (dashed: 2 σ)", np.asarray(base.mean[i]), np.asarray(base.std[i]))],
            samples=np.asarray(z[:, i]),
            images=[("input", np.asarray(x[i])), ("rebuilt", rebuilt[n])],
        )
        for n, i in enumerate(order)
    ]
    RESULTS.mkdir(exist_ok=True)
    save_figure(posterior_panels(panels), RESULTS / "figure3.png")
    write_json(
        RESULTS / "figure3.json",
        {
            "settings": command.settings,
            "epochs": [command.epochs, command.gp_epochs],
            "spearman_with_exact_error": correlation,
            "graded": len(graded),
            "kl_of_base": estimate(error),
            "kl_of_gpvae": estimate(corrected),
            "kl_won": estimate(error - corrected),
            "shown": {"score": score[order], "kl": errors},
            "environment": environment(),
        },
    )


def trained(
    folder: Path,
    epochs: int,
    *,
    start_from: str | None = None,
    frozen: str | None = None,
    data: str = "mnist",
    **method: Any,
) -> runs.Run:
    """The run of this folder, 2 latents, trained to its end; the figures of two-latent posteriors share it."""
    schedule = {"schedule": "cosine", "ema_decay": 0.999, "learning_rate": 1e-3}
    values = {
        "data": {"name": data},
        "model": {"likelihood": "bernoulli", "latent_dim": 2, "hidden": [400, 400]},
        "train": {"epochs": epochs, "start_from": start_from, "frozen": frozen, **schedule},
    }
    wanted = config.from_dict(values | method)
    run = runs.open_run(folder) if (folder / "config.json").exists() else runs.create(folder, wanted)
    compare.same_settings(run, build.resolve(wanted, run.setup.dataset))
    train_with_bar(run, resume=True)
    return run


def _rows(q: Any, rows: np.ndarray) -> Any:
    """Some examples of a batch of posteriors."""
    return jax.tree.map(lambda leaf: leaf[rows], q)


if __name__ == "__main__":
    command_line(main, Figure3, __doc__)
