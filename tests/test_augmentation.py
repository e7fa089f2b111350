"""Training images changed at random, and how they enter training."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax import augmentation, runs
from gpvae_jax.augmentation import affine
from gpvae_jax.build import build
from gpvae_jax.data import load
from gpvae_jax.observation import scaled
from gpvae_jax.train import TrainingData, trainer
from gpvae_jax.types import InferenceMethod, LatentModel, Params
from tests.test_config import DATA, small

KEY = jax.random.key(3)


@contextlib.contextmanager
def only(**changed: float) -> Iterator[None]:
    """These of the four changes alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TURN", "SCALE", "SHEAR", "SHIFT"):
            patch.setattr(augmentation, name, changed.get(name, 0.0))
        yield


def point(row: int, column: int, side: int = 41, copies: int = 400) -> np.ndarray:
    """Where the centre of a blurred point, so far from the middle, comes to lie in copies of its image: [copies, 2]."""
    places = np.indices((side, side)) - side // 2
    image = np.exp(-0.5 * (np.square(places[0] - row) + np.square(places[1] - column)) / 4)
    images = jnp.broadcast_to(jnp.asarray(image, jnp.float32)[None, :, :, None], (copies, side, side, 1))
    out = np.asarray(affine(KEY, images), np.float64)[..., 0]
    return np.stack([(out * axis).sum(axis=(1, 2)) / out.sum(axis=(1, 2)) for axis in places], axis=-1)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # of a point at (0, 8), its row's and column's standard deviations, to the first order in the change
        ("TURN", 0.05, (8 * 0.05, 0.0)),
        ("SCALE", 0.05, (0.0, 8 * 0.05)),
        ("SHEAR", 0.05, (8 * 0.05, 0.0)),
        ("SHIFT", 0.02, (41 * 0.02, 41 * 0.02)),
    ],
)
def test_every_change_is_as_large_as_it_says(name: str, size: float, expected: tuple[float, float]) -> None:
    with only(**{name: size}):
        moved = point(0, 8)
    for found, wanted in zip(moved.std(axis=0), expected, strict=True):
        assert abs(found - wanted) < 4 * wanted / np.sqrt(2 * len(moved)) + 0.03
    assert np.abs(moved.mean(axis=0) - [0, 8]).max() < 4 * max(expected) / np.sqrt(len(moved)) + 0.03
    assert len(np.unique(moved.round(6), axis=0)) == len(moved)  # each copy its own


def test_a_shear_is_of_one_axis_and_a_turn_of_both() -> None:
    spreads = {}
    for name in ("TURN", "SHEAR"):
        with only(**{name: 0.05}):
            spreads[name] = point(8, 0).std(axis=0)
    np.testing.assert_allclose(spreads["TURN"], [0, 8 * 0.05], atol=0.08)
    np.testing.assert_allclose(spreads["SHEAR"], [0, 0], atol=0.01)


def test_without_changes_a_copy_is_the_image_and_a_shift_leaves_the_smallest_images_whole() -> None:
    x = np.random.default_rng(0).random((50, 9, 9, 2), dtype=np.float32)
    with only():
        np.testing.assert_allclose(affine(KEY, jnp.asarray(x)), x, atol=1e-6)
    digits = load("digits").train
    left = np.asarray(affine(KEY, jnp.asarray(digits))).sum(axis=(1, 2, 3)) / digits.sum(axis=(1, 2, 3))
    assert np.quantile(left, 0.05) > 0.7  # of the ink


def test_other_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"have shape \[height, width, channels\], got \(7,\)"):
        affine(KEY, jnp.zeros((2, 7)))


def test_every_image_is_trained_on_beside_its_copy() -> None:
    seen = []

    def loss(params, key, x, *, beta=1.0):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return jnp.sum(params.model["w"]), {"elbo": jnp.sum(x)}

    method = InferenceMethod(lambda key, x: Params({"w": jnp.zeros(2)}, {}), None, loss)  # nothing is validated here
    model = LatentModel(None, None, None, None, None, (1,), 1)
    augment = lambda key, raw: raw + 100 * jax.random.uniform(key)  # noqa: E731
    bound = trainer(method, model, optax.sgd(0.0), scaled(None), batch_size=4, augment=augment)
    data = TrainingData(jnp.arange(8.0)[:, None], jnp.zeros((1, 1)))
    state = bound.init(KEY, data)
    for rows in (data.train[:4], data.train[4:]):
        state, _ = bound.step(state, rows)
    jax.effects_barrier()
    shifts = []
    for x, rows in zip(seen, (data.train[:4], data.train[4:]), strict=True):
        np.testing.assert_array_equal(x[:4], rows)
        shift = x[4:] - x[:4]
        np.testing.assert_allclose(shift, shift[0, 0], rtol=1e-4)
        shifts.append(shift[0, 0])
    assert len(set(shifts)) == 2  # another change every step


@pytest.mark.parametrize("binarization", ["none", "static", "dynamic"])
def test_copies_of_binary_images_are_binary(binarization: str) -> None:
    setup = build(small(train={"augment": "affine"}, data={"binarization": binarization}), DATA)
    raw = jnp.asarray(setup.data.train)
    x = np.asarray(setup.observation.train(KEY, affine(KEY, raw)))
    assert (set(np.unique(x)) == {0, 1}) == (binarization != "none")
    if binarization == "static":  # what is drawn already stays as it is
        np.testing.assert_array_equal(setup.observation.train(KEY, raw), raw)


@pytest.mark.parametrize(
    ("likelihood", "levels"), [("bernoulli", 2), ("discretized_logistic", 2), ("discretized_logistic", None)]
)
def test_copies_are_data_that_the_likelihood_takes(likelihood: str, levels: int | None) -> None:
    """Of images that come in two levels, or in as many as they have, and are not drawn."""
    data = DATA
    if levels == 2:
        halves = ((part > DATA.levels // 2).astype(np.uint8) for part in (DATA.train, DATA.validation, DATA.test))
        data = DATA._replace(levels=2, **dict(zip(("train", "validation", "test"), halves, strict=True)))
    config = small(train={"augment": "affine"}, model={"likelihood": likelihood}, data={"binarization": "none"})
    setup = build(config, data)
    raw = jnp.asarray(setup.data.train)
    x = np.asarray(setup.observation.train(KEY, affine(KEY, raw)))
    setup.likelihood.check(x)
    if levels == 2:
        assert set(np.unique(x)) == {0, 1}
    np.testing.assert_array_equal(setup.observation.train(KEY, raw), setup.observation.evaluate(raw))


def test_a_run_is_trained_on_the_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the loss gets is each image and its own copy, as `affine` makes it of the stored grey levels."""
    seen = []

    def marked(key: jax.Array, raw: jax.Array) -> jax.Array:
        copies = affine(key, raw)
        jax.debug.callback(lambda raw, copies: seen.append((np.array(raw), np.array(copies))), raw, copies)
        return copies

    def trained(name: str, **changes: object) -> np.ndarray:
        run = runs.create(tmp_path / name, small(train={"epochs": 1, "batch_size": 8} | changes), DATA)
        list(runs.records(run))
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(runs.best_params(run))])

    monkeypatch.setitem(augmentation.AUGMENTATIONS, "affine", marked)
    changed = trained("changed", augment="affine")
    jax.effects_barrier()
    assert len(seen) == len(DATA.train) // 8
    assert all(np.abs(copies - raw).max() > 1 for raw, copies in seen)
    monkeypatch.setitem(augmentation.AUGMENTATIONS, "affine", lambda key, raw: raw.astype(jnp.float32))
    assert np.abs(changed - trained("the same", augment="affine")).max() > 1e-4


def test_data_that_are_no_images_make_no_run_folder(tmp_path: Path) -> None:
    flat = DATA._replace(**{name: getattr(DATA, name).reshape(-1, 4) for name in ("train", "validation", "test")})
    with pytest.raises(ValueError, match=r"have shape \[height, width, channels\], got \(4,\)"):
        runs.create(tmp_path / "flat", small(train={"augment": "affine"}), flat)
    assert not (tmp_path / "flat").exists()


def test_copies_of_no_epoch_are_told(tmp_path: Path) -> None:
    list(runs.records(runs.create(tmp_path / "vae", small(train={"epochs": 1}), DATA)))
    settings = small(train={"epochs": 0, "augment": "affine", "start_from": str(tmp_path / "vae")})
    with pytest.raises(ValueError, match="augment is for training images, but epochs is 0 here"):
        runs.create(tmp_path / "none", settings, DATA)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"augment": "afine"}, "did you mean 'affine'"),
        ({"augment": "affine", "examples": "model", "start_from": "x"}, "leave augment out"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(small(train=settings), DATA)
