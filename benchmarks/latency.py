"""Inference latency of every method, at several batch sizes, in float32 and bfloat16.

    python -m benchmarks.latency
    python -m benchmarks.latency --rows vae recmix:num_components=5 recmix:num_components=5:shared_trunk=true
    python -m benchmarks.latency --rows vae gpvae --architectures conv --batches 128 --dtypes float32

Two calls of each: "parameters", q(z|x) alone, and "sample", q(z|x), one sample of it and that sample's log-density,
which is what `gpvae evaluate` times. bfloat16 casts parameters and images. Beside the methods, where PyTorch is
installed, its eager encoder of the same layers ("PyTorch eager").
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import jax

from benchmarks import harness
from benchmarks.cases import TRIPS, case, cast, images, posterior_call
from benchmarks.harness import Competitor
from benchmarks.records import Line
from gpvae_jax.evaluate import inference_call
from gpvae_jax.methods import METHODS

CALLS = {"parameters": posterior_call, "sample": inference_call}
DTYPES = ("float32", "bfloat16")
PYTORCH = "PyTorch eager"
ROWS = (*METHODS, "recmix:num_components=5")


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is timed."""

    rows: tuple[str, ...] = ROWS
    """NAME:setting=value:…; ratios are to the first."""
    batches: tuple[int, ...] = (1, 128, 1024)
    architectures: tuple[str, ...] = ("mlp", "conv")
    dtypes: tuple[str, ...] = DTYPES
    calls: tuple[str, ...] = tuple(CALLS)


def run(command: Settings) -> Iterator[Line]:
    """One race per architecture, type, call and batch size."""
    harness.known("call", command.calls, CALLS)
    harness.known("type", command.dtypes, DTYPES)
    for architecture, dtype in itertools.product(command.architectures, command.dtypes):
        cases = {row: case(row, architecture) for row in command.rows}
        for call, batch in itertools.product(command.calls, command.batches):
            settings = {"architecture": architecture, "dtype": dtype, "call": call, "batch": batch}
            competitors: dict[str, Competitor] = {}
            for row, (_, method, params) in cases.items():
                arguments = (cast(params, dtype), jax.random.key(2), cast(images(batch), dtype))
                try:
                    competitors[row] = harness.program(CALLS[call](method), *arguments, trips=TRIPS)
                except (TypeError, NotImplementedError) as error:  # linear algebra that has no bfloat16 form
                    if dtype == "float32":
                        raise
                    yield harness.unsupported("latency", row, settings, "ms", str(error).partition(" at position")[0])
            if "vae" in competitors and harness.has_peer("torch"):
                from benchmarks.peers import torch_vae

                peer = torch_vae.encode(architecture, batch, dtype, sample=call == "sample")
                competitors[PYTORCH] = Competitor(peer, competitors["vae"].cost)
            found = harness.race(competitors, command, dtype=dtype)
            yield from harness.latency_lines("latency", settings, found)


if __name__ == "__main__":
    harness.main("latency", Settings, run, __doc__)
