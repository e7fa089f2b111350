"""Many training runs in one program: R runs under vmap against one, on one core.

    python -m benchmarks.seeds

Images/s of all runs together, for a network on 28×28 images (400, 400) and one a tenth as wide (40, 40) with 5 latents.
A row above the first one's rate is what vmap wins; on a CPU wide networks leave it nothing to win, and the R sets of
parameters leave the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from benchmarks import harness
from benchmarks.cases import SHAPE, case, grey_images
from benchmarks.harness import Competitor
from benchmarks.records import Line
from gpvae_jax.observation import scaled
from gpvae_jax.train import TrainingData, seed_keys, trainer

NETWORKS = {"400-400": ((400, 400), 20), "40-40": ((40, 40), 5)}  # hidden layers, latents


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is trained."""

    runs: tuple[int, ...] = (1, 10)
    num_images: int = 640
    batch_size: int = 128


def epoch(hidden: tuple[int, ...], latents: int, runs: int, command: Settings) -> Competitor:
    """One epoch of `runs` runs, by the library's own vmapped epoch, validation included."""
    one = case("vae", latents=latents, hidden=hidden)
    grey = scaled(256)
    bound = trainer(one.method, one.model, optax.adam(1e-3), grey, batch_size=command.batch_size)
    data = TrainingData(jnp.asarray(grey_images(command.num_images)), jnp.zeros((1, *SHAPE), jnp.uint8))
    keys = seed_keys(jax.random.key(0), runs)
    state = jax.jit(jax.vmap(bound.init, in_axes=(0, None)))(keys, data)
    return harness.program(jax.vmap(bound.epoch, in_axes=(0, None)), state, data)


def run(command: Settings) -> Iterator[Line]:
    """One race per network."""
    for network, (hidden, latents) in NETWORKS.items():
        entered = {f"{runs} runs": epoch(hidden, latents, runs, command) for runs in command.runs}
        found = harness.race(entered, command, least=5)
        images = {f"{runs} runs": runs * command.num_images for runs in command.runs}
        settings = {"network": network, "batch": command.batch_size}
        yield from harness.throughput_lines("seeds", settings, found, images)


if __name__ == "__main__":
    harness.main("seeds", Settings, run, __doc__)
