"""The decoded arrays of a prepared data set, kept as one `.npy` with a `.json` beside it.

The cache is derived data: one that is damaged or was made by another recipe is rebuilt from the prepared data,
a damaged one with a warning, because a damaged file may mean a failing disk.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from gpvae_jax.data.dataset import SPLIT_SEED, Dataset, make_dataset
from gpvae_jax.data.registry import DATASETS
from gpvae_jax.files import write_text, write_with

_FORMAT = 1  # raise it when a change of this library's code changes the arrays it makes


def read(folder: Path, name: str) -> Dataset | None:
    """The cached data set, verified by its checksum; None if there is none or it has to be rebuilt."""
    array_file, note_file = _files(folder, name)
    if not note_file.exists():
        return None
    try:
        note = json.loads(note_file.read_text())
        if note["recipe"] != _recipe(name):
            return None
        images = np.load(array_file, allow_pickle=False)
        parts = np.split(images, np.cumsum(note["counts"])[:-1])
        data = make_dataset(name, parts, note["levels"], note["split"])
        if data.checksum != note["checksum"]:
            raise ValueError("its checksum is wrong")
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        warnings.warn(f"the cached copy {array_file} is damaged ({error}) and is made again", stacklevel=3)
        return None
    return data


def write(folder: Path, data: Dataset) -> None:
    """Cache a data set; a reader meets the old files, the new ones or a wrong checksum, never half an array."""
    array_file, note_file = _files(folder, data.name)
    array_file.parent.mkdir(parents=True, exist_ok=True)
    parts = (data.train, data.validation, data.test)
    note = {
        "recipe": _recipe(data.name),
        "counts": [len(part) for part in parts],
        "levels": data.levels,
        "split": data.split,
        "checksum": data.checksum,
    }
    write_with(array_file, lambda file: np.save(file, np.concatenate(parts), allow_pickle=False))
    write_text(note_file, json.dumps(note, indent=1))


def _recipe(name: str) -> dict[str, Any]:
    """What decides which arrays come out of the prepared data; compared with that a cache was made by."""
    spec = DATASETS[name]
    return {
        "format": _FORMAT,
        "seed": SPLIT_SEED,
        "shape": list(spec.shape),
        "counts": list(spec.counts),
        "own_validation": spec.own_validation,
        "transform": spec.transform.__name__,
    }


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / "arrays" / f"{name}.npy", folder / "arrays" / f"{name}.json"
