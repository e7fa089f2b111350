"""The RecMix post's Fig. 5: a recursive mixture, component by component, over the true posterior. MNIST, two latents.

    python -m experiments.figure5

Takes the VAE that figure 3 has trained, or trains it (2 latents, Bernoulli likelihood, dynamic binarisation, 400-400
networks, 60 epochs, seed 0), then adds two components, each first alone on the bounded-KL objective (10 epochs), then
all jointly with the decoder (10 epochs). Drawn at 1, 2 and 3 components: the four of the first 200 test images whose
VAE posterior is worst, by the exact KL(Q ‖ p(z|x)) on a grid; printed: that error's mean over the 200. The decoder
changes between the rows, and with it the true posterior. About ten minutes on one CPU core, and four for the VAE.
Expected: the error falls with every component. Writes experiments/results/figure5.png and figure5.json.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.figure3 import trained
from gpvae_jax import runs, train
from gpvae_jax.build import build_encoder
from gpvae_jax.commands import save_figure, use_compilation_cache
from gpvae_jax.evaluate.grid import GridPosterior, grid_posterior
from gpvae_jax.methods.recmix import growth, recmix
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.progress import bars
from gpvae_jax.types import InferenceMethod, Params

RESULTS = Path(__file__).parent / "results"
COMPONENTS, GRADED, SHOWN = 3, 200, 4


@dataclasses.dataclass(frozen=True)
class Figure5:
    """Where the VAE is kept, and how long each part is trained."""

    folder: Path = Path("runs/figure3/vae")
    vae_epochs: int = 60
    newest_epochs: int = 10
    joint_epochs: int = 10
    cap: float = 2.0


def main(command: Figure5) -> None:
    """Train, grow and draw."""
    use_compilation_cache()
    run = trained(command.folder, command.vae_epochs)
    setup = run.setup
    model, observation, training, data = setup.model, setup.observation, setup.data, setup.dataset
    encoder = build_encoder(setup.config.model, model.data_shape)

    def fitted(method: InferenceMethod, params: Params, epochs: int, what: str) -> Params:
        schedule = optax.cosine_decay_schedule(1e-3, epochs * (len(data.train) // 128))
        trainer = train.trainer(method, model, optax.adam(schedule), observation)
        state = jax.jit(trainer.start)(params, jax.random.key(1))
        with bars() as progress:
            task = progress.add_task(what, total=epochs, text="")
            for record in train.fit(trainer, training, epochs=epochs, state=state):
                progress.update(task, completed=record.epoch, text=f"ELBO {record.metrics['validation_elbo']:.2f}")
        return jax.tree.map(jnp.copy, record.state.best)

    def mixture(refinement: str) -> InferenceMethod:
        return recmix(model, encoder, refinement=refinement, cap=command.cap)

    grown = growth(model, encoder)
    params = [grown.start(runs.best_params(run))]
    for m in range(1, COMPONENTS):
        wider = grown.grow(params[-1], jax.random.key(10 + m))
        wider = fitted(mixture("newest"), wider, command.newest_epochs, f"component {m + 1} alone")
        params.append(fitted(mixture("joint"), wider, command.joint_epochs, f"all {m + 1} jointly"))

    x = observation.evaluate(jnp.asarray(data.test[:GRADED]))
    errors, panels, shown = [], [], None
    for p in params:
        q, _ = jax.jit(mixture("joint").posterior)(p, jax.random.key(0), x)
        grid = grid_posterior(model, p.model, x)
        errors.append(grid.kl_of(q))
        shown = np.argsort(-errors[0])[:SHOWN] if shown is None else shown
        panels += [_panel(grid, q, b, float(errors[-1][b])) for b in shown]
    for m, error in enumerate(errors, start=1):
        print(f"{m} component(s): KL(Q ‖ p(z|x)) {error.mean():.3f} ± {error.std(ddof=1) / GRADED**0.5:.3f} nats")
    RESULTS.mkdir(exist_ok=True)
    save_figure(posterior_panels(panels, columns=SHOWN), RESULTS / "figure5.png")
    settings = {name: value for name, value in dataclasses.asdict(command).items() if name != "folder"}
    found = {"settings": settings, "examples": GRADED, "kl": [e.mean() for e in errors]}
    runs.write_json(RESULTS / "figure5.json", found | {"environment": runs.environment()})


def _panel(grid: GridPosterior, q: GaussianMixture, b: int, error: float) -> Panel:
    mean, std, alpha = (np.asarray(part) for part in (q.means, jnp.exp(q.log_stds), jnp.exp(q.log_alpha)))
    gaussians = [Gaussian(f"component {m + 1}", mean[m, b], std[m, b], alpha[b, m]) for m in range(len(mean))]
    return Panel(
        title=f"{len(mean)} component{'s' if len(mean) > 1 else ''}, KL {error:.2f} nats",
        first=grid.first[b],
        second=grid.second[b],
        log_density=grid.log_density[b],
        gaussians=gaussians,
    )


if __name__ == "__main__":
    main(tyro.cli(Figure5, description=__doc__))
