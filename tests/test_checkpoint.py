"""Checkpoints: every kind of leaf survives, wrong ones are recognised, an interrupted write leaves the old one."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from gpvae_jax import checkpoint
from gpvae_jax.types import Params


def tree() -> tuple:
    params = Params({"a": {0: jnp.ones((2, 3)), 1: jnp.zeros(2)}}, {"b": jnp.arange(3), "c": jnp.float32(2.5)})
    keys = jax.random.split(jax.random.key(1), 2)
    return params, optax.adam(1e-3).init(params), jax.random.key(3), None, keys, jnp.array(True)


def test_round_trip_keeps_structure_dtypes_and_keys(tmp_path: Path) -> None:
    saved = tree()
    checkpoint.save(tmp_path / "last", 7, saved)
    step, restored = checkpoint.restore(tmp_path / "last", jax.eval_shape(tree))
    assert step == 7
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    chex.assert_trees_all_equal(restored[0], saved[0], strict=True)
    chex.assert_trees_all_equal(restored[1], saved[1], strict=True)
    assert jnp.all(restored[4] == saved[4])
    assert jax.random.bits(restored[2]) == jax.random.bits(saved[2])


def test_newest_replaces_the_one_before(tmp_path: Path) -> None:
    for step in (1, 2, 5):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, float(step))})
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["5"]
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(2)})[1]["x"].tolist() == [5.0, 5.0]


def test_an_earlier_or_the_same_step_replaces_as_well(tmp_path: Path) -> None:
    for step, value in ((5, 1.0), (5, 2.0), (3, 3.0)):
        checkpoint.save(tmp_path, step, {"x": jnp.full(2, value)})
        found, restored = checkpoint.restore(tmp_path, {"x": jnp.zeros(2)})
        assert (found, restored["x"].tolist()) == (step, [value, value])


def test_incomplete_write_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()  # what a killed process leaves behind
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(2)})[0] == 1


def test_other_models_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"x": jnp.ones((2, 3))})
    with pytest.raises(ValueError, match=r"another model: at \['x'\] it holds \(2, 3\) where \(2, 4\)"):
        checkpoint.restore(tmp_path, {"x": jnp.ones((2, 4))})
    with pytest.raises(ValueError, match="another model"):
        checkpoint.restore(tmp_path, {"x": jnp.ones((2, 3)), "y": jnp.ones(1)})


def test_another_precision_is_told_as_such(tmp_path: Path) -> None:
    checkpoint.save(str(tmp_path), 1, {"x": jnp.ones(2, jnp.float32)})
    with pytest.raises(ValueError, match=r"in another precision: at .* it holds float32 where float16 is expected"):
        checkpoint.restore(str(tmp_path), {"x": jnp.ones(2, jnp.float16)})


def test_missing_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train the run first"):
        checkpoint.restore(tmp_path / "nothing", {"x": jnp.ones(1)})
    with pytest.raises(FileNotFoundError, match="no complete checkpoint"):
        checkpoint.restore(tmp_path, {"x": jnp.ones(1)})


@pytest.mark.parametrize("file", ["_METADATA", "manifest.ocdbt"])
def test_a_damaged_checkpoint_is_one_sentence(tmp_path: Path, file: str) -> None:
    checkpoint.save(tmp_path, 1, {"x": jnp.ones(2)})
    for path in tmp_path.rglob(file):
        path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ValueError, match="is damaged and cannot be read"):
        checkpoint.restore(tmp_path, {"x": jnp.ones(2)})
