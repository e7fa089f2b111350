"""The RecMix post's Fig. 5: a recursive mixture, component by component, over the true posterior. MNIST, two latents.

    python -m experiments.figure5

Trains a VAE with 2 latents (Bernoulli likelihood, dynamic binarisation, 400-400 networks, 40 epochs, seed 0), then adds
two components, each first alone on the bounded-KL objective (10 epochs), then all jointly with the decoder (10 epochs).
Drawn at 1, 2 and 3 components: the four of the first 200 test images whose VAE posterior is worst, by the exact
KL(Q ‖ p(z|x)) on a grid; printed: that error's mean over the 200. The decoder changes between the rows, and with it the
true posterior. About eight minutes on one CPU core. Writes experiments/results/figure5.png and figure5.json.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from gpvae_jax import likelihoods, networks, runs, train
from gpvae_jax.commands import save_figure, use_compilation_cache
from gpvae_jax.data import load
from gpvae_jax.evaluate.grid import GridPosterior, grid_posterior
from gpvae_jax.methods.recmix import growth, recmix
from gpvae_jax.methods.vae import vae
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.model import latent_model
from gpvae_jax.observation import observe
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.progress import bars
from gpvae_jax.types import InferenceMethod, Params

RESULTS = Path(__file__).parent / "results"
COMPONENTS, GRADED, SHOWN = 3, 200, 4


@dataclasses.dataclass(frozen=True)
class Figure5:
    """How long each part is trained."""

    vae_epochs: int = 40
    newest_epochs: int = 10
    joint_epochs: int = 10
    cap: float = 2.0


def main(command: Figure5) -> None:
    """Train, grow and draw."""
    use_compilation_cache()
    data, observation = observe(load("mnist"), "dynamic", seed=0)
    training = train.TrainingData(jnp.asarray(data.train), jnp.asarray(data.validation))
    shape = data.train.shape[1:]
    encoder = networks.mlp(shape, (400, 400))
    model = latent_model(networks.mlp((2,), (400, 400), shape), likelihoods.bernoulli())

    def fitted(method: InferenceMethod, params: Params | None, epochs: int, what: str) -> Params:
        schedule = optax.cosine_decay_schedule(1e-3, epochs * (len(data.train) // 128))
        run = train.trainer(method, model, optax.adam(schedule), observation)
        state: Any = None if params is None else jax.jit(run.start)(params, jax.random.key(1))
        key = jax.random.key(0) if params is None else None
        with bars() as progress:
            task = progress.add_task(what, total=epochs, text="")
            for record in train.fit(run, training, key, epochs=epochs, state=state):
                progress.update(task, completed=record.epoch, text=f"ELBO {record.metrics['validation_elbo']:.2f}")
        return jax.tree.map(jnp.copy, record.state.best)

    def mixture(refinement: str) -> InferenceMethod:
        return recmix(model, encoder, refinement=refinement, cap=command.cap)

    grown = growth(model, encoder)
    params = [grown.start(fitted(vae(model, encoder), None, command.vae_epochs, "the VAE"))]
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
    found = {"settings": dataclasses.asdict(command), "examples": GRADED, "kl": [e.mean() for e in errors]}
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
