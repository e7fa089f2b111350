"""Load a data set by name or from a file."""

import os
from pathlib import Path

import numpy as np

from gpvae_jax.data import cache, prepared
from gpvae_jax.data.dataset import SPLIT_SEED, Dataset, cut, make_dataset
from gpvae_jax.data.own import FILE_TYPES, from_file
from gpvae_jax.data.registry import DATASETS
from gpvae_jax.naming import unknown


def load(name: str | Path, *, data_dir: str | Path | None = None, raw_dir: str | Path | None = None) -> Dataset:
    """Load a registered data set, or your own from a `.npz` or `.npy` file.

    Args:
      name: a key of `DATASETS`, or a path (see `from_file` for what it may hold).
      data_dir: where prepared data sets live; by default the environment variable GPVAE_JAX_DATA, else
        `~/.cache/gpvae_jax`. The decoded arrays are kept there too, so that a second load is quick.
      raw_dir: a folder with this data set's raw files under their original names, for machines without a
        network; their checksums are verified. Only looked at when the data set has yet to be prepared.

    Returns:
      The data set; the same one, bit for bit, on every call.

    Raises:
      ValueError: unknown name, wrong content, a raw file with the wrong checksum, unreadable prepared data.
      FileNotFoundError: a file or raw file that is not there.
      ConnectionError: the raw files could not be downloaded.
      ModuleNotFoundError: the data set has yet to be prepared and TensorFlow is not installed.
    """
    if isinstance(name, Path) or Path(name).suffix in FILE_TYPES:
        return from_file(name)
    if name not in DATASETS:
        raise ValueError(f"{unknown('data set', str(name), DATASETS)} Your own data are read from a .npz or .npy file.")
    if DATASETS[name].source == "scikit-learn":
        return _digits()
    folder = _data_folder(data_dir)
    data = cache.read(folder, name)
    if data is None:
        data = prepared.load(name, folder, None if raw_dir is None else Path(raw_dir).expanduser())
        cache.write(folder, data)
    return data


def _digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes a second to import

    spec = DATASETS["digits"]
    images = load_digits().images.astype(np.uint8)[..., None]
    split = {"source": spec.source, "seed": SPLIT_SEED, "cut from all": ["train", "validation", "test"]}
    return make_dataset("digits", cut(images, spec.counts[1:], SPLIT_SEED), spec.levels, split)


def _data_folder(data_dir: str | Path | None) -> Path:
    folder = Path(data_dir or os.environ.get("GPVAE_JAX_DATA") or "~/.cache/gpvae_jax").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the data folder {folder} cannot be made ({error.strerror}): give another one as data_dir or in "
            "the environment variable GPVAE_JAX_DATA"
        ) from error
    return folder
