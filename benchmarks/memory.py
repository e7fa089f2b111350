"""Peak memory: constant in the samples of IWAE, linear in the components of a mixture, and no leak over epochs.

    python -m benchmarks.memory

Each row is a process of its own, whose greatest resident memory is read at its end; "compiler" is what the compiled
program says it needs for intermediate results. The first row, a process that builds the model and computes nothing, is
what Python, JAX and the parameters take.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import harness
from benchmarks.cases import case, grey_images, images
from benchmarks.records import Line
from gpvae_jax.evaluate import importance_bounds
from gpvae_jax.observation import scaled
from gpvae_jax.train import TrainingData, fit, trainer

AXES = {"K": (100, 1000, 5000), "M": (1, 2, 4, 8), "epochs": (3, 100, 1000)}  # axis -> its points
IMAGES = 256


@dataclass(frozen=True)
class Settings(harness.Settings):
    """What is measured."""

    axes: tuple[str, ...] = tuple(AXES)


def iwae(samples: int) -> float | None:
    """IWAE of one batch."""
    one, x = case("vae"), np.asarray(images(IMAGES))
    importance_bounds(one.method, one.model, one.params, x, jax.random.key(0), num_samples=(samples,))
    return None


def mixture(components: int) -> float | None:
    """A training step's gradient of a mixture; MiB of intermediate results."""
    one = case(f"recmix:num_components={components}")
    gradient = jax.grad(lambda params, key, x: one.method.loss(params, key, x)[0])
    staged = harness.stage(gradient, one.params, jax.random.key(0), images(IMAGES))
    staged.call()
    return staged.details["memory_mib"]


def training(epochs: int) -> float | None:
    """Epochs of `fit`."""
    one = case("vae")
    grey = scaled(256)
    data = TrainingData(*(jax.numpy.asarray(grey_images(count)) for count in (IMAGES, 1)))
    run = trainer(one.method, one.model, optax.adam(1e-3), grey, batch_size=128)
    for _ in fit(run, data, jax.random.key(0), epochs=epochs):
        pass
    return None


WORK = {"K": iwae, "M": mixture, "epochs": training}


def peak_mib() -> float:
    """Greatest resident memory of this process.

    On Linux from /proc: what `getrusage` gives there begins with that of the process which started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.open() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / harness.MIB


def run(command: Settings) -> Iterator[Line]:
    """A process for each row."""
    harness.known("axis", command.axes, AXES)
    for axis in command.axes:
        for at in (0, *AXES[axis]):
            work = f"from benchmarks.memory import measure_one; measure_one({axis!r}, {at})"
            started = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True)
            if started.returncode:
                raise ValueError(f"Measuring the memory of {axis} = {at} failed: {started.stderr.strip()[-300:]}")
            found: dict[str, Any] = json.loads(started.stdout)
            name, details = f"{axis} = {at}" if at else "nothing", {"at": at, "compiler_mib": found["compiler_mib"]}
            peak = found["peak_mib"]
            yield Line("memory", name, {"axis": axis}, "MiB", peak, peak, peak, 1, details)


def measure_one(axis: str, at: int) -> None:
    """Do one row's work in this process, or with 0 only what comes before it, and print what it took as JSON."""
    harness.pin()
    compiler = WORK[axis](at) if at else None
    if not at:
        case("vae")
    print(json.dumps({"peak_mib": peak_mib(), "compiler_mib": compiler}))


if __name__ == "__main__":
    harness.main("memory", Settings, run, __doc__)
