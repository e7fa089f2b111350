"""The RecMix post's Fig. 5: a recursive mixture, component by component, over the true posterior. MNIST, two latents.

    python -m experiments.figure5

Takes the VAE that figure 3 has trained, or trains it (2 latents, Bernoulli likelihood, dynamic binarisation, 400-400
networks, 60 epochs, seed 0), then adds two components, each first alone on the bounded-KL objective (10 epochs), then
all of them with the decoder (10 epochs). Drawn at 1, 2 and 3 components: of the first 100 test images the four at the
median, 75, 90 and 97 % of the VAE's error KL(Q ‖ p(z|x)), which a grid and draws from Q give; printed: mean and median
of that error over the 100. The decoder changes between the rows, and with it the true posterior. Ten minutes on one
CPU core, the VAE included. The runs resume. In the post's concept the error falls with every component; here it does
not: mean 3.49 ± 0.86, 4.06 ± 1.19, 4.13 ± 1.16 nats, median 0.62, 0.54, 0.63. Writes experiments/results/figure5.png
and figure5.json.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.command_line import command_line
from experiments.figure3 import trained
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax, save_figure
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.grid import GridPosterior, grid_posterior, kl_to_posterior
from gpvae_jax.files import write_json
from gpvae_jax.mixtures.posterior import GaussianMixture
from gpvae_jax.plots.posterior import Gaussian, Panel, posterior_panels
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"
COMPONENTS = 3
RANKS = (0.5, 0.75, 0.9, 0.97)  # of the VAE's errors: the images drawn


@dataclasses.dataclass(frozen=True)
class Figure5:
    """Where the runs are kept, and how long each part is trained."""

    vae: Path = Path("runs/figure3/vae")
    folder: Path = Path("runs/figure5")
    vae_epochs: int = 60
    newest_epochs: int = 10
    together_epochs: int = 10
    cap: float = 2.0
    graded: int = 100
    """Test images whose error is computed."""


def main(command: Figure5) -> None:
    """Train what is not trained, grow and draw."""
    prepare_jax()
    stages = [trained(command.vae, command.vae_epochs)]
    for m in range(2, COMPONENTS + 1):
        settings = (f"num_components={m}", f"cap={command.cap:g}")
        alone = (*settings, "refinement=newest")
        run = _grown(command.folder / f"{m}-alone", command.newest_epochs, stages[-1], alone)
        stages.append(_grown(command.folder / f"{m}-together", command.together_epochs, run, settings))

    setup = stages[0].setup
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[: command.graded]))
    errors, evidence, panels, shown = [], [], [], None
    for run in stages:
        params = runs.best_params(run)
        q, _ = jax.jit(run.setup.method.posterior)(params, jax.random.key(0), x)
        q = GaussianMixture(q.mean[None], q.log_std[None], jnp.zeros((len(x), 1))) if run is stages[0] else q
        grid = grid_posterior(setup.model, params.model, x)
        errors.append(kl_to_posterior(setup.model, params.model, x, q, grid.log_evidence))
        evidence.append(grid.log_evidence)
        shown = np.argsort(errors[0])[[round(r * (len(x) - 1)) for r in RANKS]] if shown is None else shown
        panels += [_panel(grid, q, b, float(errors[-1][b])) for b in shown]
    for m, error in enumerate(errors, start=1):
        kl, more, log_p = estimate(error), estimate(error - errors[0]), estimate(evidence[m - 1] - evidence[0])
        print(
            f"{m} component(s): KL(Q ‖ p(z|x)) {kl.mean:.3f} ± {kl.se:.3f} nats, median {np.median(error):.3f}", end=""
        )
        over_one = f"; over one component {more.mean:+.3f} ± {more.se:.3f}, log p(x) {log_p.mean:+.3f} ± {log_p.se:.3f}"
        print(over_one if m > 1 else "")
    RESULTS.mkdir(exist_ok=True)
    save_figure(posterior_panels(panels, columns=len(RANKS)), RESULTS / "figure5.png")
    chosen = {name: value for name, value in dataclasses.asdict(command).items() if not isinstance(value, Path)}
    kept = {
        str(m): {
            "mean": estimate(error),
            "median": np.median(error),
            "over_one_component": estimate(error - errors[0]),
            "log_evidence_over_one_component": estimate(evidence[m - 1] - evidence[0]),
        }
        for m, error in enumerate(errors, start=1)
    }
    write_json(RESULTS / "figure5.json", {"settings": chosen, "kl": kept, "environment": environment()})


def _grown(folder: Path, epochs: int, before: runs.Run, settings: tuple[str, ...]) -> runs.Run:
    """A recursive mixture, from the run before."""
    return trained(folder, epochs, start_from=str(before.folder), method="recmix", settings=settings)


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
    command_line(main, Figure5, __doc__)
