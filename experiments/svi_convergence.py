"""Does SVI converge? More steps, more draws and other starts, on a trained run's test images.

    python -m experiments.svi_convergence runs/mnist-vae

Each example's diagonal Gaussian is optimised with the default settings from two starts, the encoder's answer and the
prior N(0, I), and the better is kept: the reference. It is then optimised once more from there with a tenth of the
tolerance and four times the draws, and anew from two other starts: the encoder's mean plus three of its standard
deviations of noise, and a draw of the prior. Printed: by how many nats each beats the reference, its ELBO on the same
fresh draws, and what the best of all gains. Writes experiments/results/svi_convergence.json.
About eight minutes on one CPU core for a 400-400 network, 20 latents and 256 images.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments.command_line import command_line
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.run import params_by_seed
from gpvae_jax.files import write_json
from gpvae_jax.gaussians.per_example import elbo_with_error, optimize
from gpvae_jax.methods.svi import best_of
from gpvae_jax.posteriors import DiagonalGaussian
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results" / "svi_convergence.json"


@dataclasses.dataclass(frozen=True)
class Check:
    """What is checked."""

    run: tyro.conf.Positional[Path]
    """A trained run folder of a method with a Gaussian posterior."""
    examples: int = 256
    max_steps: int = 5000
    draws: int = 20_000
    """Fresh draws that judge each result, the same for all."""


def main(command: Check) -> None:
    """Optimise from every start and compare."""
    prepare_jax()
    run = runs.open_run(command.run)
    setup, params = run.setup, params_by_seed(run)[0]
    x = setup.observation.evaluate(jnp.asarray(setup.dataset.test[: command.examples]))
    encoder, _ = setup.method.posterior(params, jax.random.key(0), x)
    search = jax.jit(
        partial(optimize, setup.model, params.model, x, optimizer=optax.adam(0.1), max_steps=command.max_steps)
    )
    finer = jax.jit(
        partial(
            optimize,
            setup.model,
            params.model,
            x,
            optimizer=optax.adam(0.1),
            max_steps=command.max_steps,
            tolerance=1e-4,
            num_samples=32,
            check_samples=1024,
        )
    )
    value = jax.jit(lambda q: elbo_with_error(setup.model, params.model, q, jax.random.key(9), x, command.draws)[0])
    noise = jax.random.normal(jax.random.key(1), encoder.mean.shape)
    zeros = jnp.zeros_like(encoder.mean)
    starts = {
        "near the encoder": DiagonalGaussian(encoder.mean + 3 * encoder.std * noise, encoder.log_std),
        "prior draw": DiagonalGaussian(jax.random.normal(jax.random.key(6), zeros.shape), zeros - 1),
    }
    from_encoder = search(start=encoder, key=jax.random.key(2))
    reference = best_of([from_encoder, search(start=DiagonalGaussian(zeros, zeros), key=jax.random.key(2))])
    found = {"more steps and draws": finer(start=reference.posterior, key=jax.random.key(3))}
    found |= {name: search(start=start, key=jax.random.key(2)) for name, start in starts.items()}
    first = np.asarray(value(reference.posterior), np.float64)
    one_start = np.asarray(value(from_encoder.posterior), np.float64)
    values = {name: np.asarray(value(optimum.posterior), np.float64) for name, optimum in found.items()}
    values["best of all"] = np.max([first, *values.values()], axis=0)
    amortized = np.asarray(value(encoder), np.float64)
    result: dict[str, Any] = {
        "run": str(command.run),
        "examples": command.examples,
        "amortized_elbo": estimate(amortized),
        "svi_elbo": estimate(first),
        "gap": estimate(first - amortized),
        "second_start": estimate(first - one_start),
        "steps": float(from_encoder.steps.mean()),
        "converged": float(from_encoder.converged.mean()),
        "gain": {name: estimate(v - first) for name, v in values.items()},
        "gains_above_0.1_nats": {name: int(np.sum(v - first > 0.1)) for name, v in values.items()},
        "environment": environment(),
    }
    print(f"amortized ELBO {result['amortized_elbo'].mean:.3f}, SVI {result['svi_elbo'].mean:.3f} nats")
    print(f"the second start gave {result['second_start'].mean:+.4f} ± {result['second_start'].se:.4f} nats")
    for name, gain in result["gain"].items():
        above = result["gains_above_0.1_nats"][name]
        print(f"{name:<20} {gain.mean:+.4f} ± {gain.se:.4f} nats; {above} of {command.examples} gain more than 0.1")
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, result)


if __name__ == "__main__":
    command_line(main, Check, __doc__)
