"""Evaluation throughput: IWAE-K, annealed importance sampling and SVI, in images/s.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --iwae-samples 5000 --temperatures 1000 --svi-steps 1000

Beside each rate the share of time that the decoder's bare matrix multiplications would take: the same products of
the same number of rows, 1,024 at a time, with no bias, activation, likelihood or noise, measured in the same run. A
gradient to the latents counts as two passes of the decoder.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from benchmarks import harness
from benchmarks.cases import LATENTS, ROUND, Case, case, images
from benchmarks.harness import Competitor, Staged
from benchmarks.operations import Cost
from benchmarks.records import Line
from gpvae_jax.evaluate.ais import ais, sigmoid_schedule
from gpvae_jax.evaluate.annealing import CHUNK
from gpvae_jax.evaluate.importance import bounds_of_batch
from gpvae_jax.evaluate.memory import tile
from gpvae_jax.gaussians.per_example import optimize

LEAST = 3  # readings of each row
ROWS = 1024  # decoder rows in a bare product
CHAINS, PILOT, LEAPFROG = 16, 4, 10
STEP_SAMPLES, CHECK_SAMPLES, EVAL_SAMPLES = 8, 128, 50


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is evaluated; the fully connected VAE."""

    num_images: int = 128
    """Images of IWAE, one batch."""
    iwae_samples: int = 5000
    slow_images: int = 16
    """Images of AIS and SVI."""
    temperatures: int = 50
    svi_steps: int = 100


def decoder_products(params: Any) -> Competitor:
    """The matrix products of the decoder and nothing else, for ROWS rows."""
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim == 2]  # in the order of the layers

    def products(kernels: list[Array], z: Float[Array, "R Z"]) -> Array:
        for kernel in kernels:
            z = z @ kernel
        return z

    return harness.program(products, kernels, jnp.ones((ROWS, LATENTS)))


def products_only(operations: float) -> Cost:
    """The cost of so many operations in products, where nothing else is known."""
    return Cost(operations, transcendental=math.nan, bytes=math.nan)


def iwae_bound(one: Case, samples: int, batch: int) -> Staged:
    """IWAE-S of a batch, in the chunks that `importance_bounds` takes."""
    _, chunk = tile(one.model, one.params.model, batch, samples, None)
    bound = partial(
        bounds_of_batch, method=one.method, model=one.model, observe=jnp.asarray, num_samples=(samples,), chunk=chunk
    )
    return harness.stage(bound, one.params, jax.random.split(jax.random.key(0), batch), images(batch))


def iwae(one: Case, command: Settings) -> tuple[Callable[[], Any], int, int]:
    """IWAE-K of `num_images`: the call, its images and its decoder passes."""
    staged = iwae_bound(one, command.iwae_samples, command.num_images)
    return staged.call, command.num_images, command.num_images * command.iwae_samples


def annealed(one: Case, command: Settings) -> tuple[Callable[[], Any], int, int]:
    """AIS from the prior: the same of `slow_images`."""
    x, schedule = images(command.slow_images), sigmoid_schedule(command.temperatures)
    settings: dict[str, Any] = {"num_chains": CHAINS, "num_pilot": PILOT, "num_leapfrog": LEAPFROG}

    def call() -> Any:
        return ais(one.model, one.params.model, x, jax.random.key(0), schedule=schedule, **settings)

    transitions = CHAINS * command.temperatures + PILOT * (command.temperatures + CHUNK)  # the pilot's first ones wait
    return call, len(x), 2 * len(x) * transitions * LEAPFROG


def svi(one: Case, command: Settings) -> tuple[Callable[[], Any], int, int]:
    """Each image's own optimum, for a fixed number of steps: a tolerance below any loss never stops it."""
    x, steps = images(command.slow_images), command.svi_steps
    start, _ = jax.jit(one.method.posterior)(one.params, jax.random.key(0), x)
    counts = {"num_samples": STEP_SAMPLES, "check_samples": CHECK_SAMPLES, "eval_samples": EVAL_SAMPLES}

    def optimum(theta: Any, x: Array, start: Any) -> Any:
        return optimize(
            one.model, theta, x, start, jax.random.key(0), optax.adam(0.1), max_steps=steps, tolerance=-1e9, **counts
        )

    staged = harness.stage(optimum, one.params.model, x, start, trips=-(-steps // ROUND))
    passes = 2 * steps * STEP_SAMPLES + (1 + steps // ROUND) * CHECK_SAMPLES + EVAL_SAMPLES + 1
    return staged.call, len(x), len(x) * passes


EVALUATIONS = {"iwae": iwae, "ais": annealed, "svi": svi}


def run(command: Settings) -> Iterator[Line]:
    """One race."""
    one = case("vae")
    entered, passes, counts = {"decoder products": decoder_products(one.params.model)}, {}, {}
    per_pass = entered["decoder products"].cost.products / ROWS
    for name, make in EVALUATIONS.items():
        call, counts[name], passes[name] = make(one, command)
        entered[name] = Competitor(call, products_only(per_pass * passes[name]))
    found = harness.race(entered, command, least=LEAST)
    bare = found["decoder products"].time.median / ROWS
    for name in EVALUATIONS:
        found[name].details["of_decoder"] = bare * passes[name] / found[name].time.median
        found[name].details["decoder_passes"] = passes[name] / counts[name]  # for each image
    names = ("iwae_samples", "temperatures", "svi_steps")
    settings = {name: getattr(command, name) for name in names} | {"chains": CHAINS, "leapfrog": LEAPFROG}
    yield from harness.throughput_lines("evaluation", settings, found, counts)


if __name__ == "__main__":
    harness.main("evaluation", Settings, run, __doc__)
