"""The three binarisations: what is drawn once, what is drawn anew, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpvae_jax.data import Dataset
from gpvae_jax.observation import BINARIZATIONS, observe, scale

RNG = np.random.default_rng(0)
PARTS = ("train", "validation", "test")
DRAWS = 4000


def dataset(levels: int | None = 17) -> Dataset:
    shape = (6, 4, 4, 1)
    if levels is None:
        arrays = [RNG.uniform(size=shape).astype(np.float32) for _ in PARTS]
    else:
        arrays = [RNG.integers(0, levels, shape).astype(np.uint8) for _ in PARTS]
    return Dataset("grey", *arrays, levels, "", {})


def test_scale():
    levels, real = jnp.array([0, 8, 16], jnp.uint8), jnp.array([-3.0, 0.25], jnp.float32)
    np.testing.assert_allclose(scale(levels, 17), [0, 0.5, 1])
    np.testing.assert_array_equal(scale(real, None), real)
    assert scale(real, None).dtype == scale(levels, 17).dtype == jnp.float32
    with jax.enable_x64(True):
        assert scale(real, None).dtype == jnp.float64


@pytest.mark.parametrize("levels", [17, None])
def test_none_leaves_grey_values(levels):
    data = dataset(levels)
    observed, functions = observe(data, "none", 0)
    assert observed is data
    expected = data.train if levels is None else data.train / 16
    np.testing.assert_allclose(functions.train(jax.random.key(0), jnp.asarray(data.train)), expected, rtol=1e-6)
    np.testing.assert_allclose(functions.evaluate(jnp.asarray(data.train)), expected, rtol=1e-6)


@pytest.mark.parametrize("levels", [17, None])
def test_static_is_one_fixed_draw(levels):
    data = dataset(levels)
    observed, functions = observe(data, "static", 3)
    again, _ = observe(data, "static", 3)
    other, _ = observe(data, "static", 4)
    assert observed.levels == 2
    for part in PARTS:
        drawn = getattr(observed, part)
        assert set(np.unique(drawn)) == {0, 1}
        assert (drawn == getattr(again, part)).all()
        assert (drawn != getattr(other, part)).any()
    raw = jnp.asarray(observed.train)
    for x in (functions.train(jax.random.key(i), raw) for i in range(2)):
        np.testing.assert_array_equal(x, observed.train.astype(np.float32))
    np.testing.assert_array_equal(functions.evaluate(raw), observed.train.astype(np.float32))


@pytest.mark.parametrize("levels", [17, None])
def test_dynamic_draws_training_images_anew_around_their_grey(levels):
    data = dataset(levels)
    observed, functions = observe(data, "dynamic", 3)
    assert observed.train is data.train
    grey = np.asarray(data.train, np.float64) / (1 if levels is None else 16)
    draw = jax.jit(jax.vmap(functions.train, in_axes=(0, None)))
    x = np.asarray(draw(jax.random.split(jax.random.key(0), DRAWS), jnp.asarray(data.train)))
    assert x.dtype == np.float32
    assert set(np.unique(x)) == {0, 1}
    assert (x[0] != x[1]).any()
    assert (np.abs(x.mean(0) - grey) <= 5 * np.sqrt(grey * (1 - grey) / DRAWS) + 1e-7).all()


@pytest.mark.parametrize("binarization", BINARIZATIONS)
def test_new_images_are_prepared_from_the_grey_levels_the_data_came_in(binarization):
    _, functions = observe(dataset(17), binarization, 0)
    new = jnp.asarray(RNG.integers(0, 17, (DRAWS, 2)).astype(np.uint8))
    x = np.asarray(functions.prepare(jax.random.key(0), new))
    if binarization == "none":
        np.testing.assert_allclose(x, new / 16, rtol=1e-6)
        return
    assert set(np.unique(x)) == {0, 1}
    difference = x - np.asarray(new) / 16
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(difference.size)


def test_static_draws_have_the_grey_as_their_mean():
    data = dataset()._replace(train=np.full((DRAWS, 4, 1, 1), [[[4]]], np.uint8))
    observed, _ = observe(data, "static", 0)
    assert abs(observed.train.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / observed.train.size)


def test_held_out_images_are_the_same_draw_in_static_and_dynamic():
    """So that runs under either are tested on the same binary images."""
    static, _ = observe(dataset_one := dataset(), "static", 3)
    dynamic, functions = observe(dataset_one, "dynamic", 3)
    for part in ("validation", "test"):
        assert (getattr(static, part) == getattr(dynamic, part)).all()
        x = functions.evaluate(jnp.asarray(getattr(dynamic, part)))
        np.testing.assert_array_equal(x, getattr(static, part).astype(np.float32))


def test_black_and_white_never_change():
    data = dataset(2)
    observed, _ = observe(data, "static", 0)
    assert all((getattr(observed, part) == getattr(data, part)).all() for part in PARTS)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"Unknown binarization 'dynamics'; did you mean 'dynamic'\? known are: dyn"):
        observe(dataset(), "dynamics", 0)
    with pytest.raises(ValueError, match=r"Unknown binarization 'xyz'; known are: dynamic, none, static\."):
        observe(dataset(), "xyz", 0)


@pytest.mark.parametrize("binarization", BINARIZATIONS[1:])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [-0.5, 1.5, np.nan])
def test_real_values_outside_the_unit_interval_are_refused(binarization, part, value):
    data = dataset(None)
    bad = getattr(data, part).copy()
    bad[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=rf"'{binarization}' draws pixels from grey .* 'grey' holds values from"):
        observe(data._replace(**{part: bad}), binarization, 0)


def test_real_values_outside_the_unit_interval_may_stay_as_they_are():
    data = dataset(None)._replace(train=np.full((2, 3), 7.5, np.float32))
    _, functions = observe(data, "none", 0)
    np.testing.assert_array_equal(functions.evaluate(jnp.asarray(data.train)), data.train)
