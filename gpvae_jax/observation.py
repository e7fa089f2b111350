"""From stored grey levels to the x a likelihood sees: scaling, and the three explicit ways to binarise.

`none` leaves grey values; `static` draws every pixel once, x ~ Bernoulli(grey), and keeps the draw; `dynamic` draws
the training images anew each time they are seen, and keeps one draw of validation and test. The choice and its
seed belong into every result, because likelihoods under different choices cannot be compared.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from gpvae_jax.checks import check_seed
from gpvae_jax.data import Dataset
from gpvae_jax.naming import unknown

BINARIZATIONS = ("none", "static", "dynamic")


class Observation(NamedTuple):
    """Three ways to x[B, *D] as floats, all pure, to be jitted with the step.

    `train(key, raw[B, *D])` and `evaluate(raw[B, *D])` take the training examples and the others of the data set that
    `observe` returned, whose draws are made already where they are made once. `prepare(key, raw[B, *D])` is for new
    images, with the grey levels that the data set was given in.
    """

    train: Callable[[PRNGKeyArray, Array], Float[Array, "B *D"]]
    evaluate: Callable[[Array], Float[Array, "B *D"]]
    prepare: Callable[[PRNGKeyArray, Array], Float[Array, "B *D"]]


def scale(raw: Array, levels: int | None) -> Float[Array, "*N"]:
    """Integer grey level k of `levels` to k / (levels − 1); real-valued data (`levels` None) pass unchanged."""
    x = jnp.asarray(raw).astype(jnp.result_type(float))
    return x if levels is None else x / (levels - 1)


def scaled(levels: int | None) -> Observation:
    """Of data that are not binarised: nothing but `scale`, for new images as well."""

    def keyed(key: PRNGKeyArray, raw: Array) -> Float[Array, "B *D"]:
        return scale(raw, levels)

    return Observation(keyed, lambda raw: scale(raw, levels), keyed)


def observe(dataset: Dataset, binarization: str, seed: int) -> tuple[Dataset, Observation]:
    """The data set with every draw made that is made only once, and the functions that do the rest in the step.

    Raises ValueError on an unknown binarisation, or where grey values to draw from are not in [0, 1].
    """
    check_seed(binarization_seed=seed)
    levels, functions = dataset.levels, observation(dataset.levels, binarization)
    if binarization == "none":
        return dataset, functions
    if levels is None:
        _check_grey(dataset, binarization)
    rng = np.random.default_rng(seed)
    validation, test = (_draw_once(rng, part, levels) for part in (dataset.validation, dataset.test))
    drawn = dataset._replace(validation=validation, test=test)
    if binarization == "static":
        drawn = drawn._replace(levels=2, train=_draw_once(rng, dataset.train, levels))
    return drawn, functions


def observation(levels: int | None, binarization: str) -> Observation:
    """The functions alone, for images given in so many grey levels. Raises ValueError on an unknown binarisation."""
    if binarization not in BINARIZATIONS:
        raise ValueError(unknown("binarization", binarization, BINARIZATIONS))
    if binarization == "none":
        return scaled(levels)

    def draw(key: PRNGKeyArray, raw: Array) -> Float[Array, "B *D"]:
        # 16 random bits a pixel and not 32, a tenth of a small network's training step: P(x = 1) is the grey value
        # rounded up to a multiple of 2^-16
        grey = scale(raw, levels)
        bits = jax.random.bits(key, raw.shape, jnp.uint16).astype(grey.dtype)
        return (bits < grey * 2**16).astype(grey.dtype)

    drawn_once = scaled(2)
    return Observation(draw if binarization == "dynamic" else drawn_once.train, drawn_once.evaluate, draw)


def of_copies(functions: Observation, levels: int | None, likelihood: str) -> Observation:
    """The functions for training on images beside changed copies of them, of any grey levels between those of the data,
    as a likelihood can take them.
    """
    if likelihood == "bernoulli" and levels == 2:
        # a copy is drawn, and the image itself, of zeros and ones, by the same draw stays as it is
        return functions._replace(train=observation(2, "dynamic").train)
    if likelihood != "discretized_logistic":
        return functions

    def on_the_grid(key: PRNGKeyArray, raw: Array) -> Float[Array, "B *D"]:
        return functions.train(key, jnp.round(raw))

    return functions._replace(train=on_the_grid)


def _check_grey(dataset: Dataset, binarization: str) -> None:
    parts = [part for part in (dataset.train, dataset.validation, dataset.test) if part.size]
    low, high = min(part.min() for part in parts), max(part.max() for part in parts)
    if not all(part.min() >= 0 and part.max() <= 1 for part in parts):  # NaN fails it too
        raise ValueError(
            f"Binarization '{binarization}' draws pixels from grey values in [0, 1], but '{dataset.name}' holds "
            f"values from {low:.4g} to {high:.4g}; rescale the data or use 'none'."
        )


def _draw_once(rng: np.random.Generator, raw: np.ndarray, levels: int | None) -> np.ndarray:
    grey = raw if levels is None else raw / np.float32(levels - 1)
    return (rng.random(raw.shape, np.float32) < grey).astype(np.uint8)
