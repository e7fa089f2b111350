"""Training throughput in images/s, beside a plain PyTorch loop of the same network, on one pinned core each.

    python -m benchmarks.training                    # MLP and conv, this library and, where installed, PyTorch
    python -m benchmarks.training --rounds 9 --architectures conv

The two take turns, one epoch each, so that their ratio holds on a machine whose speed drifts. Prints a table with
the median over rounds; on 2 shared cores it takes about two minutes.
"""

import os

CPU = min(os.sched_getaffinity(0))
os.sched_setaffinity(0, {CPU})  # before any library starts its threads: one core for either
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib.util  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import jax  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from gpvae_jax.build import build  # noqa: E402
from gpvae_jax.config import Config, DataConfig, ModelConfig, TrainConfig  # noqa: E402
from gpvae_jax.data import from_arrays  # noqa: E402

EPOCH_CALLS = Callable[[], float]


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    architectures: tuple[str, ...] = ("mlp", "conv")
    rounds: int = 5
    batch_size: int = 128
    num_images: int = 6400
    """Images per timed epoch."""


def ours(architecture: str, images: np.ndarray, batch_size: int) -> EPOCH_CALLS:
    """One epoch of this library's jitted scan, without the validation pass that `fit` adds."""
    config = Config(
        data=DataConfig(binarization="dynamic"),
        model=ModelConfig(architecture=architecture),
        train=TrainConfig(batch_size=batch_size),
    )
    data = from_arrays(images, images[:1], images[:1], name="synthetic", levels=256)
    setup = build(config, data)
    arrays = jax.tree.map(jax.numpy.asarray, setup.data)
    state = jax.jit(setup.trainer.init)(jax.random.key(0), arrays)
    run = jax.jit(setup.trainer.epoch, donate_argnums=0)

    def epoch() -> float:
        nonlocal state
        state, metrics = run(state, arrays)
        return metrics["loss"].item()

    return epoch


def main(arguments: Arguments) -> None:
    """Measure and print."""
    images = np.random.default_rng(0).integers(0, 256, (arguments.num_images, 28, 28, 1), np.uint8)
    table = Table(title=f"Training throughput, batch {arguments.batch_size}, one core (median, and from … to)")
    for title in ("architecture", "library", "images/s", "ratio to PyTorch"):
        table.add_column(title, justify="left" if title in ("architecture", "library") else "right")
    for architecture in arguments.architectures:
        competitors = {"gpvae_jax": ours(architecture, images, arguments.batch_size)}
        if importlib.util.find_spec("torch"):
            import torch

            from benchmarks import torch_vae

            torch.set_num_threads(1)
            competitors["PyTorch eager"] = torch_vae.make_epoch(architecture, images, arguments.batch_size)
        speeds: dict[str, list[float]] = {name: [] for name in competitors}
        for round_number in range(arguments.rounds + 1):
            for name, epoch in competitors.items():
                started = time.perf_counter()
                epoch()
                if round_number:  # the first compiles and warms up
                    speeds[name].append(len(images) / (time.perf_counter() - started))
        reference = speeds.get("PyTorch eager")
        for name, values in speeds.items():
            ratio = "–" if reference is None else f"{np.median(np.divide(values, reference)):.2f}"
            spread = f"{np.median(values):,.0f} ({min(values):,.0f} … {max(values):,.0f})"
            table.add_row(architecture, name, spread, ratio)
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
