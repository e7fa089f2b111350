"""Training throughput in images/s on one core, the methods and, where installed, other libraries in the same run.

    python -m benchmarks.training
    python -m benchmarks.training --rows vae iaf:steps=2 --architectures mlp --peers

The same networks, batch size and optimiser for all; every row trains an epoch in turn. Peers (`pip install
'.[peers]'`): plain PyTorch, eager and compiled, pythae, and numpyro's SVI, each on one thread. An epoch of ours is one
scan over the trainer's steps, without the validation pass that `fit` adds. A share of the machine's matrix-multiply
rate is shown for the rows whose operations are known: ours, and the peers that train the same VAE.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from benchmarks.cases import SHAPE, case, grey_images
from benchmarks.harness import Competitor
from benchmarks.operations import UNKNOWN
from benchmarks.records import Line
from gpvae_jax.observation import scale, scaled
from gpvae_jax.train import TrainingData, trainer

LEAST = 5  # epochs of each row
ROWS = ("vae", "gpvae", "recmix:num_components=3", "iaf:steps=2", "savi:steps=2")


def pytorch(architecture: str, images: np.ndarray, batch: int, **settings: Any) -> Callable[[], float]:
    """An epoch in plain PyTorch."""
    from benchmarks.peers import torch_vae

    return torch_vae.make_epoch(architecture, images, batch, **settings)


def pythae(method: str, architecture: str, images: np.ndarray, batch: int) -> Callable[[], float]:
    """An epoch of pythae's trainer."""
    from benchmarks.peers import pythae_vae

    return pythae_vae.make_epoch(method, architecture, images, batch)


def numpyro(architecture: str, images: np.ndarray, batch: int) -> Callable[[], float]:
    """An epoch of numpyro's SVI."""
    from benchmarks.peers import numpyro_vae

    return numpyro_vae.make_epoch(architecture, images, batch)


PEERS: dict[str, tuple[str, Callable[..., Callable[[], float]]]] = {
    "PyTorch eager": ("torch", pytorch),
    "PyTorch compile": ("torch", lambda *arguments: pytorch(*arguments, compiled=True)),
    "pythae VAE": ("pythae", lambda *arguments: pythae("vae", *arguments)),
    "pythae IAF": ("pythae", lambda *arguments: pythae("iaf", *arguments)),
    "numpyro SVI": ("numpyro", numpyro),
}  # row -> the package it needs, and what makes its epoch
SAME_VAE = ("PyTorch eager", "PyTorch compile", "pythae VAE", "numpyro SVI")


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is trained."""

    rows: tuple[str, ...] = ROWS
    """NAME:setting=value:…"""
    peers: tuple[str, ...] = tuple(PEERS)
    """Other libraries' rows; those not installed are left out."""
    architectures: tuple[str, ...] = ("mlp", "conv")
    batch_size: int = 128
    num_images: int = 1280
    """Images of an epoch."""


def ours(row: str, architecture: str, images: np.ndarray, batch: int) -> Competitor:
    """One epoch of the library's training step, scanned over shuffled batches."""
    _, method, params = built = case(row, architecture)

    def draw(key: Any, raw: Any) -> Any:
        return jax.random.bernoulli(key, scale(raw, 256)).astype(jnp.float32)

    observation = scaled(256)._replace(train=draw)
    bound = trainer(method, built.model, optax.adam(1e-3), observation, batch_size=batch)
    data = TrainingData(jnp.asarray(images), jnp.zeros((1, *SHAPE), jnp.uint8))

    def epoch(state: Any, train: Any) -> tuple[Any, Any]:
        order = jax.random.permutation(jax.random.fold_in(state.key, -1 - state.step), len(train))
        index = order[: len(train) - len(train) % batch].reshape(-1, batch)
        return jax.lax.scan(lambda s, rows: bound.step(s, train[rows]), state, index)

    state = jax.jit(bound.start)(params, jax.random.key(0))
    staged = harness.stage(epoch, state, data.train, donate=(0,))
    state, train = staged.arguments

    def call() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(staged.executable(state, train))

    return Competitor(call, staged.cost, staged.details | {"leaves": len(jax.tree.leaves(params))})


def run(command: Settings) -> Iterator[Line]:
    """One race per architecture."""
    harness.known("peer", command.peers, PEERS)
    images = grey_images(command.num_images)
    for architecture in command.architectures:
        entered = {row: ours(row, architecture, images, command.batch_size) for row in command.rows}
        same = entered["vae"].cost if "vae" in entered else UNKNOWN
        for name in command.peers:
            package, make = PEERS[name]
            if harness.has_peer(package):
                call = make(architecture, images, command.batch_size)
                entered[name] = Competitor(call, same if name in SAME_VAE else UNKNOWN)
        found = harness.race(entered, command, least=LEAST)
        settings = {"architecture": architecture, "batch": command.batch_size, "images": command.num_images}
        counted = command.num_images - command.num_images % command.batch_size
        yield from harness.throughput_lines("training", settings, found, dict.fromkeys(entered, counted))


if __name__ == "__main__":
    harness.main("training", Settings, run, __doc__)
