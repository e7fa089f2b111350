"""Annealed importance sampling on a CPU or GPU: the time of a full run, and the share of it spent outside the decoder.

    python -m benchmarks.annealing --temperatures 10

28×28 images, 20 latents, a Bernoulli decoder with two hidden layers of 400 units, untrained; 16 chains of 100 images,
10 leapfrog steps, no pilot run (which adds a quarter). Beside it, in turn, the same number of decoder passes with
their gradients on the same shapes, and nothing else: what is left is the share of proposals, acceptance and weights.
The cost is linear in the temperatures, so few are timed and the full number is extrapolated.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from gpvae_jax import likelihoods, networks
from gpvae_jax.evaluate.ais import sigmoid_schedule
from gpvae_jax.evaluate.annealing import CHUNK, transitions_alone
from gpvae_jax.model import latent_model
from gpvae_jax.progress import say


@dataclasses.dataclass(frozen=True)
class Annealing:
    """What is timed."""

    temperatures: int = 10
    """How many are timed, of one compiled call."""
    full: int = 1000
    """How many are extrapolated to."""
    chains: int = 16
    images: int = 100
    leapfrog: int = 10
    hidden: tuple[int, ...] = (400, 400)
    repeats: int = 3


def measure(command: Annealing) -> dict[str, float]:
    """Seconds of the full run, of its decoder passes alone, and the share outside them; medians over the repeats."""
    if not 1 <= command.temperatures <= CHUNK:
        raise ValueError(f"--temperatures must be from 1 to {CHUNK}, those of one call, got {command.temperatures}.")
    shape, latents = (28, 28, 1), 20
    model = latent_model(networks.mlp((latents,), command.hidden, shape), likelihoods.bernoulli())
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (command.images, *shape)), jnp.float32)
    theta = model.init(jax.random.key(0), x)
    z = jax.random.normal(jax.random.key(1), (command.chains, command.images, latents))
    schedule = sigmoid_schedule(command.temperatures)
    anneal = transitions_alone(model, theta, x, z, schedule, command.leapfrog)

    @jax.jit
    def passes(z: jax.Array) -> jax.Array:
        def one(z: jax.Array, _: Any) -> tuple[jax.Array, None]:
            value, pull = jax.vjp(lambda z: model.log_likelihood(theta, x, z), z)
            return z + 1e-6 * pull(jnp.ones_like(value))[0], None

        return jax.lax.scan(one, z, length=command.temperatures * command.leapfrog)[0]

    times = _interleaved({"annealing": anneal, "decoder": lambda: passes(z)}, command.repeats)
    scale = command.full / command.temperatures
    whole, decoder = scale * times["annealing"], scale * times["decoder"]
    return {"seconds": whole, "decoder_seconds": decoder, "share_outside": 1 - decoder / whole}


def _interleaved(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median processor seconds per call, which a busy machine does not stretch; all in turn, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.process_time()
            jax.block_until_ready(call())
            times[name].append(time.process_time() - started)
    return {name: float(np.median(values[1:])) for name, values in times.items()}


def main(command: Annealing) -> None:
    """Measure and print."""
    found = measure(command)
    say(
        f"{command.full} temperatures, {command.chains} chains, {command.images} images: {found['seconds']:.0f} s of "
        f"processor time, extrapolated from {command.temperatures}; its decoder passes alone "
        f"{found['decoder_seconds']:.0f} s, so {100 * found['share_outside']:.0f} % are spent outside them."
    )


if __name__ == "__main__":
    main(tyro.cli(Annealing, description=__doc__))
