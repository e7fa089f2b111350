"""Inference latency of every method: q(z|x) of a batch, one sample of it and that sample's log-density.

    python -m benchmarks.latency

Two hidden layers of 400 units, 28×28 images, 20 latents, untrained parameters and default settings (latency depends on
neither, but for svi, whose stopping rule is switched off by counting 100 steps). All methods in turn, A B C A B C …,
compiled ahead, warm, waited for. "floor" is a compiled program that does nothing: what a call costs at least.
"""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from gpvae_jax import likelihoods, networks
from gpvae_jax.evaluate import inference_call, measure
from gpvae_jax.methods import METHODS
from gpvae_jax.model import latent_model
from gpvae_jax.runs import environment

SHAPE, HIDDEN, LATENTS, BATCHES = (28, 28, 1), (400, 400), 20, (1, 128)
SETTINGS: dict[str, dict[str, Any]] = {"svi": {"max_steps": 100}}


def calls(batch: int) -> dict[str, tuple]:
    """The function and arguments to time, for each method and for nothing at all."""
    model = latent_model(networks.mlp((LATENTS,), HIDDEN, SHAPE), likelihoods.bernoulli())
    encoder = networks.mlp(SHAPE, HIDDEN)
    x = jax.random.bernoulli(jax.random.key(0), 0.2, (batch, *SHAPE)).astype(jnp.float32)
    made: dict[str, tuple] = {}
    for name, factory in METHODS.items():
        settings = dict(SETTINGS.get(name, {}))
        if "num_data" in inspect.signature(factory).parameters:
            settings["num_data"] = 50_000
        method = factory(model, encoder, **settings)
        params = method.init(jax.random.key(1), x)
        made[name] = (inference_call(method), (params, jax.random.key(2), x))
    return made | {"floor": (lambda key: jax.random.key_data(key)[0] + jnp.uint32(1), (jax.random.key(0),))}


def main() -> None:
    """Measure and print."""
    console = Console()
    about = environment()
    console.print(f"{about['device']} ({about['backend']}), jax {about['packages']['jax']}, commit {about['commit']}")
    for batch in BATCHES:
        times = measure(calls(batch))
        table = Table(title=f"Inference of a batch of {batch}, ms", box=None)
        for column in ("method", "median", "10 %", "90 %", "times the vae", "calls"):
            table.add_column(column, justify="left" if column == "method" else "right")
        for name, time in times.items():
            ratio = time.median / times["vae"].median
            row = (name, f"{time.median:.3f}", f"{time.low:.3f}", f"{time.high:.3f}", f"{ratio:.2f}", f"{time.repeats}")
            table.add_row(*row)
        console.print(table)


if __name__ == "__main__":
    main()
