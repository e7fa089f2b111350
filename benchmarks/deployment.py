"""Latency of an exported program beside the jitted function that it was made from.

    python -m benchmarks.deployment

Both draw one sample with its log-density and give the posterior's moments; fully connected networks. The exported
program is written, read back and called as a user's process without the training code would.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.cases import case, images
from benchmarks.harness import Competitor
from benchmarks.records import Line
from gpvae_jax.deploy import export_inference, load_inference


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is exported."""

    rows: tuple[str, ...] = ("vae", "gpvae", "newton")
    """NAME:setting=value:…"""
    batches: tuple[int, ...] = (1, 128)


def exported(row: str, batch: int) -> Competitor:
    """The program in a file, called."""
    one = case(row)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.jaxexport"
        path.write_bytes(export_inference(one.method, one.model, one.params))
        infer = load_inference(path)
    seed, x = jnp.uint32(0), images(batch)
    return Competitor(lambda: jax.block_until_ready(infer(seed, x)))


def jitted(row: str, batch: int) -> Competitor:
    """The same, straight from the method."""
    one = case(row)

    def infer(params: Any, seed: Any, x: Any) -> dict[str, Any]:
        key_posterior, key_z = jax.random.split(jax.random.key(seed))
        q, _ = one.method.posterior(params, key_posterior, x)
        z, log_q = q.sample_and_log_prob(key_z, 1)
        return {"z": z, "log_q": log_q, "mean": q.mean, "variance": q.variance}

    function, arguments = jax.jit(infer), (one.params, jnp.uint32(0), images(batch))
    # called as the exported program is: a program compiled ahead has a slower way in
    return harness.program(infer, *arguments)._replace(call=lambda: jax.block_until_ready(function(*arguments)))


def run(command: Settings) -> Iterator[Line]:
    """One race per method and batch size."""
    for row in command.rows:
        for batch in command.batches:
            entered = {"jitted": jitted(row, batch), "exported": exported(row, batch)}
            settings = {"method": row, "batch": batch}
            yield from harness.latency_lines("deployment", settings, harness.race(entered, command))


if __name__ == "__main__":
    harness.main("deployment", Settings, run, __doc__)
