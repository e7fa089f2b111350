"""One learned step closes less of the gap on images unlike its training images: would a regularised encoder close more?

    python -m experiments.regularisation runs/compared/vae runs/compared/newton

The first run is the VAE, the second one of `newton` that started from another run. On the first images of each split,
gains over the VAE and their shares of its amortization gap, as in `experiments.generalisation`, of

  the second run as it is;
  the same parameters with the decoder's own curvature (Gauss–Newton, halved where that is better) in place of the
    learned one: what a single step from there can do that knows the curvature;
  the same run trained again, with weight decay; with a fifth of the encoder's features dropped; with noise on what the
    encoder sees, not on what the likelihood does; with as many images of the model's own in every batch, from which the
    encoder alone learns; with as many distorted ones, turned, scaled, sheared and shifted, from which the encoder alone
    learns, or everything;
  and the VAE with distorted images for everything.

An hour for 100 images and three seeds on one CPU core. Expected: what the encoder alone learns makes up on new
alphabets for a small part of what is missing; distorted images for everything win more, step or no step. Writes
experiments/results/regularisation_NAME.json and .md; NAME is the folder that the VAE's run lies in.
"""

import dataclasses
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from experiments.command_line import command_line
from experiments.elbos import open_paired
from experiments.generalisation import keep, measure
from gpvae_jax.augmentation import affine
from gpvae_jax.build import Setup, build_encoder, build_method, build_trainer
from gpvae_jax.commands import prepare_jax
from gpvae_jax.commands.training import train_with_bar
from gpvae_jax.progress import say
from gpvae_jax.refine import with_settings
from gpvae_jax.types import Metrics, Network, Params

RESULTS = Path(__file__).parent / "results"
DECAY, DROPPED, NOISE = 0.1, 0.2, 0.1
EXACT = {"curvature": "gauss_newton", "step_size": 1.0, "halvings": 3}


@dataclasses.dataclass(frozen=True)
class Regularisation:
    """Which runs: the VAE's, and the step's."""

    vae: tyro.conf.Positional[Path]
    newton: tyro.conf.Positional[Path]
    images: int = 100
    name: str | None = None
    results: Path = RESULTS


def main(command: Regularisation) -> None:
    """Train what has to be trained, measure every split, print the table and keep it."""
    prepare_jax()
    base, run = open_paired((command.vae, command.newton))
    for one, method in ((base, "vae"), (run, "newton")):
        if one.setup.config.method != method:
            raise ValueError(f"A run of {method} is needed, but {one.folder} is of {one.setup.config.method}.")
    if run.setup.config.train.start_from is None:
        raise ValueError(f"{run.folder} started from no other run, as the runs to hold against it would.")
    rows = {"as trained": run, "the decoder's curvature": with_settings(run, EXACT)}
    with tempfile.TemporaryDirectory() as folder:
        again = [(title, run, change) for title, change in CHANGES.items()]
        again.append((f"the vae, {EVERYTHING}", base, CHANGES[EVERYTHING]))
        for number, (title, of, change) in enumerate(again):
            say(f"Training: {title}.")
            rows[title] = of._replace(folder=Path(folder) / str(number), setup=change(of.setup))
            rows[title].folder.mkdir()
            train_with_bar(rows[title], resume=False)
        found = {split: measure(base, rows, split, command.images) for split in ("train", "validation", "test")}
    keep(found, command.results / f"regularisation_{command.name or base.folder.resolve().parent.name}", command.images)


def with_decay(setup: Setup) -> Setup:
    """AdamW in place of Adam."""
    train = dataclasses.replace(setup.config.train, optimizer="adamw", weight_decay=DECAY)
    return setup._replace(trainer=build_trainer(train, setup.model, setup.method, setup.observation, setup.data))


def with_encoder(setup: Setup, changed: Callable[[PRNGKeyArray, Network], Network]) -> Setup:
    """Trained with another encoder in every step, of the same parameters; used with its own."""
    config = setup.config
    encoder = build_encoder(config.model, setup.model.data_shape)

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_encoder, key_loss = jax.random.split(key)
        method = build_method(config, setup.model, changed(key_encoder, encoder), num_data=len(setup.data.train))
        return method.loss(params, key_loss, x, beta=beta)

    return _with_loss(setup, loss)


def with_more(setup: Setup, made: Callable[..., Float[Array, "B *D"]], *, encoder_alone: bool) -> Setup:
    """Learns from as many images again, made(setup, θ, key, x); they teach the model nothing where the encoder alone
    is to learn from them."""

    def loss(
        params: Params, key: PRNGKeyArray, x: Float[Array, "B *D"], *, beta: float | Array = 1.0
    ) -> tuple[Float[Array, ""], Metrics]:
        key_x, key_more, key_loss = jax.random.split(key, 3)
        value, metrics = setup.method.loss(params, key_x, x, beta=beta)
        more = jax.lax.stop_gradient(made(setup, params.model, key_more, x))
        theta = jax.lax.stop_gradient(params.model) if encoder_alone else params.model
        return value + setup.method.loss(Params(theta, params.inference), key_loss, more, beta=beta)[0], metrics

    return _with_loss(setup, loss)


def own_samples(setup: Setup, theta: PyTree, key: PRNGKeyArray, x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
    """Draws of the model."""
    return setup.model.sample(theta, key, len(x))[1]


def distorted(setup: Setup, theta: PyTree, key: PRNGKeyArray, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """`augmentation.affine`."""
    return affine(key, x)


def _with_loss(setup: Setup, loss: Callable[..., Any]) -> Setup:
    method = setup.method._replace(loss=loss)
    trainer = build_trainer(setup.config.train, setup.model, method, setup.observation, setup.data)
    return setup._replace(method=method, trainer=trainer)


def dropping(key: PRNGKeyArray, encoder: Network) -> Network:
    """The encoder with some of its features dropped, the others scaled up for it."""

    def apply(params: PyTree, x: Float[Array, "B *D"]) -> Float[Array, "B H"]:
        features = encoder.apply(params, x)
        kept = jax.random.bernoulli(key, 1 - DROPPED, features.shape)
        return jnp.where(kept, features / (1 - DROPPED), 0)

    return encoder._replace(apply=apply)


def noisy(key: PRNGKeyArray, encoder: Network) -> Network:
    """The encoder behind white noise."""
    return encoder._replace(apply=lambda params, x: encoder.apply(params, x + NOISE * jax.random.normal(key, x.shape)))


EVERYTHING = "distorted images for everything"
CHANGES: dict[str, Callable[[Setup], Setup]] = {
    f"weight decay {DECAY}": with_decay,
    f"features dropped, {DROPPED}": partial(with_encoder, changed=dropping),
    f"noise on the encoder's input, {NOISE}": partial(with_encoder, changed=noisy),
    "own samples for the encoder": partial(with_more, made=own_samples, encoder_alone=True),
    "distorted images for the encoder": partial(with_more, made=distorted, encoder_alone=True),
    EVERYTHING: partial(with_more, made=distorted, encoder_alone=False),
}


if __name__ == "__main__":
    command_line(main, Regularisation, __doc__)
