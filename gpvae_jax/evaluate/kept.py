"""What slow estimators have computed so far, kept in a run folder: they go on where they were stopped."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpvae_jax import runs
from gpvae_jax.files import read_npz, write_npz
from gpvae_jax.types import Params

BATCH = 100  # examples
SECONDS = 30.0  # between two states written in the middle of a batch
Arrays = dict[str, np.ndarray]


class Half:
    """The state in the middle of one batch, in a file of its own; written now and then, removed with the batch."""

    def __init__(self, path: Path, settings: Mapping[str, Any], seconds: float) -> None:
        self.path, self.settings, self.seconds = path, json.dumps(settings), seconds
        self.written = time.monotonic()

    def load(self) -> Arrays | None:
        """The state, or None where there is none of these settings."""
        if not self.path.is_file():
            return None
        arrays = read_npz(self.path)
        return arrays if str(arrays.pop("settings")) == self.settings else None

    def save(self, state: Arrays) -> None:
        """Write the state where the last is older than `seconds`."""
        if time.monotonic() - self.written >= self.seconds:
            write_npz(self.path, {"settings": np.asarray(self.settings)} | state)
            self.written = time.monotonic()

    def remove(self) -> None:
        """The batch is done."""
        self.path.unlink(missing_ok=True)


class Work(NamedTuple):
    """One seed's share of the work."""

    params: Params
    first: int  # batches that are done already
    told: Callable[[float], None]  # the share done, from 0 to 1
    half: Callable[[int], Half]  # batch number -> the file of its state


def kept(
    run: runs.Run,
    name: str,
    settings: dict[str, Any],
    batches: Callable[[Work], Iterator[Arrays]],
    progress: Callable[[float], None],
) -> Arrays:
    """Per-example arrays [R, N] from batches, written after each into `name`.

    What is there of these settings and of the parameters that the run has now stays.
    """
    path, best = run.folder / name, runs.best_params(run)
    settings = settings | {"parameters": runs.parameters_checksum(best)}
    each, done = runs.by_seed(run, best), _read(path, settings)
    for seed, params in enumerate(each):
        mine = done.setdefault(seed, [])

        def told(part: float, seed: int = seed) -> None:
            progress((seed + part) / len(each))

        def half(number: int, seed: int = seed) -> Half:
            here = settings | {"member": seed, "batch": number}
            return Half(path.with_name(f"{path.stem}-unfinished.npz"), here, SECONDS)

        for arrays in batches(Work(params, len(mine), told, half)):
            mine.append({key: np.asarray(value) for key, value in arrays.items()})
            _write(path, settings, done)
        told(1.0)
    joined = [{key: np.concatenate([batch[key] for batch in done[s]]) for key in done[s][0]} for s in range(len(each))]
    return {key: np.stack([arrays[key] for arrays in joined]) for key in joined[0]}


def _read(path: Path, settings: dict[str, Any]) -> dict[int, list[Arrays]]:
    done: dict[int, list[Arrays]] = {}
    if path.is_file():
        stored = read_npz(path)
        if json.loads(str(stored.pop("settings"))) == settings:
            for name in sorted(stored, key=lambda n: [int(i) for i in n.split("/")[:2]]):
                seed, number, key = name.split("/")
                batches = done.setdefault(int(seed), [])
                batches.extend({} for _ in range(int(number) + 1 - len(batches)))
                batches[int(number)][key] = stored[name]
    return done


def _write(path: Path, settings: dict[str, Any], done: dict[int, list[Arrays]]) -> None:
    flat = {
        f"{seed}/{number}/{key}": value
        for seed, batches in done.items()
        for number, arrays in enumerate(batches)
        for key, value in arrays.items()
    }
    write_npz(path, {"settings": np.asarray(json.dumps(settings))} | flat)
