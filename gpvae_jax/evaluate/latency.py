"""Inference time, measured so that it can be compared: compiled ahead, warm, blocked, interleaved."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gpvae_jax.types import InferenceMethod, Params

LEAST = 10  # calls behind a median


class Latency(NamedTuple):
    """Milliseconds per call: median and 10th and 90th percentiles over the repeats."""

    median: float
    low: float
    high: float
    repeats: int


def inference_call(method: InferenceMethod) -> Callable[..., Any]:
    """What is timed as inference: q(z|x) of a batch, one sample of it and that sample's log-density."""

    def call(params: Params, key: Any, x: Any) -> Any:
        key_posterior, key_z = jax.random.split(key)
        q, _ = method.posterior(params, key_posterior, x)
        return q.sample_and_log_prob(key_z, 1)

    return call


def measure(
    calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]], *, seconds: float = 1.0, warmup: int = 3
) -> dict[str, Latency]:
    """Time several functions in turn, A B C A B C …, each for about `seconds` in all and LEAST calls.

    `calls` maps a name to (function, arguments). Every function is compiled for its arguments first, which lie on
    the device; each timed call is waited for. Interleaving lets ratios hold on a machine whose speed drifts. A
    function so slow that LEAST calls would take more than ten times `seconds` is called less often, at least once.
    """
    compiled = {}
    for name, (function, arguments) in calls.items():
        arguments = jax.device_put(arguments)
        executable = jax.jit(function).lower(*arguments).compile()
        started = time.perf_counter()
        for _ in range(warmup):
            jax.block_until_ready(executable(*arguments))
            if time.perf_counter() - started > seconds:
                break
        compiled[name] = (executable, arguments)
    times: dict[str, list[float]] = {name: [] for name in calls}
    while due := [name for name in calls if _is_due(times[name], seconds)]:
        for name in due:
            executable, arguments = compiled[name]
            started = time.perf_counter()
            jax.block_until_ready(executable(*arguments))
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: _latency(values) for name, values in times.items()}


def _is_due(times: list[float], seconds: float) -> bool:
    spent = 1e-3 * sum(times)
    return spent < seconds or (len(times) < LEAST and spent < 10 * seconds)


def _latency(times: list[float]) -> Latency:
    low, median, high = (float(value) for value in np.percentile(times, (10, 50, 90)))
    return Latency(median, low, high, len(times))
