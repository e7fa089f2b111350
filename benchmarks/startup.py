"""Start-up: imports, the command line's help, and the first training step with a cold and a warm compilation cache.

    python -m benchmarks.startup

Each reading is a fresh Python process, from its start to its end, in seconds, or with `--clock cpu` what it computes;
the rows take turns. "Python" is the interpreter alone. A warm cache is JAX's persistent one
(JAX_COMPILATION_CACHE_DIR), filled by an earlier process.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.records import Line

STEP = "from benchmarks.startup import first_step; first_step()"
README = "from gpvae_jax import bounds, likelihoods, model, networks, train; from gpvae_jax.methods import vae"
COMMANDS = {
    "Python": ("-c", "pass"),
    "import jax": ("-c", "import jax"),
    "import flax": ("-c", "import flax"),
    "import gpvae_jax": ("-c", "import gpvae_jax"),
    "import what training needs": ("-c", README),
    "gpvae --help": ("-m", "gpvae_jax", "--help"),
    "first step, cold cache": ("-c", STEP),
    "first step, warm cache": ("-c", STEP),
}


@dataclass(frozen=True)
class Settings(harness.Settings):
    """How often."""

    repeats: int = 5


def first_step() -> None:
    """One epoch of one batch of the fully connected VAE: everything compiled and run once."""
    import jax

    from benchmarks.cases import grey_images
    from gpvae_jax.build import build
    from gpvae_jax.config import Config, DataConfig
    from gpvae_jax.data import from_arrays
    from gpvae_jax.train import fit

    images = grey_images(128)
    setup = build(Config(data=DataConfig(binarization="dynamic")), from_arrays(images, images, images, levels=256))
    next(fit(setup.trainer, setup.data, jax.random.key(0), epochs=1))


def run(command: Settings) -> Iterator[Line]:
    """Processes in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm"
        _process(COMMANDS["first step, warm cache"], warm, command.clock)  # fills it
        for number in range(command.repeats):
            for name, arguments in COMMANDS.items():
                cache = warm if name.endswith("warm cache") else Path(folder) / str(number)
                seconds[name].append(_process(arguments, cache, command.clock))
    for name, values in seconds.items():
        low, median, high = (float(value) for value in np.percentile(values, (10, 50, 90)))
        yield Line("startup", name, {}, "s", median, low, high, len(values), {})


def _process(arguments: tuple[str, ...], cache: Path, clock: str) -> float:
    """Seconds of a Python process. Raises ValueError where it fails."""
    now = {"wall": time.perf_counter, "cpu": _cpu_of_children}[clock]
    of_cache = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    started = now()
    ended = subprocess.run([sys.executable, *arguments], env=os.environ | of_cache, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(f"`python {' '.join(arguments)}` failed: {ended.stderr.strip()[-300:]}")
    return now() - started


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    harness.main("startup", Settings, run, __doc__)
