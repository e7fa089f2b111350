"""The one type of the data room, its checksum, and the seeded permutation every split is cut with."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SPLIT_SEED = 20  # of every split this library cuts; recorded in `Dataset.split`
SPLITS = ("train", "validation", "test")


class Dataset(NamedTuple):
    """Three read-only arrays and what is needed to know them again.

    Images are uint8 [N, H, W, C]; a user's own data may be float32 and of any shape [N, *D].
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    levels: int | None  # integer grey levels 0 … levels-1: 256 for 8-bit, 2 for binary; None for real values
    checksum: str  # sha256 in hex of the shapes, types and bytes of train, validation and test
    split: dict[str, Any]  # how the split was made: source, source splits, seed, counts; JSON-ready


def make_dataset(name: str, arrays: Sequence[np.ndarray], levels: int | None, split: dict[str, Any]) -> Dataset:
    """Freeze (train, validation, test), add their checksum and their counts to `split`.

    The arrays are marked read-only in place, so hand over ones that nobody else writes to.
    """
    for array in arrays:
        array.flags.writeable = False
    counts = {part: len(array) for part, array in zip(SPLITS, arrays, strict=True)}
    train, validation, test = arrays
    return Dataset(name, train, validation, test, levels, checksum(arrays), {**split, "counts": counts})


def checksum(arrays: Sequence[np.ndarray]) -> str:
    """The sha256 (hex) of each array's type, shape and bytes, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def permutation(count: int, seed: int) -> np.ndarray:
    """A permutation of 0 … count-1, the same on every machine and with every version of numpy.

    It sorts raw PCG64 words, because numpy promises the stream of its bit generators for ever, but not
    that of `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def cut(images: np.ndarray, held_out: Sequence[int], seed: int) -> list[np.ndarray]:
    """Shuffle images[N, *D] and cut held-out parts of the given sizes off it.

    Returns the rest first, then one array per entry of `held_out`: copies, disjoint, together all N.
    """
    order = permutation(len(images), seed)
    edges = np.cumsum(held_out)
    *parts, rest = np.split(order, edges)
    return [images[index] for index in (rest, *parts)]
