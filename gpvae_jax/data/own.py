"""A user's own data, from memory or from a file."""

from pathlib import Path

import numpy as np

from gpvae_jax.data.dataset import SPLIT_SEED, SPLITS, Dataset, cut, make_dataset
from gpvae_jax.files import DAMAGED

FILE_TYPES = (".npz", ".npy")


def from_arrays(
    train: np.ndarray,
    validation: np.ndarray | None = None,
    test: np.ndarray | None = None,
    *,
    name: str = "own",
    levels: int | None = None,
    seed: int = SPLIT_SEED,
) -> Dataset:
    """Make a data set from arrays in memory; they are copied.

    Args:
      train: vectors [N, D], grey images [N, H, W] (a channel axis is added) or images [N, H, W, C]. Integers
        (or booleans) from 0 to 255 become uint8; floating-point numbers become float32, whatever their range:
        a likelihood that needs [0, 1] checks that itself.
      validation, test: of the same type and shape but for N. Whichever is missing is cut from `train` by a
        seeded shuffle, a tenth of its rows each; so `train` alone is split 80/10/10.
      name: recorded with the results.
      levels: grey levels of integer data; by default 2 if no value exceeds 1, else 256.
      seed: of that shuffle.

    Raises:
      ValueError: in one sentence, for anything else.
    """
    given = {"train": train, "validation": validation, "test": test}
    arrays = {part: _checked(array, part, name) for part, array in given.items() if array is not None}
    if "train" not in arrays:
        raise ValueError(f"{name}: train is None, expected an array [N, ...]")
    _check_alike(arrays, name)
    levels = _levels(arrays, levels, name)
    missing = [part for part in SPLITS if part not in arrays]
    held_out = len(arrays["train"]) // 10
    if missing and not held_out:
        raise ValueError(
            f"{name}: {len(arrays['train'])} rows are too few to cut {' and '.join(missing)} from, a tenth "
            "each: give at least 10, or give all three of train, validation and test"
        )
    if missing:
        parts = cut(arrays["train"], [held_out] * len(missing), seed)
        arrays |= dict(zip(["train", *missing], parts, strict=True))
    split = {"source": name, "seed": seed if missing else None, "cut from train": missing}
    return make_dataset(name, [arrays[part] for part in SPLITS], levels, split)


def from_file(path: str | Path) -> Dataset:
    """Read your own data: an `.npz` with `train` and, all optional, `validation`, `test` and `levels`.

    An `.npz` with a single array of any name, or a `.npy`, is taken as `train` alone: see `from_arrays`, which
    also says what the arrays may hold. Raises FileNotFoundError for a missing file, else ValueError, in one
    sentence.
    """
    path = Path(path).expanduser()
    if path.suffix not in FILE_TYPES:
        raise ValueError(f"{path}: your own data is read from a .npz or a .npy file, give one of these")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    arrays = _read_arrays(path)
    if len(arrays) == 1:
        arrays = {"train": next(iter(arrays.values()))}
    if "train" not in arrays or set(arrays) - {*SPLITS, "levels"}:
        raise ValueError(
            f"{path} holds the arrays {', '.join(arrays) or '(none)'}: expected a single one, or train and "
            "optionally validation, test, levels; rename them and leave others out"
        )
    levels = arrays.pop("levels", None)
    if levels is not None and (levels.shape != () or levels.dtype.kind not in "iu"):
        raise ValueError(f"{path}: levels must be one integer, got {levels.dtype} {levels.shape}")
    parts = [arrays.get(part) for part in SPLITS[1:]]
    data = from_arrays(arrays["train"], *parts, name=str(path), levels=None if levels is None else int(levels))
    return data._replace(name=path.stem)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return {"train": content}
        with content:
            return {key: content[key] for key in content.files}
    except DAMAGED as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path} holds an array of Python objects, expected numbers: save numeric arrays [N, ...]"
            ) from error
        raise ValueError(
            f"{path} cannot be read as a numpy {path.suffix} file ({type(error).__name__}): it is damaged or of "
            "another kind, write it again with numpy.save or numpy.savez"
        ) from error


def _checked(array: np.ndarray, part: str, name: str) -> np.ndarray:
    """A copy as uint8 or float32 [N, ...], or one sentence on what is wrong."""
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"{name}: the rows of {part} differ in shape, expected one array [N, ...]") from error
    what = f"{name}: {part} is {array.dtype} {array.shape}"
    if array.dtype.kind not in "buif":
        raise ValueError(f"{what}, expected booleans, integers from 0 to 255 or floating-point numbers")
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"{what}, expected [N, D], [N, H, W] or [N, H, W, C]")
    if not array.size:
        raise ValueError(f"{what}, which is empty")
    if array.ndim == 3:
        array = array[..., None]
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32's range: reported as infinite below
            array = array.astype(np.float32, order="C")
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            raise ValueError(f"{what} with {bad} values that are not finite: remove or replace those rows")
        return array
    if array.min() < 0 or array.max() > 255:
        raise ValueError(
            f"{what} with values from {array.min()} to {array.max()}: integers must lie in 0 … 255, convert "
            "others to floating-point numbers"
        )
    return array.astype(np.uint8, order="C")


def _check_alike(arrays: dict[str, np.ndarray], name: str) -> None:
    train = arrays["train"]
    for part, array in arrays.items():
        if array.shape[1:] != train.shape[1:] or array.dtype != train.dtype:
            raise ValueError(
                f"{name}: rows of {part} are {array.dtype} {array.shape[1:]} but those of train "
                f"{train.dtype} {train.shape[1:]}: they must be alike"
            )


def _levels(arrays: dict[str, np.ndarray], levels: int | None, name: str) -> int | None:
    if arrays["train"].dtype != np.uint8:
        if levels is not None:
            raise ValueError(f"{name}: levels={levels} is for integer data, but the arrays hold real numbers")
        return None
    highest = max(int(array.max()) for array in arrays.values())
    if levels is None:
        return 2 if highest <= 1 else 256
    if not max(highest + 1, 2) <= levels <= 256:
        raise ValueError(f"{name}: levels={levels}, but the values reach {highest}: give {highest + 1} to 256")
    return levels
