"""What a GPU's faster matrix products do to the bounds, and what they save.

    python -m experiments.matmul_precision runs/table1/gpu-mlp/omniglot-gaussian-20/vae

JAX multiplies float32 matrices by default as TensorFloat-32 on NVIDIA's GPUs and as bfloat16 on TPUs; `gpvae` and the
experiments ask for float32. This evaluates one run's parameters, with the same noise, both ways, and times them. Half a
minute. On a CPU there is nothing to see: all products are of float32. Expected, on an H200: single images off by some
hundredths of a nat, means by thousandths, and half the time. Writes experiments/results/matmul_precision.json.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

from experiments.command_line import command_line
from gpvae_jax import runs
from gpvae_jax.commands import prepare_jax
from gpvae_jax.environment import environment
from gpvae_jax.evaluate.importance import importance_bounds
from gpvae_jax.evaluate.run import params_by_seed, split_examples
from gpvae_jax.files import write_json
from gpvae_jax.progress import say
from gpvae_jax.report import estimate

RESULTS = Path(__file__).parent / "results"
FASTER, EXACT = "default", "float32"


@dataclasses.dataclass(frozen=True)
class Precision:
    """Whose parameters, and on how many test images."""

    run: tyro.conf.Positional[Path]
    images: int = 500
    num_samples: int = 5000
    results: Path = RESULTS


def main(command: Precision) -> None:
    """Evaluate both ways and keep the differences."""
    prepare_jax()
    run = runs.open_run(command.run)
    params, x = params_by_seed(run)[0], split_examples(run, "test", command.images, 0)
    bounds: dict[str, dict[str, np.ndarray]] = {}
    seconds: dict[str, float] = {}
    for name in (FASTER, EXACT):
        with jax.default_matmul_precision(name):
            for _ in range(2):  # the first compiles
                started = time.perf_counter()
                bounds[name] = importance_bounds(
                    run.setup.method, run.setup.model, params, x, jax.random.key(0), num_samples=(command.num_samples,)
                )
                seconds[name] = time.perf_counter() - started
    found: dict[str, Any] = {}
    for bound in ("elbo", f"iwae_{command.num_samples}"):
        off = bounds[FASTER][bound].astype(np.float64) - bounds[EXACT][bound]
        found[bound] = {"off": estimate(off)._asdict(), "rms": np.sqrt(np.mean(off**2)), "most": np.abs(off).max()}
        say(f"{bound}: {FASTER} is {off.mean():+.4f} nats off on average, {np.abs(off).max():.3f} at most")
    say(f"Seconds: {FASTER} {seconds[FASTER]:.2f}, {EXACT} {seconds[EXACT]:.2f}")
    command.results.mkdir(parents=True, exist_ok=True)
    kept = {"images": len(x), "nats": found, "seconds": seconds, "environment": environment()}
    write_json(command.results / "matmul_precision.json", kept)


if __name__ == "__main__":
    command_line(main, Precision, __doc__)
