"""Inference latency: q(z|x) of a batch, one sample of it and that sample's log-density.

    python -m benchmarks.latency
    python -m benchmarks.latency --methods vae recmix:num_components=5 recmix:num_components=5:shared_trunk=true
    python -m benchmarks.latency --methods vae recmix:num_components=5 --architecture conv --batches 128

28×28 images, 20 latents, untrained parameters (latency does not depend on them, but for svi, whose stopping rule is
switched off by counting 100 steps). All rows in turn, A B C A B C …, compiled ahead, warm, waited for. Beside each
time: the floating-point operations that the compiler counts in the program, as times the first row's and as the share
of the rate at which this machine multiplies two matrices, measured in the same run. XLA counts the body of a loop once,
so those of svi, and of components evaluated in a loop, are too few. "floor" is a compiled program that does nothing:
what a call costs at least.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

from gpvae_jax import likelihoods
from gpvae_jax.build import ARCHITECTURES, build_method, build_model
from gpvae_jax.config import Config, ModelConfig
from gpvae_jax.evaluate import inference_call, measure
from gpvae_jax.methods import METHODS
from gpvae_jax.runs import environment

SHAPE, LATENTS = (28, 28, 1), 20
DEFAULTS = {"svi": ("max_steps=100",)}
MATRIX = 1024  # rows and columns of the two matrices


@dataclasses.dataclass(frozen=True)
class LatencyBenchmark:
    """What is timed."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Rows NAME:setting=value:…; ratios are to the first."""
    batches: tuple[int, ...] = (1, 128)
    architecture: str = "mlp"
    """mlp (400, 400) or conv."""
    seconds: float = 1.0
    """Per row and batch size."""


def calls(command: LatencyBenchmark, batch: int) -> dict[str, tuple]:
    """The function and arguments to time, for each row, for a matrix product and for nothing at all."""
    if command.architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {command.architecture}.")
    settings = ModelConfig(latent_dim=LATENTS, architecture=command.architecture)
    model, encoder = build_model(settings, likelihoods.bernoulli(), SHAPE)
    x = jax.random.bernoulli(jax.random.key(0), 0.2, (batch, *SHAPE)).astype(jnp.float32)
    made: dict[str, tuple] = {}
    for row in command.methods:
        name, *own = row.split(":")
        config = Config(method=name, settings=(*DEFAULTS.get(name, ()), *own))
        method = build_method(config, model, encoder, num_data=50_000)
        made[row] = (inference_call(method), (method.init(jax.random.key(1), x), jax.random.key(2), x))
    square = jax.random.normal(jax.random.key(3), (MATRIX, MATRIX))
    made["matrix product"] = (jnp.matmul, (square, square))
    return made | {"floor": (lambda key: jax.random.key_data(key)[0] + jnp.uint32(1), (jax.random.key(0),))}


def main(command: LatencyBenchmark) -> None:
    """Measure and print."""
    console = Console()
    about = environment()
    console.print(f"{about['device']} ({about['backend']}), jax {about['packages']['jax']}, commit {about['commit']}")
    for batch in command.batches:
        timed = calls(command, batch)
        times = measure(timed, seconds=command.seconds)
        counts = {name: _operations(*timed[name]) for name in timed}
        peak = counts["matrix product"] / times["matrix product"].median
        table = Table(title=f"{command.architecture}, inference of a batch of {batch}, ms", box=None)
        columns = (
            "row",
            "median",
            "10 %",
            "90 %",
            "times the first",
            "operations",
            "times the first",
            "of peak",
            "calls",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "row" else "right")
        first = command.methods[0]
        for name, time in times.items():
            operations = counts[name]
            cells = [f"{time.median:.3f}", f"{time.low:.3f}", f"{time.high:.3f}"]
            cells += [f"{time.median / times[first].median:.2f}", f"{operations:.2e}"]
            cells += [
                f"{operations / counts[first]:.2f}",
                f"{100 * operations / time.median / peak:.0f} %",
            ]
            table.add_row(name, *cells, f"{time.repeats}")
        console.print(table)


def _operations(function: Any, arguments: tuple) -> float:
    """Floating-point operations in the compiled program."""
    return float(jax.jit(function).lower(*arguments).compile().cost_analysis().get("flops", 0.0))


if __name__ == "__main__":
    main(tyro.cli(LatencyBenchmark, description=__doc__))
