"""Inference time, measured so that it can be compared: compiled ahead, warm, blocked, interleaved."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from gpvae_jax.types import InferenceMethod, Params

LEAST = 10  # readings behind a median
SHORTEST = 0.5  # milliseconds of a reading: what is shorter is called several times in it


class Latency(NamedTuple):
    """Milliseconds per call: median and 10th and 90th percentiles over the readings."""

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
    """Time several functions in turn, A B C A B C …, each for about `seconds` in all and LEAST times.

    `calls` maps a name to (function, arguments). Every function is compiled for its arguments first, which lie on
    the device; each timed call is waited for. Those whose programs are the same are timed as one, since two copies of
    a program differ by where they lie in memory, which is no method's merit. See `interleave`.
    """
    ready: dict[str, Callable[[], Any]] = {}
    programs: dict[str, str] = {}  # the text of a program -> the first name that has it
    program_of = {}
    for name, (function, arguments) in calls.items():
        arguments = jax.device_put(arguments)
        lowered = jax.jit(function).lower(*arguments)
        program_of[name] = programs.setdefault(lowered.as_text(), name)
        if program_of[name] == name:
            ready[name] = _waited_for(lowered.compile(), arguments)
    found = interleave(ready, seconds=seconds, warmup=warmup)
    return {name: found[program] for name, program in program_of.items()}


def _waited_for(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(function(*arguments))


def interleave(
    calls: dict[str, Callable[[], Any]],
    *,
    seconds: float = 1.0,
    warmup: int = 3,
    least: int = LEAST,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Time several calls in turn, A B C A B C …, each for about `seconds` in all and `least` times.

    A call returns when its work is done. Interleaving lets ratios hold on a machine whose speed drifts. One that is
    shorter than SHORTEST is repeated within each reading, which then is its mean. One so slow that `least` readings
    would take more than ten times `seconds` is read less often, at least once. clock: in seconds; with
    `time.process_time` what others compute on the same cores does not count, nor does waiting.
    """
    repeats = {name: _warm_up(call, seconds, warmup) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent, passed = dict.fromkeys(calls, 0.0), dict.fromkeys(calls, 0.0)  # on the clock, and on the wall's
    while due := [n for n in calls if _is_due(len(times[n]), spent[n], passed[n], seconds, least)]:
        for name in due:
            call, inner = calls[name], range(repeats[name])
            begin, started = time.perf_counter(), clock()
            for _ in inner:
                call()
            taken = clock() - started
            times[name].append(1e3 * taken / len(inner))
            spent[name] += taken
            passed[name] += time.perf_counter() - begin
    return {name: _latency(values) for name, values in times.items()}


def _warm_up(call: Callable[[], Any], seconds: float, warmup: int) -> int:
    """Call a few times; returns how many calls make a reading of at least SHORTEST."""
    fastest, begin = float("inf"), time.perf_counter()
    for _ in range(warmup):
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        fastest = min(fastest, 1e3 * (ended - started))
        if ended - begin > seconds:
            break
    return max(1, round(SHORTEST / fastest))


def _is_due(readings: int, spent: float, passed: float, seconds: float, least: int) -> bool:
    return passed < 10 * seconds and (spent < seconds or readings < least)


def _latency(times: list[float]) -> Latency:
    low, median, high = (float(value) for value in np.percentile(times, (10, 50, 90)))
    return Latency(median, low, high, len(times))
