"""The stopwatch: enough calls of everything, interleaved, and not too many of what is slow."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from gpvae_jax.evaluate.latency import LEAST, measure


def sleeper(seconds: float, log: list[str], name: str):
    def on_host(x: np.ndarray) -> np.ndarray:
        log.append(name)
        time.sleep(seconds)
        return x

    # the sum makes it another program than that of another sleeper, whose callback is no part of the text
    return lambda x: seconds + jax.pure_callback(on_host, jax.ShapeDtypeStruct((), jnp.float32), x)


def test_calls_are_counted_interleaved_and_waited_for() -> None:
    log: list[str] = []
    calls = {name: (sleeper(s, log, name), (jnp.float32(0),)) for name, s in (("fast", 0.001), ("slow", 0.2))}
    found = measure(calls, seconds=0.04, warmup=1)
    assert found["fast"].repeats >= LEAST
    assert 1 <= found["slow"].repeats < LEAST  # ten calls would take fifty times what was asked for
    assert found["slow"].median > 200
    assert 1 < found["fast"].low <= found["fast"].median <= found["fast"].high < 100
    timed = log[2:]
    assert timed[:4] == ["fast", "slow", "fast", "slow"]


def test_equal_programs_are_timed_as_one() -> None:
    calls = {name: (lambda x, s=s: s * x, (jnp.ones(3),)) for name, s in (("one", 2.0), ("same", 2.0), ("other", 3.0))}
    found = measure(calls, seconds=0.01)
    assert found["one"] is found["same"]
    assert found["one"] is not found["other"]
