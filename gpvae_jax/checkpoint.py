"""Checkpoints with orbax: any pytree, atomically, restored into a target of known structure. No pickle.

A tree is stored as a flat dict from each leaf's path to its array, so that integer keys, named tuples and optax
states all survive, and a checkpoint of another model is recognised by its paths and shapes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jaxtyping import PyTree


def save(folder: str | Path, step: int, tree: PyTree) -> None:
    """Write `tree` as the only checkpoint in `folder`; the one before is removed after this one is complete, or before,
    where it is not of an earlier step: orbax would keep that one and say nothing.
    """
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    with ocp.CheckpointManager(Path(folder).resolve(), options=options) as manager:
        for later in [kept for kept in manager.all_steps() if kept >= step]:
            manager.delete(later)
        manager.save(step, args=ocp.args.StandardSave(_flat(_keys_as_data(tree))))


def latest(folder: str | Path) -> int | None:
    """The step of the checkpoint in `folder`, None where there is none; one that was cut off does not count."""
    folder = Path(folder)
    steps = [int(child.name) for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)


def restore(folder: str | Path, like: PyTree) -> tuple[int, PyTree]:
    """The step and tree of the checkpoint in `folder`; `like` gives structure, shapes and dtypes (`jax.eval_shape`).

    Raises FileNotFoundError where there is none, ValueError where it belongs to another model or is damaged.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no checkpoint in {folder}; train the run first.")
    with ocp.CheckpointManager(folder.resolve(), item_handlers=ocp.StandardCheckpointHandler()) as manager:
        step = manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"There is no complete checkpoint in {folder}; train the run first.")
        target = _flat(jax.eval_shape(_keys_as_data, like))
        with _readable(folder):
            stored = manager.item_metadata(step).tree
        _check_same(folder, target, stored)
        with _readable(folder):
            flat = manager.restore(step, args=ocp.args.StandardRestore(jax.tree.map(_placed, target)))
    restored = jax.tree.unflatten(jax.tree.structure(like), flat.values())
    return step, jax.tree.map(_data_as_key, restored, like)


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """A damaged checkpoint raises errors of many types, deep in what reads it; whatever it is, it is told as that."""
    try:
        yield
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        raise ValueError(
            f"The checkpoint in {folder} is damaged and cannot be read ({type(error).__name__}); train it anew, or "
            "restore the folder from a copy."
        ) from error


def _flat(tree: PyTree) -> dict[str, Any]:
    # numbered, so that the dict's sorted order is the tree's own
    leaves = jax.tree.leaves_with_path(tree)
    return {f"{i:05d}{jax.tree_util.keystr(path)}": leaf for i, (path, leaf) in enumerate(leaves)}


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _keys_as_data(tree: PyTree) -> PyTree:
    """Random keys as the integers they consist of, which is how a checkpoint holds them."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, tree)


def _data_as_key(data: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(data) if _is_key(like) else data


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)


def _check_same(folder: Path, target: dict[str, Any], stored: dict[str, Any]) -> None:
    for name in sorted(target.keys() | stored.keys()):
        wanted = tuple(target[name].shape) if name in target else "nothing"
        found = tuple(stored[name].shape) if name in stored else "nothing"
        if wanted != found:
            raise ValueError(
                f"The checkpoint in {folder} is of another model: at {name[5:]} it holds {found} where {wanted} "
                "is expected; use the configuration it was trained with."
            )
        if (has := stored[name].dtype) != target[name].dtype:
            raise ValueError(
                f"The checkpoint in {folder} was made in another precision: at {name[5:]} it holds {has} where "
                f"{target[name].dtype} is expected; set JAX_ENABLE_X64 as it was in training."
            )
