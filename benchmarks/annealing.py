"""Annealed importance sampling at full size: its time, and the share of it spent outside the decoder.

    python -m benchmarks.annealing
    python -m benchmarks.annealing --temperatures 50 --images 1000

The fully connected decoder of the other benchmarks; 16 chains of 100 images, 10 leapfrog steps, no pilot run (which
adds a quarter). Beside it, in turn, the same number of decoder passes with their gradients on the same shapes, and
nothing else: what is left is the share of proposals, acceptance and weights. The cost is linear in the temperatures, so
few are timed and the full number is extrapolated (`full_s`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from benchmarks import harness
from benchmarks.cases import LATENTS, case, images
from benchmarks.evaluation import CHAINS, LEAPFROG
from benchmarks.harness import Competitor
from benchmarks.records import Line
from gpvae_jax.evaluate.ais import sigmoid_schedule
from gpvae_jax.evaluate.annealing import CHUNK, transitions_alone
from gpvae_jax.types import LatentModel

LEAST = 3  # readings of each row


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is annealed."""

    temperatures: int = 10
    """How many are timed, of one compiled call."""
    full: int = 1000
    """How many are extrapolated to."""
    images: int = 100
    leapfrog: int = LEAPFROG


def decoder_passes(model: LatentModel, theta: Any, x: Array, z: Float[Array, "C B Z"], number: int) -> Competitor:
    """log p(x|z) and its gradient to z, `number` times one after the other."""

    def passes(theta: Any, z: Array) -> Array:
        def one(z: Array, _: None) -> tuple[Array, None]:
            value, pull = jax.vjp(lambda z: model.log_likelihood(theta, x, z), z)
            return z + 1e-6 * pull(jnp.ones_like(value))[0], None

        return jax.lax.scan(one, z, length=number)[0]

    return harness.program(passes, theta, z)


def run(command: Settings) -> Iterator[Line]:
    """One race."""
    if not 1 <= command.temperatures <= CHUNK:
        raise ValueError(f"--temperatures must be from 1 to {CHUNK}, those of one call, got {command.temperatures}.")
    one, x = case("vae"), images(command.images)
    theta = one.params.model
    z = jax.random.normal(jax.random.key(1), (CHAINS, command.images, LATENTS))
    call = transitions_alone(one.model, theta, x, z, sigmoid_schedule(command.temperatures), command.leapfrog)
    entered = {
        "annealing": Competitor(lambda: jax.block_until_ready(call())),
        "its decoder passes": decoder_passes(one.model, theta, x, z, command.temperatures * command.leapfrog),
    }
    found = harness.race(entered, command, least=LEAST)
    scale = 1e-3 * command.full / command.temperatures
    for name in entered:
        found[name].details["full_s"] = scale * found[name].time.median
    outside = 1 - found["its decoder passes"].time.median / found["annealing"].time.median
    found["annealing"].details["share_outside_decoder"] = outside
    names = ("temperatures", "full", "images", "leapfrog")
    settings = {name: getattr(command, name) for name in names} | {"chains": CHAINS}
    yield from harness.latency_lines("annealing", settings, found)


if __name__ == "__main__":
    harness.main("annealing", Settings, run, __doc__)
