"""Evaluate a trained run folder on its test set and keep the result in it."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gpvae_jax import runs
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.latency import inference_call, measure
from gpvae_jax.files import read_json, read_npz, write_json, write_npz
from gpvae_jax.naming import unknown
from gpvae_jax.networks import num_params
from gpvae_jax.report import estimate
from gpvae_jax.types import Params

TRUSTED_K = 0.7  # largest Pareto k̂ at which an importance estimate can be relied on (Vehtari et al. 2024)
SPLITS = {  # split -> the file of its summary
    "test": "results.json",
    "validation": "validation.json",
    "train": "train.json",
}
UNSUMMED = ("pareto_k", "standard_error")  # of test.npz, what has no mean worth telling
LATENCY_BATCH = 128  # the papers' batch for inference times


def evaluate_run(
    run: runs.Run,
    *,
    num_samples: tuple[int, ...],
    max_examples: int | None = None,
    memory: int | None = None,
    seed: int = 0,
    split: str = "test",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Bounds per example and per seed, and the latency of inference.

    Writes `results.json` (means and standard errors, nats per example) and `test.npz` (arrays [R, N] for R seeds
    and N test examples) into the run folder, and returns what results.json holds. split: "test"; "validation", on
    which settings are chosen; or "train", for the generalisation gap; with files called after it. memory: bytes, as
    for `importance_bounds`. Raises ValueError on another split, or where there are no examples.
    """
    setup, params = run.setup, runs.best_params(run)
    each = runs.by_seed(run, params)
    x = split_examples(run, split, max_examples, seed)
    values = [
        importance_bounds(
            setup.method,
            setup.model,
            one,
            x,
            jax.random.key(seed),
            num_samples=num_samples,
            memory=memory,
            progress=functools.partial(_shifted, progress, number * len(x)),
        )
        for number, one in enumerate(each)
    ]
    arrays = {name: np.stack([v[name] for v in values]) for name in values[0]}
    call = latency_call(run, each[0])
    results = {
        "method": setup.config.method,
        "data": setup.dataset.name,
        "likelihood": setup.likelihood.name,
        "binarization": setup.config.data.binarization,
        "binarization_seed": setup.config.data.binarization_seed,
        "num_samples": num_samples,
        "num_examples": len(x),
        "num_seeds": len(each),
        "seed": seed,
        split: {name: summary(value) for name, value in arrays.items() if name not in UNSUMMED},
        "untrusted": untrusted(arrays["pareto_k"]),
        "latency_batch": min(LATENCY_BATCH, len(setup.dataset.test)),
        "latency_ms": measure({"inference": call})["inference"]._asdict(),
        "num_params": {
            "model": num_params(params.model) // len(each),
            "inference": num_params(params.inference) // len(each),
        },
        "parameters": runs.parameters_checksum(params),
        "environment": environment(),
    }
    write_npz(run.folder / f"{split}.npz", arrays)
    write_json(run.folder / SPLITS[split], results)
    return results


def kept_results(run: runs.Run, split: str) -> dict[str, Any] | None:
    """What `evaluate_run` has kept of a split for the parameters the run has now, or None."""
    path = run.folder / SPLITS[split]
    if not path.is_file():
        return None
    results: dict[str, Any] = _restored(read_json(path))
    return results if results.get("parameters") == runs.parameters_checksum(runs.best_params(run)) else None


def _restored(value: Any) -> Any:
    """Of every mean and error the NaN that JSON has no number for."""
    if not isinstance(value, dict):
        return value
    if "mean" in value and "stderr" in value:
        return {name: math.nan if v is None and name in ("mean", "stderr") else v for name, v in value.items()}
    return {name: _restored(v) for name, v in value.items()}


def example_values(folder: Path, split: str = "test") -> dict[str, Float[np.ndarray, "R N"]]:
    """Every example's values, R seeds and N examples, that `evaluate_run` has kept of a split; in float64."""
    return {name: array.astype(np.float64) for name, array in read_npz(folder / f"{split}.npz").items()}


def stored_examples(run: runs.Run, split: str) -> Array | np.ndarray:
    """A split's examples as they are stored. A run may have been trained on images held out of its data set: then
    training and validation images are what it did with them.
    """
    return run.setup.dataset.test if split == "test" else getattr(run.setup.data, split)


def split_examples(
    run: runs.Run, split: str, count: int | None, seed: int, first: int = 0
) -> Float[np.ndarray, "N *D"]:
    """Examples of a split from the `first` on, as the likelihood sees them; dynamic draws of training images are
    `seed`'s.

    Raises ValueError on an unknown split, and where it has no examples there or none are asked for.
    """
    if split not in SPLITS:
        raise ValueError(unknown("split", split, SPLITS))
    setup = run.setup
    raw = stored_examples(run, split)
    if len(raw) == 0:
        raise ValueError(f"'{setup.dataset.name}' has no {split} examples to evaluate on; give data that have some.")
    if count is not None and count < 1:
        raise ValueError(f"An evaluation needs at least 1 example, got {count}.")
    if not 0 <= first < len(raw):
        raise ValueError(f"The {split} examples are numbered from 0 to {len(raw) - 1}, got {first} as the first.")
    # binary draws go by an example's place in the split, so those before the first are made as well
    raw = jnp.asarray(raw[: None if count is None else first + count])
    if split != "train":
        return np.asarray(setup.observation.evaluate(raw))[first:]
    return np.asarray(setup.observation.train(jax.random.key(seed), raw))[first:]


def _shifted(progress: Callable[[int], None], start: int, done: int) -> None:
    progress(start + done)


def params_by_seed(run: runs.Run) -> list[Params]:
    """The best parameters of each seed of a run, unstacked."""
    return runs.by_seed(run, runs.best_params(run))


def latency_call(run: runs.Run, params: Params) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The function and arguments that `measure` times for this run: inference on a batch of observed test data."""
    x = jax.jit(run.setup.observation.evaluate)(run.setup.dataset.test[:LATENCY_BATCH])
    return inference_call(run.setup.method), (params, jax.random.key(0), x)


def untrusted(pareto_k: np.ndarray) -> float | None:
    """Share of the estimates whose Pareto k̂ is above 0.7; None where there were too few samples to tell."""
    return None if np.isnan(pareto_k).any() else float(np.mean(pareto_k > TRUSTED_K))


def summary(values: np.ndarray) -> dict[str, float]:
    """Mean of values[R, N] with its standard error over the N examples (seeds averaged) and over the R seeds."""
    mean, error = estimate(values.mean(axis=0))
    return {"mean": mean, "stderr": error, "stderr_over_seeds": estimate(values.mean(axis=1)).se}
