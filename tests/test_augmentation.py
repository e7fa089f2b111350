"""Training images changed at random, and how they enter training."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gpvae_jax import augmentation, runs
from gpvae_jax.augmentation import affine
from gpvae_jax.build import build
from gpvae_jax.observation import scaled
from gpvae_jax.train import TrainingData, trainer
from gpvae_jax.types import InferenceMethod, LatentModel, Params
from tests.test_config import DATA, small

KEY = jax.random.key(3)


def test_a_copy_moves_each_image_by_itself_and_keeps_what_is_there() -> None:
    x = np.zeros((200, 9, 9, 2), np.float32)
    x[:, 4, 4, 0] = 1  # a point at the centre, where turning, scaling and shearing leave it
    x[:, :, :, 1] = np.arange(9, dtype=np.float32)[:, None]
    out = np.asarray(affine(KEY, jnp.asarray(x)))
    assert out.shape == x.shape
    rows, columns = np.indices((9, 9)) - 4
    mass = out[..., 0].sum(axis=(1, 2))
    inside = mass > 0.5
    assert inside.mean() > 0.9
    for offset in (rows, columns):  # it moves against the shift, which is 1.5 pixels in the root mean square
        moved = (out[..., 0] * offset).sum(axis=(1, 2))[inside] / mass[inside]
        assert abs(moved.std() - augmentation.SHIFT) < 0.4
        assert abs(moved.mean()) < 4 * augmentation.SHIFT / np.sqrt(len(moved))
    assert len(np.unique(out[:, 4, 4, 1])) > 190  # each its own
    unmoved = {"TURN": 0.0, "SCALE": 0.0, "SHEAR": 0.0, "SHIFT": 0.0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in unmoved.items():
            patch.setattr(augmentation, name, value)
        np.testing.assert_allclose(affine(KEY, jnp.asarray(x)), x, atol=1e-6)


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


def test_a_run_is_trained_with_copies(tmp_path: Path) -> None:
    def trained(name: str, **changes: object) -> runs.Run:
        run = runs.create(tmp_path / name, small(train={"epochs": 1, "batch_size": 8} | changes), DATA)
        list(runs.records(run))
        return run

    first, second = trained("plain"), trained("more", augment="affine")
    weights = [np.concatenate([p.ravel() for p in jax.tree.leaves(runs.best_params(r))]) for r in (first, second)]
    assert np.abs(weights[0] - weights[1]).max() > 1e-4


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
